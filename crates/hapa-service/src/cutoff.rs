//! What ends a request before its answer is whole: its deadline, or a newer request of the same document.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Instant;

use tokio::time::Sleep;

use crate::documents::{Superseded, Ticket};
use crate::error::ServiceError;

/// Resolves, with the error, when the request must end.
#[derive(Debug, Default)]
pub(crate) struct Cutoff {
    superseded: Option<Superseded>,
    deadline: Option<Pin<Box<Sleep>>>,
}

impl Cutoff {
    pub(crate) fn new(ticket: Option<&Ticket>, deadline: Option<Instant>) -> Self {
        Self {
            superseded: ticket.map(Ticket::superseded),
            deadline: deadline.map(|at| Box::pin(tokio::time::sleep_until(at.into()))),
        }
    }
}

impl Future for Cutoff {
    type Output = ServiceError;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<ServiceError> {
        if let Some(superseded) = &mut self.superseded
            && Pin::new(superseded).poll(cx).is_ready()
        {
            *self = Self::default();
            return Poll::Ready(ServiceError::Superseded);
        }
        if let Some(deadline) = &mut self.deadline
            && deadline.as_mut().poll(cx).is_ready()
        {
            *self = Self::default();
            return Poll::Ready(ServiceError::DeadlinePassed);
        }
        Poll::Pending
    }
}

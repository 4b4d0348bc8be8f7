//! Who is the newest of the requests for a document.

use std::collections::HashMap;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};

use tokio::sync::watch;

/// The requests under way that name a document.
#[derive(Debug, Default)]
pub(crate) struct Documents(Mutex<Latest>);

#[derive(Debug, Default)]
struct Latest {
    next: u64,
    /// By namespace and document. Dropping the sender tells the request that it is superseded.
    tickets: HashMap<(String, String), (u64, watch::Sender<()>)>,
}

/// A request's place as the newest of its document. Clones share it; with the last one the document is forgotten.
#[derive(Debug, Clone)]
pub(crate) struct Ticket(Arc<Place>);

#[derive(Debug)]
struct Place {
    documents: Arc<Documents>,
    document: (String, String),
    number: u64,
    superseded: watch::Receiver<()>,
    took_over: bool,
}

impl Documents {
    /// Takes the document over; whoever had it is superseded.
    pub(crate) fn enter(self: &Arc<Self>, namespace: &str, document_id: &str) -> Ticket {
        let document = (namespace.to_owned(), document_id.to_owned());
        let (sender, superseded) = watch::channel(());
        let mut latest = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let number = latest.next;
        latest.next += 1;
        let took_over = latest.tickets.insert(document.clone(), (number, sender)).is_some();
        drop(latest);
        let documents = Arc::clone(self);
        Ticket(Arc::new(Place { documents, document, number, superseded, took_over }))
    }
}

impl Ticket {
    /// Whether another request had the document, which is on its way out.
    pub(crate) fn took_over(&self) -> bool {
        self.0.took_over
    }

    /// Resolves when a newer request has come.
    pub(crate) fn superseded(&self) -> Superseded {
        let mut receiver = self.0.superseded.clone();
        // Holds the place for as long as somebody wants to know.
        let ticket = self.clone();
        Superseded(Box::pin(async move {
            let _ticket = ticket;
            while receiver.changed().await.is_ok() {}
        }))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut latest = self.documents.0.lock().unwrap_or_else(PoisonError::into_inner);
        if latest.tickets.get(&self.document).is_some_and(|(number, _)| *number == self.number) {
            latest.tickets.remove(&self.document);
        }
    }
}

/// The wait for a newer request.
pub(crate) struct Superseded(Pin<Box<dyn Future<Output = ()> + Send>>);

impl Future for Superseded {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        self.0.as_mut().poll(cx)
    }
}

impl std::fmt::Debug for Superseded {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Superseded")
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    #[test]
    fn the_newest_of_a_document_counts() {
        let documents = Arc::new(Documents::default());
        let first = documents.enter("a", "doc");
        let mut waiting = first.superseded();
        let other_tenant = documents.enter("b", "doc");
        let other_document = documents.enter("a", "other");
        assert!((&mut waiting).now_or_never().is_none());
        let second = documents.enter("a", "doc");
        assert!(waiting.now_or_never().is_some());
        assert!(second.took_over() && !first.took_over() && !other_tenant.took_over());
        for ticket in [&second, &other_tenant, &other_document] {
            assert!(ticket.superseded().now_or_never().is_none());
        }
        drop(first);
        assert!(second.superseded().now_or_never().is_none(), "an old one's end changes nothing");
        drop((second, other_tenant, other_document));
        assert!(documents.0.lock().unwrap().tickets.is_empty());
    }
}

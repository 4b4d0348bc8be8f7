//! Several completions of one place: decoded as one batch, no two alike, the likeliest first.

use std::cmp::Ordering;

use futures_util::future::try_join_all;

use crate::answer::Answer;
use crate::error::{ErrorKind, ServiceError};
use crate::request::Request;
use crate::service::Service;

/// What the temperature of a second round is raised by, when the first one gave too few different texts.
const SECOND_ROUND_HEAT: f32 = 0.4;

impl Service {
    /// Up to `count` different answers to a request, the one that the model finds likeliest (by the mean log-probability of its
    /// tokens) first. There are fewer when the model does not vary; at least one, which may be empty.
    ///
    /// All of them are submitted at once: the engine reads their prompt once and decodes them as one batch. They are sampled with
    /// seeds, so asking again gives the same ones. Texts that differ only in blanks at their ends are one. Together they have at most
    /// `count` times the request's `max_tokens`, those that were too like another one among them.
    ///
    /// # Errors
    /// See [`ServiceError`].
    pub async fn candidates(
        &self,
        mut request: Request,
        count: usize,
    ) -> Result<Vec<Answer>, ServiceError> {
        // One place in the document for all: they don't supersede each other.
        let ticket = self.enter_document(&mut request);
        if count <= 1 {
            return Ok(vec![self.predict_as(request, ticket.as_ref()).await?]);
        }
        request.logprobs = request.logprobs.or(Some(0));
        let predict = |requests: Vec<Request>| {
            try_join_all(
                requests.into_iter().map(|request| self.predict_as(request, ticket.as_ref())),
            )
        };
        let mut answers = predict(request.clone().candidates(count)).await?;
        let generated: usize = answers.iter().map(|answer| answer.usage.generated_tokens).sum();
        keep_distinct(&mut answers);
        let missing = count - answers.len().min(count);
        // Both rounds together write no more than was asked for, which is what a caller may be charged for.
        let left = (request.max_tokens * count).saturating_sub(generated);
        let each = left.checked_div(missing).unwrap_or(0).min(request.max_tokens);
        if each > 0 {
            let mut again = request.candidates(count + missing).split_off(count);
            for request in &mut again {
                request.sampling.temperature += SECOND_ROUND_HEAT;
                request.max_tokens = each;
            }
            match predict(again).await {
                Ok(more) => answers.extend(more),
                // Those of the first round are good without them.
                Err(error) if error.kind() == ErrorKind::Overloaded => {}
                Err(error) => return Err(error),
            }
            keep_distinct(&mut answers);
        }
        answers.sort_by(|a, b| {
            let (a, b) = (rank(a), rank(b));
            b.partial_cmp(&a).unwrap_or(Ordering::Equal)
        });
        Ok(answers)
    }
}

/// Nothing to insert is no offer, however likely.
fn rank(answer: &Answer) -> f32 {
    match answer.text.trim().is_empty() {
        true => f32::NEG_INFINITY,
        false => answer.mean_logprob().unwrap_or(f32::MIN),
    }
}

/// Keeps the first of those with the same text, and an empty one only if there is no other.
fn keep_distinct(answers: &mut Vec<Answer>) {
    let mut seen: Vec<String> = Vec::new();
    let any_text = answers.iter().any(|answer| !answer.text.trim().is_empty());
    answers.retain(|answer| {
        let text = answer.text.trim();
        let is_empty_beside_others = any_text && text.is_empty();
        let is_new = !is_empty_beside_others && !seen.iter().any(|other| other == text);
        if is_new {
            seen.push(text.to_owned());
        }
        is_new
    });
}

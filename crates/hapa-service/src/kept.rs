//! An answer as the cache keeps it, in memory and outside the process.

use std::sync::Arc;

use hapa_cache::{Digest, KeyDigest, Persist, Weigh};
use hapa_model::{FinishReason, Usage};
use serde::{Deserialize, Serialize};

use crate::answer::{Answer, CacheOutcome, CacheReport, Timings, TokenScore};
use crate::post::SyntaxReport;

/// An answer in the cache.
#[derive(Debug, Clone)]
pub(crate) struct CachedAnswer(pub(crate) Arc<Answer>);

impl Weigh for CachedAnswer {
    fn heap_bytes(&self) -> usize {
        self.0.weight_bytes()
    }
}

/// What of an answer is kept on disk or in Redis: all but what belongs to one request. Times and the receipt of the
/// cache are made anew for each request.
#[derive(Serialize, Deserialize)]
struct Kept {
    text: String,
    code: Option<String>,
    explanation: Option<String>,
    syntax: SyntaxReport,
    finish: KeptFinish,
    prompt_tokens: usize,
    cached_tokens: usize,
    generated_tokens: usize,
    drafted_tokens: usize,
    accepted_tokens: usize,
    model: String,
    logprobs: Option<Vec<TokenScore>>,
}

/// Only whole answers are kept.
#[derive(Serialize, Deserialize)]
enum KeptFinish {
    Stop,
    StopString(String),
}

impl Persist for CachedAnswer {
    /// Raise it when [`Kept`] changes.
    const SCHEMA: u32 = 3;

    fn write_to(&self, bytes: &mut Vec<u8>) {
        let answer = &*self.0;
        let Usage {
            prompt_tokens,
            cached_tokens,
            generated_tokens,
            drafted_tokens,
            accepted_tokens,
            // Those of the request that computed it.
            kv_pages: _,
            kv_bytes: _,
        } = answer.usage;
        let kept = Kept {
            text: answer.text.clone(),
            code: answer.code.clone(),
            explanation: answer.explanation.clone(),
            syntax: answer.syntax.clone(),
            finish: match &answer.stop_string {
                Some(stop) => KeptFinish::StopString(stop.clone()),
                None => KeptFinish::Stop,
            },
            prompt_tokens,
            cached_tokens,
            generated_tokens,
            drafted_tokens,
            accepted_tokens,
            model: answer.model.to_string(),
            logprobs: answer.logprobs.clone(),
        };
        match postcard::to_extend(&kept, std::mem::take(bytes)) {
            Ok(written) => *bytes = written,
            // Texts and numbers can be written. Nothing is no answer: it would be a miss.
            Err(error) => tracing::warn!(%error, "an answer could not be written for the cache"),
        }
    }

    fn read_from(bytes: &[u8]) -> Option<Self> {
        let kept: Kept = postcard::from_bytes(bytes).ok()?;
        let (finish, stop_string) = match kept.finish {
            KeptFinish::Stop => (FinishReason::Stop, None),
            KeptFinish::StopString(stop) => (FinishReason::StopString, Some(stop)),
        };
        let unknown = Digest::from_bytes([0; 32]);
        let digest = KeyDigest { key: unknown, prompt_hash: unknown, context_hash: None };
        Some(Self(Arc::new(Answer {
            text: kept.text,
            code: kept.code,
            explanation: kept.explanation,
            syntax: kept.syntax,
            finish,
            stop_string,
            usage: Usage {
                prompt_tokens: kept.prompt_tokens,
                cached_tokens: kept.cached_tokens,
                generated_tokens: kept.generated_tokens,
                drafted_tokens: kept.drafted_tokens,
                accepted_tokens: kept.accepted_tokens,
                ..Usage::default()
            },
            model: Arc::from(kept.model),
            logprobs: kept.logprobs,
            // The stream puts the request's own receipt here.
            cache: CacheReport::new(CacheOutcome::HitL2, &digest),
            timings: Timings::default(),
        })))
    }
}

impl CachedAnswer {
    /// The rest of a completion whose first bytes were typed meanwhile.
    pub(crate) fn tail(&self, typed_bytes: usize) -> Option<Arc<Answer>> {
        let text = self.0.text.get(typed_bytes..)?.to_owned();
        let mut answer = Answer::clone(&self.0);
        answer.code = Some(text.clone());
        answer.text = text;
        answer.logprobs = answer.logprobs.map(|scores| {
            let mut at = 0;
            let begins = |score: &TokenScore| {
                at += score.bytes.len();
                at <= typed_bytes
            };
            scores.into_iter().skip_while(begins).collect()
        });
        Some(Arc::new(answer))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::post::validate_python;

    fn answer() -> CachedAnswer {
        let digest =
            KeyDigest { key: Digest::of(b"k"), prompt_hash: Digest::of(b"p"), context_hash: None };
        CachedAnswer(Arc::new(Answer {
            text: "Here:\n```python\ndef f(:\n```".to_owned(),
            code: Some("def f(:\n".to_owned()),
            explanation: Some("Here:".to_owned()),
            syntax: validate_python("def f(:\n"),
            finish: FinishReason::StopString,
            stop_string: Some("\n```\n".to_owned()),
            usage: Usage { prompt_tokens: 7, generated_tokens: 9, ..Usage::default() },
            model: Arc::from("m"),
            logprobs: Some(vec![TokenScore { bytes: vec![72], logprob: -0.5, top: Vec::new() }]),
            cache: CacheReport::new(CacheOutcome::Miss, &digest),
            timings: Timings::default(),
        }))
    }

    #[test]
    fn an_answer_comes_back_whole() {
        let (answer, mut bytes) = (answer(), Vec::new());
        answer.write_to(&mut bytes);
        let back = CachedAnswer::read_from(&bytes).unwrap();
        let expected = Answer { cache: back.0.cache.clone(), ..Answer::clone(&answer.0) };
        assert_eq!(*back.0, expected);
        assert!(!expected.syntax.issues.is_empty(), "issues were part of it");
        assert!(CachedAnswer::read_from(&bytes[..bytes.len() - 1]).is_none());
    }

    #[test]
    fn a_tail_is_cut_between_characters_only() {
        let mut whole = Answer::clone(&answer().0);
        whole.text = "größe".to_owned();
        let kept = CachedAnswer(Arc::new(whole));
        assert_eq!(kept.tail(2).unwrap().text, "öße");
        assert!(kept.tail(3).is_none() && kept.tail(99).is_none());
    }
}

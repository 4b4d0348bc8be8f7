//! The timeline of a request, for those that have an id.

use std::time::{Duration, Instant};

use hapa_model::{Finish, TracedStep};
use hapa_profiler::{Lane, TraceCollector};

use crate::answer::Answer;
use crate::generate::Held;
use crate::request::Request;

/// Where the stages of one request are noted; nowhere for a request without an id.
#[derive(Debug, Clone, Default)]
pub(crate) struct Timeline(Option<Lane>);

impl Timeline {
    pub(crate) fn of(request: &Request, traces: &TraceCollector) -> Self {
        Self(request.request_id.as_deref().map(|id| traces.join(id).lane()))
    }

    fn stage(&self, name: &str, began: Instant, took: Duration, args: &[(&str, &str)]) {
        if let Some(lane) = &self.0 {
            lane.record(name, began, took, args);
        }
    }

    pub(crate) fn looked_up(&self, began: Instant, hit: bool) {
        let args = [("tier", "l1"), ("outcome", if hit { "hit" } else { "miss" })];
        self.stage("cache_lookup", began, began.elapsed(), &args);
    }

    pub(crate) fn loaded(&self, held: &Held) {
        self.stage("model_loading", held.began, held.waited, &[]);
    }

    pub(crate) fn prompt(&self, began: Instant, tokens: usize) {
        self.stage("prompt", began, began.elapsed(), &[("tokens", &tokens.to_string())]);
    }

    /// The engine's stages, of a generation that was submitted at `submitted`.
    pub(crate) fn generated(&self, submitted: Instant, finish: &Finish) {
        if self.0.is_none() {
            return;
        }
        let (timings, usage) = (&finish.timings, &finish.usage);
        self.stage("queue", submitted, timings.queue, &[]);
        let admitted = submitted + timings.queue;
        let prompt = usage.prompt_tokens.to_string();
        let cached = usage.cached_tokens.to_string();
        let args = [("tokens", prompt.as_str()), ("cached_tokens", cached.as_str())];
        self.stage("prefill", admitted, timings.prefill, &args);
        for chunk in &finish.prefill_chunks {
            let tokens = chunk.tokens.to_string();
            // Clipped: the first token is sampled a moment after the step that gave its logits.
            let began = chunk.began.max(admitted);
            let end = (chunk.began + chunk.took).min(admitted + timings.prefill);
            let took = end.saturating_duration_since(began);
            self.stage("prefill_chunk", began, took, &[("tokens", &tokens)]);
        }
        let tokens = usage.generated_tokens.to_string();
        let (drafted, accepted) =
            (usage.drafted_tokens.to_string(), usage.accepted_tokens.to_string());
        let args = [
            ("tokens", tokens.as_str()),
            ("drafted_tokens", drafted.as_str()),
            ("accepted_tokens", accepted.as_str()),
        ];
        self.stage("decode", admitted + timings.prefill, timings.decode, &args);
        finish.steps.iter().for_each(|step| self.step(step));
    }

    /// A step of the engine: its layers, and in each of them its kernels.
    fn step(&self, step: &TracedStep) {
        self.stage("step", step.began, step.took, &[("rows", &step.rows.to_string())]);
        for layer in step.kernels.chunk_by(|one, next| one.layer == next.layer) {
            if let [first, .., last] = layer
                && let Some(number) = first.layer
            {
                let took = (last.began + last.took).saturating_duration_since(first.began);
                self.stage(&format!("layer {number}"), first.began, took, &[]);
            }
            for span in layer {
                self.stage(span.kernel.as_str(), span.began, span.took, &[]);
            }
        }
    }

    pub(crate) fn post_processed(&self, began: Instant) {
        self.stage("post_processing", began, began.elapsed(), &[]);
    }

    /// The whole of it, when the caller has its answer.
    pub(crate) fn answered(&self, began: Instant, answer: &Answer) {
        let args = [("cache", answer.cache.outcome.as_str()), ("model", &answer.model)];
        self.stage("request", began, answer.timings.total, &args);
    }
}

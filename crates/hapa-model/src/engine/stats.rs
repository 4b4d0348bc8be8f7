//! Figures about the engine: a snapshot for callers, and metrics through the `metrics` facade.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use metrics::{Counter, Gauge, Histogram, counter, gauge, histogram};

use crate::backend::KvUsage;

/// What an engine is doing and has done since it started.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct EngineStats {
    /// Sequences in the batch or put aside for want of KV pages.
    pub running: usize,
    /// Requests in the queue.
    pub waiting: usize,
    /// Prompt tokens of the requests in the queue.
    pub waiting_tokens: usize,
    /// Prompt tokens that the batch has still to read.
    pub unread_tokens: usize,
    /// Speed of reading prompts lately, as an exponentially weighted mean; `None` before the first.
    pub prompt_tokens_per_second: Option<f64>,
    /// Speed of writing lately, of as many sequences as run now (or of one) together; `None` before the first.
    pub generated_tokens_per_second: Option<f64>,
    /// KV cache occupancy.
    pub kv: KvUsage,
    /// Batches computed.
    pub steps: u64,
    /// Prompt tokens of the requests taken up.
    pub prompt_tokens: u64,
    /// Those of them found in the prefix cache.
    pub cached_tokens: u64,
    /// Tokens generated.
    pub generated_tokens: u64,
    /// Tokens proposed by speculation.
    pub drafted_tokens: u64,
    /// Those of them accepted.
    pub accepted_tokens: u64,
    /// Memory of recent answers that drafts are taken from.
    pub recent_answer_bytes: usize,
    /// Requests that ended with an answer.
    pub finished_requests: u64,
    /// Requests whose reader went away.
    pub cancelled_requests: u64,
    /// Requests that ended with an error.
    pub failed_requests: u64,
    /// Times a sequence was put aside for want of KV pages.
    pub preemptions: u64,
    /// Times the executor was made anew after a panic.
    pub rebuilds: u64,
}

/// Handles of the metrics, looked up once: recording one allocates nothing.
///
/// They bind to the recorder that is current on the thread that makes the engine.
pub(super) struct Instruments {
    running: Share,
    waiting: Share,
    waiting_tokens: Share,
    pub(super) prompt_tokens: Counter,
    pub(super) generated_tokens: Counter,
    pub(super) time_to_first_token: Histogram,
    pub(super) inter_token_latency: Histogram,
    pub(super) queue_seconds: Histogram,
    pub(super) prefill_seconds: Histogram,
    pub(super) decode_seconds: Histogram,
    kv_usage: KvShare,
    pub(super) prefix_queried: Counter,
    pub(super) prefix_hit: Counter,
    pub(super) drafted: Counter,
    pub(super) accepted: Counter,
}

impl Instruments {
    pub(super) fn new() -> Self {
        Self {
            running: Share::of(gauge!("hapa_requests_running")),
            waiting: Share::of(gauge!("hapa_requests_waiting")),
            waiting_tokens: Share::of(gauge!("hapa_queue_tokens")),
            prompt_tokens: counter!("hapa_prompt_tokens_total"),
            generated_tokens: counter!("hapa_generated_tokens_total"),
            time_to_first_token: histogram!("hapa_time_to_first_token_seconds"),
            inter_token_latency: histogram!("hapa_inter_token_latency_seconds"),
            queue_seconds: histogram!("hapa_request_queue_seconds"),
            prefill_seconds: histogram!("hapa_request_prefill_seconds"),
            decode_seconds: histogram!("hapa_request_decode_seconds"),
            kv_usage: KvShare::of(gauge!("hapa_kv_cache_usage_ratio")),
            prefix_queried: counter!("hapa_prefix_cache_queried_tokens_total"),
            prefix_hit: counter!("hapa_prefix_cache_hit_tokens_total"),
            drafted: counter!("hapa_speculative_drafted_tokens_total"),
            accepted: counter!("hapa_speculative_accepted_tokens_total"),
        }
    }

    pub(super) fn running(&self, sequences: usize) {
        self.running.set(sequences);
    }

    pub(super) fn waiting(&self, requests: usize, tokens: usize) {
        self.waiting.set(requests);
        self.waiting_tokens.set(tokens);
    }

    /// Cached pages count as free: they are given up as soon as somebody needs them.
    pub(super) fn kv(&self, usage: KvUsage) {
        self.kv_usage.set(usage.held_pages, usage.total_pages);
    }
}

/// What one engine adds to a gauge of all engines of the process.
struct Share {
    gauge: Gauge,
    shown: AtomicUsize,
}

impl Share {
    fn of(gauge: Gauge) -> Self {
        Self { gauge, shown: AtomicUsize::new(0) }
    }

    fn set(&self, value: usize) {
        let before = self.shown.swap(value, Ordering::Relaxed);
        self.gauge.increment(value as f64 - before as f64);
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.set(0);
    }
}

/// KV pages of all engines of the process: held, all.
static KV_PAGES: [AtomicUsize; 2] = [AtomicUsize::new(0), AtomicUsize::new(0)];

/// One engine's part of those.
struct KvShare {
    gauge: Gauge,
    shown: [AtomicUsize; 2],
}

impl KvShare {
    fn of(gauge: Gauge) -> Self {
        Self { gauge, shown: [AtomicUsize::new(0), AtomicUsize::new(0)] }
    }

    fn set(&self, held: usize, all: usize) {
        for ((value, shown), sum) in [held, all].into_iter().zip(&self.shown).zip(&KV_PAGES) {
            let before = shown.swap(value, Ordering::Relaxed);
            // Wraps around where it becomes less.
            sum.fetch_add(value.wrapping_sub(before), Ordering::Relaxed);
        }
        let [held, all] = KV_PAGES.each_ref().map(|sum| sum.load(Ordering::Relaxed));
        self.gauge.set(if all == 0 { 0.0 } else { held as f64 / all as f64 });
    }
}

impl Drop for KvShare {
    fn drop(&mut self) {
        self.set(0, 0);
    }
}

/// Records a duration in seconds.
pub(super) fn record(histogram: &Histogram, duration: Duration) {
    histogram.record(duration.as_secs_f64());
}

//! The table: every metric of HAPA, once.

use crate::{
    buckets,
    labels::{
        Arch, Endpoint, Method, Model, ModelState, Os, Profile, Rejection, Scope, Status, Task,
        Tier, UnloadCause, Version,
    },
    spec::{Counter, Gauge, Histogram, MetricSpec, Unit},
};

macro_rules! table {
    ($($name:ident: $kind:ident<$labels:ty> = ($wire:literal, $unit:ident $(, $buckets:ident)?) $help:literal;)+) => {
        $(
            #[doc = concat!("`", $wire, "`: ", $help)]
            pub const $name: $kind<$labels> =
                $kind::new($wire, Unit::$unit, $(buckets::$buckets,)? $help);
        )+

        /// Every metric, in the order of `docs/metrics.md`.
        pub const ALL: &[MetricSpec] = &[$(*$name.spec()),+];
    };
}

table! {
    API_REQUESTS_TOTAL: Counter<(Method, Endpoint, Status)> = ("api_requests_total", Requests)
        "HTTP requests answered.";
    API_REQUEST_DURATION_SECONDS: Histogram<(Method, Endpoint)> = ("api_request_duration_seconds", Seconds, REQUEST)
        "Time from the request's head to the end of its response body.";
    API_REQUESTS_IN_FLIGHT: Gauge<()> = ("hapa_http_requests_in_flight", Requests)
        "HTTP requests being answered now.";
    AI_INFERENCE_DURATION_SECONDS: Histogram<Task> = ("ai_inference_duration_seconds", Seconds, INFERENCE)
        "Time of one generation, from the engine's queue to the last token; answers out of the cache do not count.";
    TIME_TO_FIRST_TOKEN_SECONDS: Histogram<()> = ("hapa_time_to_first_token_seconds", Seconds, FIRST_TOKEN)
        "Time from entering the engine's queue to the first generated token.";
    INTER_TOKEN_LATENCY_SECONDS: Histogram<()> = ("hapa_inter_token_latency_seconds", Seconds, INTER_TOKEN)
        "Time between two tokens of one generation.";
    REQUEST_QUEUE_SECONDS: Histogram<()> = ("hapa_request_queue_seconds", Seconds, STAGE)
        "Time a generation waited before its first step.";
    REQUEST_PREFILL_SECONDS: Histogram<()> = ("hapa_request_prefill_seconds", Seconds, STAGE)
        "Time from the first step of a generation to its first token.";
    REQUEST_DECODE_SECONDS: Histogram<()> = ("hapa_request_decode_seconds", Seconds, STAGE)
        "Time from the first token of a generation to its last.";
    PROMPT_TOKENS_TOTAL: Counter<()> = ("hapa_prompt_tokens_total", Tokens)
        "Prompt tokens of generations, those out of the prefix cache included.";
    GENERATED_TOKENS_TOTAL: Counter<()> = ("hapa_generated_tokens_total", Tokens)
        "Tokens generated.";
    REQUESTS_RUNNING: Gauge<()> = ("hapa_requests_running", Requests)
        "Generations in the engine's batch.";
    REQUESTS_WAITING: Gauge<()> = ("hapa_requests_waiting", Requests)
        "Generations in the engine's queue.";
    QUEUE_TOKENS: Gauge<()> = ("hapa_queue_tokens", Tokens)
        "Prompt tokens of the generations in the engine's queue.";
    KV_CACHE_USAGE_RATIO: Gauge<()> = ("hapa_kv_cache_usage_ratio", Ratio)
        "Part of the key-value pages held by running generations.";
    PREFIX_CACHE_QUERIED_TOKENS_TOTAL: Counter<()> = ("hapa_prefix_cache_queried_tokens_total", Tokens)
        "Prompt tokens looked up in the prefix cache.";
    PREFIX_CACHE_HIT_TOKENS_TOTAL: Counter<()> = ("hapa_prefix_cache_hit_tokens_total", Tokens)
        "Prompt tokens found in the prefix cache, and not computed again.";
    SPECULATIVE_DRAFTED_TOKENS_TOTAL: Counter<()> = ("hapa_speculative_drafted_tokens_total", Tokens)
        "Tokens proposed by speculation.";
    SPECULATIVE_ACCEPTED_TOKENS_TOTAL: Counter<()> = ("hapa_speculative_accepted_tokens_total", Tokens)
        "Proposed tokens that the model confirmed.";
    CACHE_HIT_RATE: Gauge<()> = ("cache_hit_rate", Percent)
        "Part of cache lookups answered out of any tier since the start; computed from the counters below.";
    CACHE_HITS_TOTAL: Counter<Tier> = ("hapa_cache_hits_total", Requests)
        "Lookups answered by this tier of the response cache.";
    CACHE_MISSES_TOTAL: Counter<Tier> = ("hapa_cache_misses_total", Requests)
        "Lookups that this tier of the response cache could not answer.";
    CACHE_EVICTIONS_TOTAL: Counter<Tier> = ("hapa_cache_evictions_total", Count)
        "Entries removed to keep this tier within its budget.";
    CACHE_SHARED_TOTAL: Counter<()> = ("hapa_cache_shared_total", Requests)
        "Requests that shared the generation of an identical request in flight.";
    CACHE_BYTES: Gauge<Tier> = ("hapa_cache_bytes", Bytes)
        "Bytes held by this tier of the response cache.";
    CACHE_ENTRIES: Gauge<Tier> = ("hapa_cache_entries", Count)
        "Entries held by this tier of the response cache.";
    CACHE_BREAKER_OPEN: Gauge<Tier> = ("hapa_cache_breaker_open", Count)
        "1 while this tier is left out because it failed repeatedly, else 0.";
    MODEL_LOAD_SECONDS: Histogram<()> = ("hapa_model_load_seconds", Seconds, LOAD)
        "Time to bring a model from its files to serving.";
    MODEL_STATE: Gauge<(Model, ModelState)> = ("hapa_model_state", Count)
        "1 for the state a model is in, 0 for the others; shown from its first load on.";
    MODEL_BYTES: Gauge<Model> = ("hapa_model_bytes", Bytes)
        "Memory that a model holds at most: weights, KV cache, buffers; 0 while it is not loaded.";
    MODEL_UNLOADS_TOTAL: Counter<UnloadCause> = ("hapa_model_unloads_total", Count)
        "Models unloaded: idle for too long, to make room for another, or because somebody asked.";
    REJECTED_TOTAL: Counter<Rejection> = ("hapa_rejected_total", Requests)
        "Requests turned away, or ended by their deadline, without an answer.";
    SCOPE_CALLS_TOTAL: Counter<Scope> = ("hapa_scope_calls_total", Count)
        "Calls of a profiler scope.";
    SCOPE_SELF_SECONDS_TOTAL: Counter<Scope> = ("hapa_scope_self_seconds_total", Seconds)
        "Time spent in a profiler scope itself, without the scopes inside it.";
    RUNTIME_WORKERS: Gauge<()> = ("hapa_runtime_workers", Count)
        "Worker threads of the async runtime.";
    RUNTIME_ALIVE_TASKS: Gauge<()> = ("hapa_runtime_alive_tasks", Count)
        "Tasks of the async runtime that are alive.";
    RUNTIME_QUEUE_DEPTH: Gauge<()> = ("hapa_runtime_queue_depth", Count)
        "Tasks waiting in the async runtime's global queue.";
    PROCESS_CPU_SECONDS_TOTAL: Counter<()> = ("hapa_process_cpu_seconds_total", Seconds)
        "User and system time of the process.";
    PROCESS_RESIDENT_BYTES: Gauge<()> = ("hapa_process_resident_bytes", Bytes)
        "Resident memory of the process.";
    PROCESS_PEAK_RESIDENT_BYTES: Gauge<()> = ("hapa_process_peak_resident_bytes", Bytes)
        "Largest resident memory so far, as the system or the last scrapes saw it.";
    PROCESS_MEMORY_RATIO: Gauge<()> = ("hapa_process_memory_ratio", Ratio)
        "Resident memory as a part of the memory that the process may use (the container's limit, else the machine's).";
    PROCESS_OPEN_FILES: Gauge<()> = ("hapa_process_open_files", Count)
        "Open file descriptors.";
    PROCESS_MAX_OPEN_FILES: Gauge<()> = ("hapa_process_max_open_files", Count)
        "Limit of open file descriptors.";
    PROCESS_THREADS: Gauge<()> = ("hapa_process_threads", Count)
        "Threads of the process.";
    PROCESS_START_TIME_SECONDS: Gauge<()> = ("hapa_process_start_time_seconds", Seconds)
        "When the exporter was made, at the start of the program, in seconds since 1970.";
    PROCESS_UPTIME_SECONDS: Gauge<()> = ("hapa_process_uptime_seconds", Seconds)
        "Time since the exporter was made.";
    BUILD_INFO: Gauge<(Version, Arch, Os, Profile)> = ("hapa_build_info", Count)
        "1, with the facts of the build as labels.";
    METRICS_SERIES: Gauge<()> = ("hapa_metrics_series", Count)
        "Time series that the exporter holds.";
    METRICS_OVERFLOW_TOTAL: Counter<()> = ("hapa_metrics_overflow_total", Count)
        "Look-ups of series beyond the limits, folded into a series whose labels are `other`.";
}

/// Describes every metric to the recorder in force. [`crate::Exporter`] needs no such call; other
/// recorders do.
pub fn describe_all() {
    for spec in ALL {
        spec.describe();
    }
}

/// The specification of that name.
pub fn find(name: &str) -> Option<&'static MetricSpec> {
    ALL.iter().find(|spec| spec.name == name)
}

//! What two looks at a server say together: rates and percentiles of the time between them.

use std::collections::VecDeque;

use serde::Serialize;
use serde_json::Value;

use super::sample::{Metrics, Sample};

/// Points kept of each curve.
const HISTORY: usize = 240;

/// Everything on the screen.
#[derive(Debug, Clone, Default, Serialize)]
pub(super) struct View {
    pub(super) model: String,
    pub(super) model_state: String,
    pub(super) version: String,
    pub(super) uptime_seconds: f64,
    pub(super) requests_per_second: f64,
    pub(super) errors_per_second: f64,
    pub(super) in_flight: f64,
    pub(super) running: f64,
    pub(super) waiting: f64,
    pub(super) prompt_tokens_per_second: f64,
    pub(super) generated_tokens_per_second: f64,
    pub(super) latencies: Vec<Latency>,
    pub(super) cache_hit_percent: Option<f64>,
    pub(super) caches: Vec<Cache>,
    pub(super) shared_per_second: f64,
    pub(super) kv_usage: f64,
    pub(super) prefix_hit: Option<f64>,
    pub(super) accepted: Option<f64>,
    pub(super) cpu_cores: f64,
    pub(super) resident_bytes: f64,
    pub(super) memory_ratio: f64,
    pub(super) threads: f64,
    pub(super) open_files: f64,
    pub(super) endpoints: Vec<Endpoint>,
    pub(super) scopes: Vec<Scope>,
    #[serde(skip)]
    pub(super) history: History,
}

/// Curves, the newest point last.
#[derive(Debug, Clone, Default)]
pub(super) struct History {
    pub(super) tokens: VecDeque<u64>,
    pub(super) requests: VecDeque<u64>,
}

/// Percentiles of a histogram, in seconds; `None` when nothing was recorded in between.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(super) struct Latency {
    pub(super) name: &'static str,
    pub(super) p50: Option<f64>,
    pub(super) p95: Option<f64>,
    pub(super) p99: Option<f64>,
}

/// One tier of the response cache.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(super) struct Cache {
    pub(super) tier: String,
    pub(super) hits_per_second: f64,
    pub(super) misses_per_second: f64,
    pub(super) bytes: f64,
    pub(super) entries: f64,
}

/// One route.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(super) struct Endpoint {
    pub(super) name: String,
    pub(super) count: u64,
    pub(super) p50: f64,
    pub(super) p99: f64,
}

/// One scope of the profiler.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(super) struct Scope {
    pub(super) name: String,
    pub(super) calls_per_second: f64,
    /// Self time as a part of one core.
    pub(super) busy: f64,
}

/// The label of requests that ask for work.
const WORK: &str = "method=\"POST\"";

const LATENCIES: &[(&str, &str)] = &[
    ("request", "api_request_duration_seconds"),
    ("first token", "hapa_time_to_first_token_seconds"),
    ("next token", "hapa_inter_token_latency_seconds"),
    ("queue", "hapa_request_queue_seconds"),
    ("prefill", "hapa_request_prefill_seconds"),
    ("decode", "hapa_request_decode_seconds"),
];

impl View {
    /// Rates since the look `before`; percentiles and shares since an earlier one. Requests are those for work: who only looks,
    /// as this program does, is left out.
    pub(super) fn between((earlier, before): (&Sample, &Sample), after: &Sample) -> Self {
        let seconds = (after.at - before.at).as_secs_f64().max(1e-3);
        let (old, new) = (&before.metrics, &after.metrics);
        // A server that was started anew counts from zero again.
        let grown = |name: &str, with: &str| (new.sum(name, with) - old.sum(name, with)).max(0.0);
        let rate = |name: &str, with: &str| grown(name, with) / seconds;
        let longer = |name: &str, with: &str| {
            (new.sum(name, with) - earlier.metrics.sum(name, with)).max(0.0)
        };
        let part = |of: &str, whole: &str| {
            let whole = longer(whole, "");
            (whole > 0.0).then(|| longer(of, "") / whole)
        };
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let lookups = longer("hapa_cache_hits_total", "tier=\"l1\"")
            + longer("hapa_cache_misses_total", "tier=\"l1\"");
        Self {
            model: text(&after.stats["model"]["name"]),
            model_state: text(&after.stats["model"]["state"]),
            version: text(&after.stats["version"]),
            uptime_seconds: after.stats["uptime_seconds"].as_f64().unwrap_or(0.0),
            requests_per_second: rate("api_requests_total", WORK),
            errors_per_second: rate("api_requests_total", "status=\"5"),
            // The one that asks is in flight, too.
            in_flight: (new.sum("hapa_http_requests_in_flight", "") - 1.0).max(0.0),
            running: new.sum("hapa_requests_running", ""),
            waiting: new.sum("hapa_requests_waiting", ""),
            prompt_tokens_per_second: rate("hapa_prompt_tokens_total", ""),
            generated_tokens_per_second: rate("hapa_generated_tokens_total", ""),
            latencies: LATENCIES
                .iter()
                .map(|(name, metric)| latency(name, metric, &earlier.metrics, new))
                .collect(),
            cache_hit_percent: (lookups > 0.0)
                .then(|| 100.0 * longer("hapa_cache_hits_total", "") / lookups),
            caches: caches(old, new, seconds),
            shared_per_second: rate("hapa_cache_shared_total", ""),
            kv_usage: new.sum("hapa_kv_cache_usage_ratio", ""),
            prefix_hit: part(
                "hapa_prefix_cache_hit_tokens_total",
                "hapa_prefix_cache_queried_tokens_total",
            ),
            accepted: part(
                "hapa_speculative_accepted_tokens_total",
                "hapa_speculative_drafted_tokens_total",
            ),
            cpu_cores: rate("hapa_process_cpu_seconds_total", ""),
            resident_bytes: new.sum("hapa_process_resident_bytes", ""),
            memory_ratio: new.sum("hapa_process_memory_ratio", ""),
            threads: new.sum("hapa_process_threads", ""),
            open_files: new.sum("hapa_process_open_files", ""),
            endpoints: endpoints(&after.stats),
            scopes: scopes(old, new, seconds),
            history: History::default(),
        }
    }

    /// Goes on with the curves of the view before.
    pub(super) fn with_history(mut self, mut history: History) -> Self {
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "a point of a curve"
        )]
        let point = |rate: f64| (rate * 10.0).round().max(0.0) as u64;
        for (curve, rate) in [
            (&mut history.tokens, self.generated_tokens_per_second),
            (&mut history.requests, self.requests_per_second),
        ] {
            if curve.len() >= HISTORY {
                curve.pop_front();
            }
            curve.push_back(point(rate));
        }
        self.history = history;
        self
    }
}

fn latency(name: &'static str, metric: &str, old: &Metrics, new: &Metrics) -> Latency {
    let with = if metric == "api_request_duration_seconds" { WORK } else { "" };
    let before = old.buckets(metric, with);
    let grown: Vec<(f64, f64)> = new
        .buckets(metric, with)
        .into_iter()
        .map(|(bound, count)| {
            let former = before.iter().find(|(other, _)| *other == bound).map_or(0.0, |(_, n)| *n);
            (bound, (count - former).max(0.0))
        })
        .collect();
    let at = |q: f64| quantile(&grown, q);
    Latency { name, p50: at(0.5), p95: at(0.95), p99: at(0.99) }
}

/// As Prometheus' `histogram_quantile`: linear within a bucket; above the last bound, that bound.
fn quantile(cumulative: &[(f64, f64)], q: f64) -> Option<f64> {
    let total = cumulative.last()?.1;
    if total <= 0.0 {
        return None;
    }
    let rank = q * total;
    let at = cumulative.iter().position(|(_, count)| *count >= rank)?;
    let (low, below) = if at == 0 { (0.0, 0.0) } else { cumulative[at - 1] };
    let (high, count) = cumulative[at];
    if high.is_infinite() {
        return Some(low);
    }
    let inside = count - below;
    Some(if inside > 0.0 { low + (high - low) * (rank - below) / inside } else { high })
}

fn caches(old: &Metrics, new: &Metrics, seconds: f64) -> Vec<Cache> {
    let sizes = new.by_label("hapa_cache_bytes", "tier");
    sizes
        .into_iter()
        .map(|(tier, bytes)| {
            let label = format!("tier=\"{tier}\"");
            let rate = |name| (new.sum(name, &label) - old.sum(name, &label)).max(0.0) / seconds;
            Cache {
                hits_per_second: rate("hapa_cache_hits_total"),
                misses_per_second: rate("hapa_cache_misses_total"),
                entries: new.sum("hapa_cache_entries", &label),
                bytes,
                tier,
            }
        })
        .collect()
}

fn endpoints(stats: &Value) -> Vec<Endpoint> {
    let list = stats["response_times"].as_array().map_or(&[][..], Vec::as_slice);
    let one = |value: &Value| {
        Some(Endpoint {
            name: format!("{} {}", value["method"].as_str()?, value["endpoint"].as_str()?),
            count: value["count"].as_u64()?,
            p50: value["p50_seconds"].as_f64()?,
            p99: value["p99_seconds"].as_f64()?,
        })
    };
    list.iter().filter_map(one).collect()
}

fn scopes(old: &Metrics, new: &Metrics, seconds: f64) -> Vec<Scope> {
    let (own, calls) = ("hapa_scope_self_seconds_total", "hapa_scope_calls_total");
    let (busy_before, calls_before) = (old.by_label(own, "scope"), old.by_label(calls, "scope"));
    let calls = new.by_label(calls, "scope");
    let rate =
        |after: f64, before: Option<&f64>| (after - before.unwrap_or(&0.0)).max(0.0) / seconds;
    let mut scopes: Vec<Scope> = new
        .by_label(own, "scope")
        .into_iter()
        .map(|(name, busy)| Scope {
            calls_per_second: rate(
                calls.get(&name).copied().unwrap_or(0.0),
                calls_before.get(&name),
            ),
            busy: rate(busy, busy_before.get(&name)),
            name,
        })
        .collect();
    scopes.sort_by(|a, b| b.busy.total_cmp(&a.busy));
    scopes
}

#[cfg(test)]
pub(super) mod tests {
    use std::time::{Duration, Instant};

    use serde_json::json;

    use super::*;

    /// Two looks, two seconds apart, at a server under load.
    pub(crate) fn view() -> View {
        let text = |n: f64| {
            format!(
                "api_requests_total{{method=\"POST\",endpoint=\"/a\",status=\"200\"}} {}\n\
                 api_requests_total{{method=\"POST\",endpoint=\"/a\",status=\"503\"}} {}\n\
                 api_requests_total{{method=\"GET\",endpoint=\"/metrics\",status=\"200\"}} {}\n\
                 hapa_generated_tokens_total {}\nhapa_requests_running 3\nhapa_requests_waiting 2\n\
                 hapa_kv_cache_usage_ratio 0.25\nhapa_process_resident_bytes 734003200\n\
                 hapa_process_memory_ratio 0.3\nhapa_process_cpu_seconds_total {}\n\
                 hapa_time_to_first_token_seconds_bucket{{le=\"0.1\"}} {}\n\
                 hapa_time_to_first_token_seconds_bucket{{le=\"0.2\"}} {}\n\
                 hapa_time_to_first_token_seconds_bucket{{le=\"+Inf\"}} {}\n\
                 hapa_cache_hits_total{{tier=\"l1\"}} {}\nhapa_cache_misses_total{{tier=\"l1\"}} {}\n\
                 hapa_cache_bytes{{tier=\"l1\"}} 2048\nhapa_cache_entries{{tier=\"l1\"}} 2\n\
                 hapa_scope_self_seconds_total{{scope=\"ai_prediction\"}} {}\n\
                 hapa_scope_calls_total{{scope=\"ai_prediction\"}} {}\n",
                10.0 * n,
                n,
                n,
                84.0 * n,
                3.0 * n,
                5.0 * n,
                10.0 * n,
                10.0 * n,
                3.0 * n,
                n,
                n,
                4.0 * n
            )
        };
        let stats = json!({
            "version": "0.1.0", "uptime_seconds": 3725.0,
            "model": { "name": "qwen2.5-coder-0.5b", "state": "ready" },
            "response_times": [{ "method": "POST", "endpoint": "/api/v1/code/generate", "count": 20,
                "p50_seconds": 1.25, "p99_seconds": 2.5 }],
        });
        let now = Instant::now();
        let sample = |at, n| Sample { at, metrics: Metrics::parse(&text(n)), stats: stats.clone() };
        let first = sample(now, 1.0);
        View::between((&first, &first), &sample(now + Duration::from_secs(2), 3.0))
            .with_history(History::default())
    }

    #[test]
    fn rates_are_of_the_time_between() {
        let view = view();
        assert_eq!((view.requests_per_second, view.errors_per_second), (11.0, 1.0));
        assert_eq!((view.generated_tokens_per_second, view.cpu_cores), (84.0, 3.0));
        assert_eq!(view.cache_hit_percent, Some(75.0));
        assert_eq!((view.caches[0].hits_per_second, view.caches[0].bytes), (3.0, 2048.0));
        assert_eq!((view.scopes[0].busy, view.scopes[0].calls_per_second), (1.0, 4.0));
        let first_token = view.latencies.iter().find(|l| l.name == "first token").unwrap();
        assert_eq!(first_token.p50, Some(0.1));
        assert_eq!(first_token.p95.map(|p| (p * 1e3).round()), Some(190.0));
        assert_eq!(view.latencies[0].p50, None, "nothing was recorded");
        assert_eq!(view.history.tokens, [840]);
    }
}

//! What a scrape sees: formats, limits, order, the table's rules.

#![expect(clippy::unwrap_used, reason = "helpers of tests may panic too")]

use std::collections::{BTreeMap, BTreeSet};

use hapa_metrics::{
    ALL, Exporter, ExporterOptions, Format, Kind, MetricsError, SeriesValue, Unit,
    labels::{Endpoint, Method, Scope, Status, Task, Tier},
    names, with_request_id,
};
use proptest::prelude::*;

/// `name{labels}` to value, as a scraper reads it; checks the shape of every line.
fn parse(text: &str) -> BTreeMap<String, f64> {
    let mut series = BTreeMap::new();
    let mut typed = BTreeSet::new();
    for line in text.lines() {
        if let Some(rest) = line.strip_prefix("# TYPE ") {
            let name = rest.split(' ').next().unwrap();
            assert!(typed.insert(name.to_owned()), "{name} is typed twice");
            continue;
        }
        if line.starts_with('#') {
            continue;
        }
        let line = line.split(" # ").next().unwrap();
        let (id, value) = line.rsplit_once(' ').unwrap();
        let value = value.parse().unwrap_or_else(|_| panic!("{line}"));
        assert!(series.insert(id.to_owned(), value).is_none(), "{id} appears twice");
    }
    series
}

#[test]
fn names_follow_the_rules() {
    let mut seen = BTreeSet::new();
    for spec in ALL {
        assert!(seen.insert(spec.name), "{} is in the table twice", spec.name);
        assert!(spec.help.ends_with('.'), "{}: help is a sentence", spec.name);
        let counter = spec.name.ends_with("_total");
        assert_eq!(
            counter,
            spec.kind == Kind::Counter,
            "{}: only counters end in _total",
            spec.name
        );
        let stem = spec.name.trim_end_matches("_total");
        match spec.unit {
            Unit::Seconds => assert!(stem.ends_with("_seconds"), "{}", spec.name),
            Unit::Bytes => assert!(stem.ends_with("_bytes"), "{}", spec.name),
            Unit::Ratio => assert!(stem.ends_with("_ratio"), "{}", spec.name),
            Unit::Tokens => assert!(stem.ends_with("_tokens"), "{}", spec.name),
            _ => {}
        }
        assert_eq!(spec.kind == Kind::Histogram, !spec.buckets.is_empty(), "{}", spec.name);
        assert!(spec.buckets.windows(2).all(|pair| pair[0] < pair[1]), "{}", spec.name);
    }
}

#[test]
fn the_names_of_the_design_exist() {
    let expected = "api_request_duration_seconds ai_inference_duration_seconds cache_hit_rate \
        api_requests_total hapa_time_to_first_token_seconds hapa_inter_token_latency_seconds \
        hapa_request_queue_seconds hapa_request_prefill_seconds hapa_request_decode_seconds \
        hapa_prompt_tokens_total hapa_generated_tokens_total hapa_requests_running \
        hapa_requests_waiting hapa_kv_cache_usage_ratio hapa_prefix_cache_queried_tokens_total \
        hapa_prefix_cache_hit_tokens_total hapa_cache_hits_total hapa_cache_misses_total \
        hapa_cache_evictions_total hapa_cache_shared_total hapa_cache_bytes \
        hapa_model_load_seconds hapa_model_state hapa_speculative_drafted_tokens_total \
        hapa_speculative_accepted_tokens_total hapa_rejected_total";
    for name in expected.split_whitespace() {
        assert!(names::find(name).is_some(), "{name}");
    }
}

#[test]
fn recorded_values_come_out() {
    let exporter = Exporter::local();
    exporter.run(|| {
        let labels = (Method::Post, Endpoint::of("/api/v1/code/generate"), Status(200));
        names::API_REQUESTS_TOTAL.with(labels).increment(2);
        names::AI_INFERENCE_DURATION_SECONDS.with(Task::Generate).record(0.3);
        names::REQUESTS_RUNNING.handle().set(4.0);
        // As hapa-model does it: the facade with a literal name.
        metrics::counter!("hapa_generated_tokens_total").increment(96);
        metrics::histogram!("hapa_time_to_first_token_seconds").record(0.06);
    });
    let series = parse(&exporter.render());
    let request =
        r#"api_requests_total{endpoint="/api/v1/code/generate",method="POST",status="200"}"#;
    assert_eq!(series[request], 2.0);
    assert_eq!(series["hapa_generated_tokens_total"], 96.0);
    assert_eq!(series["hapa_requests_running"], 4.0);
    assert_eq!(series[r#"ai_inference_duration_seconds_bucket{task="generate",le="0.25"}"#], 0.0);
    assert_eq!(series[r#"ai_inference_duration_seconds_bucket{task="generate",le="0.5"}"#], 1.0);
    assert_eq!(series[r#"ai_inference_duration_seconds_bucket{task="generate",le="+Inf"}"#], 1.0);
    assert_eq!(series[r#"ai_inference_duration_seconds_sum{task="generate"}"#], 0.3);
    // The table's buckets, although the facade was given only a name.
    assert_eq!(series[r#"hapa_time_to_first_token_seconds_bucket{le="0.06"}"#], 1.0);
    assert!(series["hapa_process_resident_bytes"] > 100_000.0);
    assert!(series.keys().any(|id| id.starts_with("hapa_build_info{arch=")));
}

#[test]
fn closed_sets_start_at_zero() {
    let series = parse(&Exporter::local().render());
    assert_eq!(series[r#"hapa_cache_misses_total{tier="l2"}"#], 0.0);
    assert_eq!(series[r#"hapa_rejected_total{reason="overloaded"}"#], 0.0);
    assert_eq!(series["hapa_request_queue_seconds_count"], 0.0);
    assert_eq!(series["cache_hit_rate"], 0.0);
    // A gauge that nobody set says nothing.
    assert!(!series.contains_key("hapa_requests_running"));
}

#[test]
fn hit_rate_is_of_lookups_not_of_tiers() {
    let exporter = Exporter::local();
    exporter.run(|| {
        names::CACHE_HITS_TOTAL.with(Tier::L1).increment(60);
        names::CACHE_MISSES_TOTAL.with(Tier::L1).increment(40);
        names::CACHE_HITS_TOTAL.with(Tier::L2).increment(10);
        names::CACHE_MISSES_TOTAL.with(Tier::L2).increment(30);
    });
    assert_eq!(parse(&exporter.render())["cache_hit_rate"], 70.0);
}

#[test]
fn series_are_bounded_and_nothing_is_lost() {
    let exporter =
        Exporter::with_options(ExporterOptions { series_per_name: 10, ..Default::default() });
    exporter.run(|| {
        for user in 0..1_000 {
            metrics::counter!("careless_total", "user" => user.to_string()).increment(1);
        }
    });
    let series = parse(&exporter.render());
    let of_name: Vec<_> =
        series.iter().filter(|(id, _)| id.starts_with("careless_total")).collect();
    assert_eq!(of_name.len(), 11);
    assert_eq!(of_name.iter().map(|(_, value)| **value).sum::<f64>(), 1_000.0);
    assert_eq!(series[r#"careless_total{user="other"}"#], 990.0);
    assert_eq!(series["hapa_metrics_overflow_total"], 990.0);
}

#[test]
fn label_order_does_not_make_a_second_series() {
    let exporter = Exporter::local();
    exporter.run(|| {
        metrics::counter!("twice_total", "a" => "1", "b" => "2").increment(1);
        metrics::counter!("twice_total", "b" => "2", "a" => "1").increment(1);
    });
    assert_eq!(parse(&exporter.render())[r#"twice_total{a="1",b="2"}"#], 2.0);
}

#[test]
fn a_name_of_another_kind_is_refused_and_harmless() {
    let exporter = Exporter::local();
    exporter.run(|| {
        metrics::gauge!("hapa_generated_tokens_total").set(5.0);
        metrics::counter!("hapa_generated_tokens_total").increment(1);
    });
    assert_eq!(parse(&exporter.render())["hapa_generated_tokens_total"], 1.0);
}

#[test]
fn collectors_are_asked_at_each_scrape() {
    let exporter = Exporter::local();
    exporter.add_collector(|samples| {
        samples.counter(&names::SCOPE_CALLS_TOTAL, Scope::new("decode \"x\""), 7.0);
        samples.gauge(&names::RUNTIME_WORKERS, (), 2.0);
    });
    let series = parse(&exporter.render());
    assert_eq!(series[r#"hapa_scope_calls_total{scope="decode \"x\""}"#], 7.0);
    assert_eq!(series["hapa_runtime_workers"], 2.0);
}

#[test]
fn openmetrics_names_units_and_exemplars() {
    let exporter = Exporter::local();
    exporter.run(|| {
        with_request_id("req-\"7\"", || {
            names::TIME_TO_FIRST_TOKEN_SECONDS.handle().record(0.07);
        });
        names::TIME_TO_FIRST_TOKEN_SECONDS.handle().record(0.5);
    });
    let text = exporter.render_as(Format::OpenMetrics);
    assert!(text.ends_with("# EOF\n"));
    assert!(
        text.contains(
            "# TYPE hapa_generated_tokens counter\n# UNIT hapa_generated_tokens tokens\n"
        )
    );
    assert!(text.contains("\nhapa_generated_tokens_total 0\n"));
    let line = text.lines().find(|line| line.contains(r#"first_token_seconds_bucket{le="0.08"}"#));
    let (sample, exemplar) = line.unwrap().split_once(" # ").unwrap();
    assert!(sample.ends_with(" 1"));
    assert!(exemplar.starts_with(r#"{request_id="req-\"7\""} 0.07 "#), "{exemplar}");
    // The request that had no id leaves none, and the plain format has none at all.
    let line = text.lines().find(|line| line.contains(r#"first_token_seconds_bucket{le="0.6"}"#));
    assert!(!line.unwrap().contains(" # "));
    assert!(!exporter.render().contains("request_id"));
}

#[test]
fn formats_are_negotiated() {
    let prometheus = "application/openmetrics-text;version=1.0.0,text/plain;version=0.0.4;q=0.5";
    assert_eq!(Format::negotiate(Some(prometheus)), Format::OpenMetrics);
    assert_eq!(Format::negotiate(Some("text/plain")), Format::Prometheus);
    assert_eq!(Format::negotiate(None), Format::Prometheus);
}

#[test]
fn a_snapshot_gives_quantiles() {
    let exporter = Exporter::local();
    exporter.run(|| {
        for _ in 0..100 {
            names::REQUEST_QUEUE_SECONDS.handle().record(0.75);
        }
    });
    let all = exporter.snapshot();
    assert!(
        all.windows(2)
            .all(|pair| (&pair[0].name, &pair[0].labels) < (&pair[1].name, &pair[1].labels))
    );
    let queue = all.iter().find(|series| series.name == "hapa_request_queue_seconds").unwrap();
    assert_eq!(queue.value.quantile(0.5), Some(0.75), "halfway between 0.5 and 1");
    assert_eq!(SeriesValue::Gauge(1.0).quantile(0.5), None);
}

#[test]
fn a_process_has_one_global_recorder() {
    let exporter = Exporter::install().unwrap();
    assert!(matches!(Exporter::install(), Err(MetricsError::AlreadyInstalled)));
    std::thread::spawn(|| metrics::counter!("hapa_prompt_tokens_total").increment(11))
        .join()
        .unwrap();
    assert!(exporter.render().contains("\nhapa_prompt_tokens_total 11\n"));
}

proptest! {
    /// Any name, label and value gives lines that a scraper can read back.
    #[test]
    fn anything_renders_to_readable_lines(
        name in ".{1,20}", key in ".{1,10}", value in ".{0,20}", amount in 0_u64..1 << 40,
    ) {
        let exporter = Exporter::local();
        exporter.run(|| {
            metrics::counter!(name.clone(), key.clone() => value.clone()).increment(amount);
            metrics::gauge!(format!("{name}_g"), key => value).set(f64::INFINITY);
        });
        for text in [exporter.render(), exporter.render_as(Format::OpenMetrics)] {
            for line in text.lines().filter(|line| !line.starts_with('#')) {
                let (_, value) = line.rsplit_once(' ').unwrap();
                prop_assert!(value == "+Inf" || value.parse::<f64>().is_ok(), "{line}");
                let name_end = line.find(['{', ' ']).unwrap();
                let name = &line[..name_end];
                prop_assert!(name.chars().all(|c| c.is_ascii_alphanumeric() || "_:".contains(c)));
            }
        }
    }
}

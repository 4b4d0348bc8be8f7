//! A server with known delays gives the figures that are computed by hand. Lower bounds are exact, since a server that
//! waits never waits less; upper ones leave room for a busy machine.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on should stop")]

mod common;

use std::time::Duration;

use common::{Fake, Received, Step, chunk, respond, stream_head, streamed};
use hapa_loadtest::{
    Api, Arrivals, Ask, CacheOutcome, Class, Control, Ended, Limit, Load, Mix, Plan, Prompt,
    Report, Settings, SweepKind, SweepPlan, Target, TargetOptions, VersusPlan, VersusReport,
    Workload, WorkloadSource, compare, run, sweep, versus,
};

fn milliseconds(count: u64) -> Duration {
    Duration::from_millis(count)
}

fn target(fake: &Fake) -> Target {
    let options =
        TargetOptions { url: fake.url(), api: Api::OpenaiChat, ..TargetOptions::default() };
    Target::new(options).unwrap()
}

fn plan(fake: &Fake, load: Load, limit: Limit) -> Plan {
    let prompt = Prompt::new(Ask::Text("say a".to_owned()), 8);
    Plan {
        target: target(fake),
        workload: Workload::new(WorkloadSource::One(prompt), Mix::default(), 8).unwrap(),
        load,
        limit,
        warmup: Limit::default(),
        cold: false,
        settings: Settings { timeout: Duration::from_secs(60), ..Settings::default() },
    }
}

fn slower_than(report: &Report, seconds: f32) -> usize {
    report.samples.iter().filter(|sample| sample.end_to_end >= seconds).count()
}

#[test]
fn fixed_delays() {
    let fake = Fake::start(|_| streamed("", milliseconds(100), milliseconds(50), 4));
    let mut plan = plan(&fake, Load::closed(5), Limit::requests(20));
    plan.settings.workers = 2;
    plan.settings.objectives = "e2e=60s,ttft=50ms".parse().unwrap();
    let report = run(&plan, &Control::new()).unwrap();
    assert_eq!((report.requests.total, report.requests.succeeded), (20, 20));
    assert_eq!((report.throughput.input_tokens, report.throughput.output_tokens), (140, 80));
    assert_eq!(report.throughput.uncounted_answers, 0);
    let (first, whole) =
        (report.latency.time_to_first_token.unwrap(), report.latency.end_to_end.unwrap());
    let gap = report.latency.inter_token_latency.unwrap();
    let per_token = report.latency.time_per_output_token.unwrap();
    assert_eq!((first.count, gap.count, per_token.count, whole.count), (20, 60, 20, 20));
    // 0.1% is the histograms' own.
    assert!(first.min >= 0.0999 && first.p50 < 0.4, "{first:?}");
    assert!(whole.min >= 0.2497 && whole.p50 < 1.0, "{whole:?}");
    assert!(gap.mean > 0.03 && gap.p50 < 0.2, "{gap:?}");
    // Both are from the first piece to the last by three.
    assert!((gap.mean - per_token.mean).abs() < 1e-6, "{gap:?} {per_token:?}");
    // 20 requests by 5 clients are four rounds of at least 0.25 s.
    assert!(report.duration_seconds >= 1.0, "{}", report.duration_seconds);
    let rate = 20.0 / report.duration_seconds;
    assert!((report.throughput.requests_per_second - rate).abs() < 1e-9);
    assert!((report.throughput.output_tokens_per_second - 4.0 * rate).abs() < 1e-9);
    // Nobody can have a first token within 50 ms.
    assert_eq!(report.goodput.unwrap().good, 0);
    assert_eq!((report.review.avg, report.review.success_rate), (Some(whole.mean), 100.0));
    assert_eq!(report.generator.connections, 5);
    assert!(report.is_clean());
}

/// HAPA's stream with its first text after 200 ms, of which the engine claims 150.
fn with_receipt(request: &Received) -> Vec<Step> {
    let outcome = if request.number.is_multiple_of(2) { "miss" } else { "hit memory" };
    vec![
        stream_head(&format!("x-hapa-cache: {outcome}\r\n")),
        Step::Wait(milliseconds(200)),
        chunk("data: {\"type\":\"delta\",\"text\":\"a\",\"code\":\"a\"}\n\n"),
        chunk(concat!(
            "data: {\"type\":\"done\",\"usage\":{\"prompt_tokens\":7,\"completion_tokens\":1},",
            "\"timings\":{\"time_to_first_token_seconds\":0.15}}\n\n"
        )),
        Step::Send(b"0\r\n\r\n".to_vec()),
    ]
}

#[test]
fn what_of_the_first_token_was_not_the_engines() {
    let fake = Fake::start(with_receipt);
    let mut plan = plan(&fake, Load::closed(1), Limit::requests(6));
    let options = TargetOptions { url: fake.url(), ..TargetOptions::default() };
    plan.target = Target::new(options).unwrap();
    let report = run(&plan, &Control::new()).unwrap();
    let (first, beside) = (
        report.latency.time_to_first_token.unwrap(),
        report.latency.first_token_beside_engine.unwrap(),
    );
    // Of a hit nobody waited for an engine.
    assert_eq!((first.count, beside.count), (6, 3));
    assert!(first.min >= 0.1997 && beside.min >= 0.0499 && beside.min < first.min, "{beside:?}");
    assert!(report.table().contains("beside the engine"), "{}", report.table());

    // Others give no receipt.
    let fake =
        Fake::start(|_| streamed("x-hapa-cache: miss\r\n", milliseconds(1), milliseconds(0), 1));
    let plan = self::plan(&fake, Load::closed(1), Limit::requests(2));
    let report = run(&plan, &Control::new()).unwrap();
    assert!(report.latency.first_token_beside_engine.is_none());
    assert!(!report.table().contains("beside the engine"), "{}", report.table());
}

#[test]
fn two_kinds_of_delay() {
    let fake = Fake::start(|request: &Received| {
        let slow = request.number.is_multiple_of(10);
        streamed("", milliseconds(if slow { 1500 } else { 5 }), milliseconds(0), 1)
    });
    let report =
        run(&plan(&fake, Load::closed(10), Limit::requests(100)), &Control::new()).unwrap();
    let whole = report.latency.end_to_end.unwrap();
    assert!(whole.p50 < 1.0 && whole.p95 >= 1.498, "{whole:?}");
    assert_eq!(slower_than(&report, 1.5), 10);
    // One token has no gap.
    assert!(report.latency.inter_token_latency.is_none());
    assert!(report.latency.time_per_output_token.is_none());
}

/// A server that answers one request after another and stands still once, for a second.
fn stalling() -> Fake {
    Fake::start(|request: &Received| {
        let stall = if request.number == 20 { 1000 } else { 0 };
        let mut steps = vec![Step::Hold(milliseconds(stall))];
        steps.extend(streamed("", milliseconds(0), milliseconds(0), 1));
        steps
    })
}

#[test]
fn an_open_loop_tells_of_a_stall_what_its_users_would() {
    let arrivals = Arrivals::Constant { rate: 100.0 };
    let fake = stalling();
    let open = plan(&fake, Load::open(arrivals.clone()), Limit::requests(200));
    let report = run(&open, &Control::new()).unwrap();
    // Request 20 came at 0.2 s. Those due in the 0.8 s after it waited at least 0.2 s each.
    assert_eq!(report.requests.succeeded, 200);
    assert!(slower_than(&report, 0.199) >= 80, "{}", slower_than(&report, 0.199));
    assert!(report.latency.end_to_end.unwrap().max >= 0.998);
    assert_eq!(report.offered.unwrap().requests_per_second, 100.0);

    // The same where the generator itself has no place for them: the wait counts from when they were due.
    let fake = stalling();
    let load = Load::Open { arrivals, max_in_flight: 1 };
    let report = run(&plan(&fake, load, Limit::requests(200)), &Control::new()).unwrap();
    assert_eq!(report.requests.succeeded, 200);
    assert!(slower_than(&report, 0.199) >= 80, "{}", slower_than(&report, 0.199));
    assert!(report.generator.send_delay.unwrap().max >= 0.9);

    // A closed loop sees the stall once.
    let fake = stalling();
    let report = run(&plan(&fake, Load::closed(1), Limit::requests(200)), &Control::new()).unwrap();
    assert!(slower_than(&report, 0.998) >= 1);
}

#[test]
fn what_was_not_sent_in_time_is_told() {
    let fake = Fake::start(|_| streamed("", milliseconds(400), milliseconds(0), 1));
    let load = Load::Open { arrivals: Arrivals::Constant { rate: 50.0 }, max_in_flight: 2 };
    let limit = Limit::duration(milliseconds(1000));
    let report = run(&plan(&fake, load, limit), &Control::new()).unwrap();
    // 50 were due; two at a time with 0.4 s each make 6 at most.
    let requests = report.requests;
    assert!(requests.succeeded <= 6 && requests.succeeded >= 2, "{requests:?}");
    assert_eq!(requests.succeeded + requests.unsent, 50);
    assert_eq!(requests.total, requests.succeeded);
}

#[test]
fn warm_up_and_first_request_stay_apart() {
    let fake = Fake::start(|request: &Received| {
        let cache = match request.number {
            0 => "miss",
            n if n.is_multiple_of(2) => "hit-l1",
            _ => "miss",
        };
        let wait = if request.number == 0 { 700 } else { 1 };
        streamed(&format!("x-hapa-cache: {cache}\r\n"), milliseconds(wait), milliseconds(0), 2)
    });
    let mut plan = plan(&fake, Load::closed(2), Limit::requests(40));
    plan.warmup = Limit::requests(11);
    plan.cold = true;
    let report = run(&plan, &Control::new()).unwrap();
    assert_eq!(fake.received().len(), 52);
    assert_eq!(report.requests.total, 40);
    assert!(report.cold.unwrap().end_to_end >= 0.7);
    let count =
        |cache| report.by_cache.iter().find(|group| group.cache == cache).map(|group| group.count);
    assert_eq!((count(CacheOutcome::Hit), count(CacheOutcome::Miss)), (Some(20), Some(20)));
    assert_eq!(count(CacheOutcome::None), None);
    assert!(report.table().contains("cold (first request)"), "{}", report.table());
    fits_a_terminal(&report.table());
}

fn fits_a_terminal(table: &str) {
    assert!(table.lines().all(|line| line.chars().count() <= 80), "{table}");
}

#[test]
fn breaking_off_keeps_what_was_done() {
    let fake = Fake::start(|request: &Received| {
        let wait = if request.number < 6 { 0 } else { 600_000 };
        streamed("", milliseconds(wait), milliseconds(0), 1)
    });
    let control = Control::new();
    let watching = control.clone();
    let stopper = std::thread::spawn(move || {
        loop {
            let now = watching.snapshot();
            if now.succeeded == 6 && now.in_flight == 3 {
                assert_eq!(now.phase, "measuring");
                return watching.stop();
            }
            std::thread::sleep(milliseconds(5));
        }
    });
    let report = run(&plan(&fake, Load::closed(3), Limit::requests(50)), &control).unwrap();
    stopper.join().unwrap();
    assert_eq!(report.ended, Ended::Interrupted);
    assert_eq!((report.requests.succeeded, report.requests.abandoned), (6, 3));
    assert!(report.is_clean());
}

#[test]
fn a_sweep_visits_every_load() {
    let fake = Fake::start(|_| {
        let mut steps = vec![Step::Hold(milliseconds(5))];
        steps.extend(streamed("", milliseconds(0), milliseconds(0), 1));
        steps
    });
    let base = plan(&fake, Load::closed(1), Limit::requests(20));
    let kind = SweepKind::Concurrency(vec![1, 2, 4]);
    let report = sweep(&SweepPlan { base: base.clone(), kind }, &Control::new()).unwrap();
    let visited: Vec<f64> = report.points.iter().map(|point| point.x).collect();
    assert_eq!(visited, [1.0, 2.0, 4.0]);
    assert!(report.is_clean() && report.html().unwrap().contains("<svg"));
    let kind = SweepKind::Rates { points: 3, saturating: 4 };
    let report = sweep(&SweepPlan { base, kind }, &Control::new()).unwrap();
    assert!(report.points.is_sorted_by(|a, b| a.x < b.x));
    fits_a_terminal(&report.table());
    assert_eq!(report.points.len(), 3);
}

#[test]
fn two_servers_by_turns() {
    let slow = Fake::start(|_| streamed("", milliseconds(90), milliseconds(0), 1));
    let fast = Fake::start(|_| streamed("", milliseconds(10), milliseconds(0), 1));
    let base = plan(&slow, Load::closed(4), Limit::requests(8));
    let plan = VersusPlan { base, other: target(&fast), rounds: 4 };
    let report = versus(&plan, &Control::new()).unwrap();
    assert_eq!((report.a.requests.succeeded, report.b.requests.succeeded), (32, 32));
    assert_eq!(report.rounds.len(), 4);
    assert!(report.a.duration_seconds >= 4.0 * 2.0 * 0.09);
    let whole = report.ratios.iter().find(|ratio| ratio.metric == "end to end, p50").unwrap();
    assert!(whole.ratio < 0.8 && whole.a >= 0.089, "{whole:?}");
    // Both got the same requests.
    let bodies = |fake: &Fake| fake.received().into_iter().map(|r| r.body).collect::<Vec<_>>();
    assert_eq!(bodies(&slow), bodies(&fast));

    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("versus.json");
    report.write(&path).unwrap();
    assert_eq!(VersusReport::read(&path).unwrap().table(), report.table());
    assert!(report.table().contains("end to end, p50") && report.html().unwrap().contains("<svg"));
    fits_a_terminal(&report.table());
}

#[test]
fn a_report_survives_its_file_and_is_compared() {
    let report = |wait| {
        let fake = Fake::start(move |_| streamed("", milliseconds(wait), milliseconds(1), 3));
        run(&plan(&fake, Load::closed(4), Limit::requests(40)), &Control::new()).unwrap()
    };
    let (a, b) = (report(5), report(80));
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("report.json");
    a.write(&path).unwrap();
    let read = Report::read(&path).unwrap();
    assert_eq!((read.table(), read.samples.len()), (a.table(), a.samples.len()));
    let comparison = compare(&a, &b);
    let whole = comparison.ratios.iter().find(|ratio| ratio.metric == "end to end, p50").unwrap();
    assert!(whole.ratio > 1.0 && whole.interval.low <= whole.ratio, "{whole:?}");
    assert!(comparison.warnings.iter().all(|warning| warning.contains("too short")));
    assert!(comparison.table().contains("B/A"));
    let text = std::fs::read_to_string(&path).unwrap();
    for (text, expected) in [
        (text.replace("hapa-loadtest/1", "hapa-loadtest/99"), "hapa-loadtest/99"),
        ("{}".to_owned(), "no `schema`"),
        ("<html>".to_owned(), "not JSON"),
    ] {
        std::fs::write(&path, text).unwrap();
        let error = Report::read(&path).unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
    }
    let html = a.html().unwrap();
    assert!(html.contains("<svg") && html.contains("Cumulative distribution"));
    // A line needs two whole seconds.
    assert_eq!(html.contains("Requests by the second"), a.timeline.len() > 2);
    // Nothing but the namespace of SVG names another host.
    let others = html.replace("http://www.w3.org/2000/svg", "").replace(a.server.url.as_str(), "");
    assert!(
        !others.contains("http://") && !others.contains("https://") && !others.contains("<script")
    );
}

#[test]
fn a_web_server_without_tokens() {
    let fake = Fake::start(|_| vec![respond(200, "text/html", "", "<html>hello</html>")]);
    let mut plan = plan(&fake, Load::closed(3), Limit::requests(30));
    plan.target =
        Target::new(TargetOptions { url: fake.url(), api: Api::Plain, ..TargetOptions::default() })
            .unwrap();
    let report = run(&plan, &Control::new()).unwrap();
    assert_eq!(report.requests.succeeded, 30);
    assert!(report.samples.iter().all(|sample| sample.class == Class::Success));
    assert!(!report.table().contains("tokens"), "{}", report.table());
    assert!(fake.received().iter().all(|request| request.line == "GET / HTTP/1.1"));
}

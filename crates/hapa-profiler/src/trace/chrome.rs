//! Chrome's trace event format ("Trace Event Format", the Chromium project): complete events for
//! scopes on threads, nestable asynchronous pairs for futures and stages.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use super::{Event, Name, Shape, Trace};

/// The one process of a trace.
const PID: u32 = 1;

impl Trace {
    /// The trace as JSON for Perfetto or `chrome://tracing`, sorted by time.
    pub fn to_chrome_json(&self) -> String {
        self.to_chrome_value().to_string()
    }

    /// As [`Trace::to_chrome_json`], before it is written.
    pub fn to_chrome_value(&self) -> Value {
        let names = self.profiler.inner.names.all();
        let events = self.events.lock();
        let mut rows = vec![json!({
            "ph": "M", "name": "process_name", "pid": PID, "tid": 0, "args": {"name": "hapa"},
        })];
        for (thread, name) in &events.threads {
            rows.push(json!({
                "ph": "M", "name": "thread_name", "pid": PID, "tid": thread,
                "args": {"name": name},
            }));
        }
        // Of two that begin together the longer one encloses the other.
        let mut list: Vec<&Event> = events.list.iter().collect();
        list.sort_by_key(|event| (event.start_ns, std::cmp::Reverse(event.duration_ns)));
        let name_of = |event: &Event| match &event.name {
            Name::Scope(number) => {
                names.get(*number as usize).map_or("", |name| &**name).to_owned()
            }
            Name::Text(text) => text.to_string(),
        };
        let mut lanes: BTreeMap<u32, Vec<&Event>> = BTreeMap::new();
        for (at, event) in list.iter().enumerate() {
            match event.shape {
                Shape::Stage(lane) => lanes.entry(lane).or_default().push(event),
                _ => push_rows(&mut rows, event, &name_of(event), at),
            }
        }
        for (lane, stages) in lanes {
            push_lane(&mut rows, lane, &stages, &name_of);
        }
        json!({
            "displayTimeUnit": "ms",
            "otherData": {
                "request_id": self.request_id,
                "started_unix_seconds": self.started_unix_seconds(),
                "dropped_events": self.dropped_events(),
            },
            "traceEvents": rows,
        })
    }
}

fn push_rows(rows: &mut Vec<Value>, event: &Event, name: &str, at: usize) {
    let args = args_of(event);
    let (start, duration) = (micros(event.start_ns), micros(event.duration_ns));
    match event.shape {
        Shape::Thread(thread) => rows.push(json!({
            "ph": "X", "cat": "scope", "name": name, "ts": start, "dur": duration,
            "pid": PID, "tid": thread, "args": args,
        })),
        Shape::Moment(thread) => rows.push(json!({
            "ph": "i", "s": "t", "cat": "mark", "name": name, "ts": start,
            "pid": PID, "tid": thread, "args": args,
        })),
        // A track of its own each: lives of futures overlap in any way.
        Shape::Future => {
            let id = format!("future-{at}");
            rows.push(begin("future", &id, name, event));
            rows.push(end("future", &id, name, end_ns(event)));
        }
        // In `push_lane`.
        Shape::Stage(_) => {}
    }
}

/// Stages of one lane, ordered as they nest: readers match each end with the innermost open begin.
/// A stage that outlasts the one around it by a rounding error ends with it.
fn push_lane(
    rows: &mut Vec<Value>,
    lane: u32,
    stages: &[&Event],
    name_of: &dyn Fn(&Event) -> String,
) {
    let id = format!("stages-{lane}");
    let mut open: Vec<(String, u64)> = Vec::new();
    for event in stages {
        while let Some((name, ns)) = open.pop_if(|(_, ns)| *ns <= event.start_ns) {
            rows.push(end("request", &id, &name, ns));
        }
        let name = name_of(event);
        rows.push(begin("request", &id, &name, event));
        let limit = open.last().map_or(u64::MAX, |(_, ns)| *ns);
        open.push((name, end_ns(event).min(limit)));
    }
    while let Some((name, ns)) = open.pop() {
        rows.push(end("request", &id, &name, ns));
    }
}

fn begin(category: &str, id: &str, name: &str, event: &Event) -> Value {
    json!({"ph": "b", "cat": category, "id": id, "name": name, "ts": micros(event.start_ns),
           "pid": PID, "tid": 0, "args": args_of(event)})
}

fn end(category: &str, id: &str, name: &str, ns: u64) -> Value {
    json!({"ph": "e", "cat": category, "id": id, "name": name, "ts": micros(ns), "pid": PID, "tid": 0})
}

fn end_ns(event: &Event) -> u64 {
    event.start_ns.saturating_add(event.duration_ns)
}

pub(super) fn args_of(event: &Event) -> Map<String, Value> {
    let pair = |(name, value): (&str, &str)| (name.to_owned(), Value::String(value.to_owned()));
    event.args.iter().map(pair).collect()
}

#[expect(clippy::cast_precision_loss, reason = "nanoseconds up to 2^53 are 104 days")]
fn micros(nanos: u64) -> f64 {
    nanos as f64 / 1e3
}

//! Chrome's trace event format ("Trace Event Format", the Chromium project): complete events for
//! scopes on threads, nestable asynchronous pairs for futures and stages.

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
        for (at, event) in list.iter().enumerate() {
            let name = match &event.name {
                Name::Scope(number) => {
                    names.get(*number as usize).map_or("", |name| &**name).to_owned()
                }
                Name::Text(text) => text.to_string(),
            };
            push_rows(&mut rows, event, &name, at);
        }
        json!({
            "displayTimeUnit": "ms",
            "otherData": {
                "request_id": self.request_id,
                "started_unix_seconds":
                    self.profiler.inner.clock.unix_time(self.started_raw).as_secs_f64(),
                "dropped_events": self.dropped_events(),
            },
            "traceEvents": rows,
        })
    }
}

fn push_rows(rows: &mut Vec<Value>, event: &Event, name: &str, at: usize) {
    let args: Map<String, Value> = event
        .args
        .iter()
        .map(|(key, value)| (key.to_string(), Value::String(value.to_string())))
        .collect();
    let (start, duration) = (micros(event.start_ns), micros(event.duration_ns));
    let asynchronous = |category: &str, id: String| {
        let end = micros(event.start_ns.saturating_add(event.duration_ns));
        [
            json!({"ph": "b", "cat": category, "id": id, "name": name, "ts": start,
                   "pid": PID, "tid": 0, "args": args}),
            json!({"ph": "e", "cat": category, "id": id, "name": name, "ts": end,
                   "pid": PID, "tid": 0}),
        ]
    };
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
        Shape::Future => rows.extend(asynchronous("future", format!("future-{at}"))),
        Shape::Stage => rows.extend(asynchronous("request", "stages".to_owned())),
    }
}

#[expect(clippy::cast_precision_loss, reason = "nanoseconds up to 2^53 are 104 days")]
fn micros(nanos: u64) -> f64 {
    nanos as f64 / 1e3
}

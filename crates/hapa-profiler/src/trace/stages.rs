//! The stages of a request as plain figures, for lists of requests.

use std::time::Duration;

use serde::{Serialize, Serializer};

use super::{Event, Name, Shape, Trace};

/// A stage of a request: where the time of one of its parts went.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Stage {
    /// Its name.
    pub name: String,
    /// The part of the request that it belongs to; see [`Trace::lane`].
    pub lane: u32,
    /// When it began, from the beginning of the trace. Serialised in seconds.
    #[serde(rename = "start_seconds", serialize_with = "seconds")]
    pub start: Duration,
    /// How long it took. Serialised in seconds.
    #[serde(rename = "duration_seconds", serialize_with = "seconds")]
    pub duration: Duration,
    /// What was noted with it, such as a number of tokens.
    pub args: serde_json::Map<String, serde_json::Value>,
}

impl Trace {
    /// When the trace began, in seconds since 1970.
    pub fn started_unix_seconds(&self) -> f64 {
        self.started_unix.as_secs_f64()
    }

    /// The stages so far, by lane and time; a stage stands before those inside it.
    pub fn stages(&self) -> Vec<Stage> {
        let events = self.events.lock();
        let mut found: Vec<(u32, &Event)> = events
            .list
            .iter()
            .filter_map(|event| match event.shape {
                Shape::Stage(lane) => Some((lane, event)),
                _ => None,
            })
            .collect();
        found.sort_by_key(|(lane, event)| {
            (*lane, event.start_ns, std::cmp::Reverse(event.duration_ns))
        });
        found.into_iter().map(|(lane, event)| stage(lane, event)).collect()
    }
}

fn seconds<S: Serializer>(duration: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_f64(duration.as_secs_f64())
}

fn stage(lane: u32, event: &Event) -> Stage {
    let name = match &event.name {
        Name::Text(text) => text.to_string(),
        // Only threads and futures carry scopes.
        Name::Scope(number) => format!("scope {number}"),
    };
    Stage {
        name,
        lane,
        start: Duration::from_nanos(event.start_ns),
        duration: Duration::from_nanos(event.duration_ns),
        args: super::chrome::args_of(event),
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use crate::{Clock, Profiler, TraceCollector};

    #[test]
    fn stages_are_ordered_by_lane_and_nesting() {
        let trace = TraceCollector::new(&Profiler::new()).start("r");
        let began = Instant::now();
        let (first, second) = (trace.lane(), trace.lane());
        let ms = Duration::from_millis;
        second.record("prefill", began, ms(2), &[]);
        first.record("decode", began + ms(3), ms(4), &[("tokens", "7")]);
        first.record("request", began, ms(9), &[]);
        first.record("queue", began, ms(1), &[]);
        trace.mark("not a stage", &[]);
        let stages = trace.stages();
        let names: Vec<&str> = stages.iter().map(|stage| stage.name.as_str()).collect();
        assert_eq!(names, ["request", "queue", "decode", "prefill"]);
        assert_eq!(stages[2].args["tokens"], "7");
        assert_eq!(stages[2].duration, ms(4));
        assert!(stages[2].start >= ms(3) && stages[3].lane > stages[2].lane);
        let wire = serde_json::to_value(&stages[2]).unwrap();
        assert_eq!(wire["duration_seconds"], 0.004);
        assert!(trace.started_unix_seconds() > 1e9);
    }

    #[test]
    fn each_trace_begins_at_the_date_of_its_own_beginning() {
        let (clock, mock) = Clock::mock();
        let traces = TraceCollector::new(&Profiler::with_clock(clock));
        mock.advance(Duration::from_secs(10));
        let before = traces.start("before");
        mock.jump(Duration::from_secs(86_400));
        mock.advance(Duration::from_secs(5));
        let after = traces.start("after");
        // Its stages are told by their distance from it, so that they stay where they were.
        assert_eq!(before.started_unix_seconds(), 10.0);
        assert_eq!(after.started_unix_seconds(), 86_415.0);
    }
}

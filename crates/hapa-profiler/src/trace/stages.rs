//! The stages of a request as plain figures, for lists of requests.

use serde::Serialize;

use super::{Event, Name, Shape, Trace};

/// A stage of a request: where the time of one of its parts went.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Stage {
    /// Its name.
    pub name: String,
    /// The part of the request that it belongs to; see [`Trace::lane`].
    pub lane: u32,
    /// When it began, in seconds since the trace did.
    pub start_seconds: f64,
    /// How long it took.
    pub duration_seconds: f64,
    /// What was noted with it, such as a number of tokens.
    pub args: serde_json::Map<String, serde_json::Value>,
}

impl Trace {
    /// When the trace began, in seconds since 1970.
    pub fn started_unix_seconds(&self) -> f64 {
        self.profiler.inner.clock.unix_time(self.started_raw).as_secs_f64()
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

#[expect(clippy::cast_precision_loss, reason = "nanoseconds up to 2^53 are 104 days")]
fn stage(lane: u32, event: &Event) -> Stage {
    let name = match &event.name {
        Name::Text(text) => text.to_string(),
        // Only threads and futures carry scopes.
        Name::Scope(number) => format!("scope {number}"),
    };
    Stage {
        name,
        lane,
        start_seconds: event.start_ns as f64 / 1e9,
        duration_seconds: event.duration_ns as f64 / 1e9,
        args: super::chrome::args_of(event),
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use crate::{Profiler, TraceCollector};

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
        assert_eq!(stages[2].duration_seconds, 0.004);
        assert!(stages[2].start_seconds >= 0.003 && stages[3].lane > stages[2].lane);
        assert!(trace.started_unix_seconds() > 1e9);
    }
}

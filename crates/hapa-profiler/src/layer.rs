//! Spans of the `tracing` crate as scopes: what libraries instrument shows up without code.

use std::{cell::RefCell, sync::Arc};

use tracing::span;
use tracing_subscriber::{layer::Context, registry::LookupSpan};

use crate::{
    Profiler,
    recording::{Ended, Frame, NodeData, with_local},
};

thread_local! {
    /// Spans that this thread is in, the innermost last.
    static ENTERED: RefCell<Vec<(u64, Frame)>> = const { RefCell::new(Vec::new()) };
}

/// A `tracing` layer: each span is a scope. Time while it is entered is busy time, from the first
/// entry until it closes is wall time; a span is one call, however often and on whatever threads
/// it is entered.
///
/// Filter it like any layer: spans at the trace level in inner loops cost more than they tell.
///
/// ```
/// use hapa_profiler::{Profiler, ProfilerLayer};
/// use tracing_subscriber::layer::SubscriberExt as _;
///
/// let profiler = Profiler::new();
/// let subscriber = tracing_subscriber::registry().with(ProfilerLayer::new(&profiler));
/// tracing::subscriber::with_default(subscriber, || {
///     tracing::info_span!("decode").in_scope(|| {});
/// });
/// # #[cfg(feature = "profiling")]
/// assert_eq!(profiler.report().scope("decode").unwrap().calls, 1);
/// ```
#[derive(Debug, Clone)]
pub struct ProfilerLayer {
    profiler: Profiler,
    with_targets: bool,
}

/// What the layer keeps with a span.
struct Call {
    name: u32,
    started_raw: Option<u64>,
    last: Option<Arc<NodeData>>,
}

impl ProfilerLayer {
    /// Records to the given profiler.
    pub fn new(profiler: &Profiler) -> Self {
        Self { profiler: profiler.clone(), with_targets: false }
    }

    /// Names scopes `target::span` instead of `span`.
    pub fn with_targets(mut self, with_targets: bool) -> Self {
        self.with_targets = with_targets;
        self
    }
}

impl<S> tracing_subscriber::Layer<S> for ProfilerLayer
where
    S: tracing::Subscriber + for<'a> LookupSpan<'a>,
{
    fn on_new_span(
        &self,
        attributes: &span::Attributes<'_>,
        id: &span::Id,
        context: Context<'_, S>,
    ) {
        if !self.profiler.is_enabled() {
            return;
        }
        let Some(span) = context.span(id) else { return };
        let metadata = attributes.metadata();
        let names = &self.profiler.inner.names;
        let name = if self.with_targets {
            names.number(&format!("{}::{}", metadata.target(), metadata.name()))
        } else {
            names.number(metadata.name())
        };
        span.extensions_mut().insert(Call { name, started_raw: None, last: None });
    }

    fn on_enter(&self, id: &span::Id, context: Context<'_, S>) {
        let Some(span) = context.span(id) else { return };
        let mut extensions = span.extensions_mut();
        let Some(call) = extensions.get_mut::<Call>() else { return };
        let inner = &self.profiler.inner;
        let entered = with_local(inner, |tree| {
            let frame = tree.enter(call.name, &inner.clock);
            (frame, tree.node_data(tree.current()))
        });
        let Some((frame, data)) = entered else { return };
        call.started_raw.get_or_insert(frame.start_raw());
        call.last = Some(data);
        let _ = ENTERED.try_with(|entered| entered.borrow_mut().push((id.into_u64(), frame)));
    }

    fn on_exit(&self, id: &span::Id, _: Context<'_, S>) {
        let inner = &self.profiler.inner;
        let end_raw = inner.clock.raw();
        let frame = ENTERED
            .try_with(|entered| {
                let mut entered = entered.borrow_mut();
                let at = entered.iter().rposition(|(other, _)| *other == id.into_u64())?;
                Some(entered.remove(at).1)
            })
            .ok()
            .flatten();
        if let Some(frame) = frame {
            with_local(inner, |tree| tree.exit(&frame, &inner.clock, end_raw, Ended::Paused));
        }
    }

    fn on_close(&self, id: span::Id, context: Context<'_, S>) {
        let Some(span) = context.span(&id) else { return };
        let Some(call) = span.extensions_mut().remove::<Call>() else { return };
        // A span that was never entered took no time anywhere.
        let (Some(started_raw), Some(last)) = (call.started_raw, call.last) else { return };
        let inner = &self.profiler.inner;
        let range = (started_raw, inner.clock.raw());
        with_local(inner, |tree| tree.end_late(&last, false, &inner.clock, range));
    }
}

//! Where the time of a step goes, for whoever asks.

use std::time::{Duration, Instant};

/// A part of a step's arithmetic, with what prepares its input: norms and quantised activations belong to the product
/// that reads them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kernel {
    /// Rows of the embedding table are gathered.
    Embedding,
    /// The fused projection to queries, keys and values.
    Qkv,
    /// Queries and keys are rotated; keys and values go to their pages.
    Rotation,
    /// Attention over the pages.
    Attention,
    /// The projection of what was attended to.
    Output,
    /// The fused gate and up projections.
    GateUp,
    /// The down projection.
    Down,
    /// The rows of logits.
    Logits,
}

impl Kernel {
    /// Its name in timelines.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Embedding => "embedding",
            Self::Qkv => "qkv",
            Self::Rotation => "rotation",
            Self::Attention => "attention",
            Self::Output => "output",
            Self::GateUp => "gate_up",
            Self::Down => "down",
            Self::Logits => "logits",
        }
    }
}

/// One kernel of one step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KernelSpan {
    /// What was computed.
    pub kernel: Kernel,
    /// The layer that it belongs to, from 0; `None` before the first and after the last.
    pub layer: Option<u32>,
    /// When it began.
    pub began: Instant,
    /// How long it took, on all threads.
    pub took: Duration,
}

/// Takes the time between kernels while it is on; one comparison for each kernel while it is off.
#[derive(Debug, Default)]
pub(super) struct Stopwatch {
    /// When the kernel at hand began; `None` while it is off.
    since: Option<Instant>,
    spans: Vec<KernelSpan>,
}

impl Stopwatch {
    /// Turns it on; spans go behind those in `spans`.
    pub(super) fn start(&mut self, spans: Vec<KernelSpan>) {
        self.spans = spans;
        self.since = Some(Instant::now());
    }

    /// Turns it off and gives the spans back.
    pub(super) fn stop(&mut self) -> Vec<KernelSpan> {
        self.since = None;
        std::mem::take(&mut self.spans)
    }

    /// What was computed since the last call was this kernel.
    #[inline]
    pub(super) fn lap(&mut self, kernel: Kernel, layer: Option<usize>) {
        let Some(began) = self.since else { return };
        let now = Instant::now();
        let layer = layer.and_then(|layer| u32::try_from(layer).ok());
        self.spans.push(KernelSpan { kernel, layer, began, took: now - began });
        self.since = Some(now);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn laps_follow_each_other_and_only_while_it_is_on() {
        let mut watch = Stopwatch::default();
        watch.lap(Kernel::Qkv, Some(0));
        assert!(watch.stop().is_empty());
        watch.start(Vec::new());
        watch.lap(Kernel::Qkv, Some(0));
        watch.lap(Kernel::Logits, None);
        let spans = watch.stop();
        assert_eq!(spans[0].began + spans[0].took, spans[1].began);
        assert_eq!((spans[0].layer, spans[1].layer), (Some(0), None));
    }
}

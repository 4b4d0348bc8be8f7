//! The allocations that were noted and still live, and sums by stack.

use std::collections::HashMap;

use super::super::stacks::Figure;

/// Noted allocations that live at once, and stacks; what is beyond is counted and not kept.
const MAX_LIVE: usize = 60_000;
const MAX_STACKS: usize = 20_000;

/// Bytes and allocations that samples stand for.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub(super) struct Amounts {
    pub(super) allocated_bytes: f64,
    pub(super) allocations: f64,
    pub(super) live_bytes: f64,
    pub(super) live_allocations: f64,
    /// Bytes that lived when the whole heap was largest.
    pub(super) peak_bytes: f64,
}

impl Figure for Amounts {
    fn add(&mut self, other: Self) {
        self.allocated_bytes += other.allocated_bytes;
        self.allocations += other.allocations;
        self.live_bytes += other.live_bytes;
        self.live_allocations += other.live_allocations;
        self.peak_bytes += other.peak_bytes;
    }
}

/// An allocation that was noted.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Live {
    stack: usize,
    /// What it stands for.
    bytes: f64,
    allocations: f64,
}

impl Live {
    /// An allocation of `size` bytes, of which one byte in `every` is picked.
    #[expect(clippy::cast_precision_loss, reason = "estimates")]
    pub(super) fn picked(size: usize, every: u64) -> Self {
        let likely = if every <= 1 { 1.0 } else { -(-(size as f64) / every as f64).exp_m1() };
        Self { stack: 0, bytes: size as f64 / likely, allocations: 1.0 / likely }
    }
}

#[derive(Debug, Default)]
struct Stack {
    amounts: Amounts,
    /// The peak that `amounts.peak_bytes` is of; the stack did not change since an older one.
    peak: u64,
}

/// The samples of one profile.
#[derive(Debug, Default)]
pub(super) struct Table {
    numbers: HashMap<Box<[usize]>, usize>,
    stacks: Vec<Stack>,
    live: HashMap<usize, Live>,
    live_bytes: f64,
    peak_bytes: f64,
    /// Raised with each new peak, so that no stack has to be visited then.
    peak: u64,
    samples: u64,
    lost: u64,
}

/// What a table holds: stacks as addresses, the innermost frame first.
#[derive(Debug, Default)]
pub(super) struct Found {
    pub(super) stacks: Vec<(Box<[usize]>, Amounts)>,
    pub(super) samples: u64,
    pub(super) lost: u64,
}

impl Table {
    /// Notes an allocation; false when there is no room.
    pub(super) fn add(&mut self, stack: &[usize], address: usize, live: Live) -> bool {
        self.samples += 1;
        let Some(number) = self.number(stack).filter(|_| self.live.len() < MAX_LIVE) else {
            self.lost += 1;
            return false;
        };
        let live = Live { stack: number, ..live };
        if let Some(stack) = self.stacks.get_mut(number) {
            stack.amounts.allocated_bytes += live.bytes;
            stack.amounts.allocations += live.allocations;
        }
        self.restore(address, live)
    }

    /// Puts an allocation back that was removed, or a new one in.
    pub(super) fn restore(&mut self, address: usize, live: Live) -> bool {
        // A release that a thread began before the profile did was not seen: the address is another's now.
        self.remove(address);
        self.change(live, 1.0);
        self.live.insert(address, live);
        if self.live_bytes > self.peak_bytes {
            self.peak_bytes = self.live_bytes;
            self.peak += 1;
        }
        true
    }

    /// Forgets an allocation, if it was noted.
    pub(super) fn remove(&mut self, address: usize) -> Option<Live> {
        let live = self.live.remove(&address)?;
        self.change(live, -1.0);
        Some(live)
    }

    fn change(&mut self, live: Live, sign: f64) {
        self.live_bytes += sign * live.bytes;
        let peak = self.peak;
        let Some(stack) = self.stacks.get_mut(live.stack) else { return };
        if stack.peak != peak {
            // Since the last peak nothing happened here.
            stack.peak = peak;
            stack.amounts.peak_bytes = stack.amounts.live_bytes;
        }
        stack.amounts.live_bytes += sign * live.bytes;
        stack.amounts.live_allocations += sign * live.allocations;
    }

    fn number(&mut self, stack: &[usize]) -> Option<usize> {
        if let Some(number) = self.numbers.get(stack) {
            return Some(*number);
        }
        let number = self.stacks.len();
        if number >= MAX_STACKS {
            return None;
        }
        self.numbers.insert(stack.into(), number);
        self.stacks.push(Stack::default());
        Some(number)
    }

    pub(super) fn found(&self) -> Found {
        let amounts = |number: usize| {
            self.stacks.get(number).map_or_else(Amounts::default, |stack| {
                let mut amounts = stack.amounts;
                if stack.peak != self.peak {
                    amounts.peak_bytes = amounts.live_bytes;
                }
                amounts
            })
        };
        let stacks = self.numbers.iter().map(|(stack, number)| (stack.clone(), amounts(*number)));
        Found { stacks: stacks.collect(), samples: self.samples, lost: self.lost }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn exact(bytes: usize) -> Live {
        Live::picked(bytes, 1)
    }

    #[test]
    fn what_was_picked_stands_for_the_rest() {
        assert_eq!(exact(100), Live { stack: 0, bytes: 100.0, allocations: 1.0 });
        // A large one is picked for certain and stands for itself.
        let large = Live::picked(1 << 30, 1 << 16);
        assert!((large.allocations - 1.0).abs() < 1e-9, "{large:?}");
        // Of small ones one in `every / size`.
        let small = Live::picked(16, 1 << 16);
        assert!((small.allocations / 4096.0 - 1.0).abs() < 1e-3, "{small:?}");
        assert!((small.bytes / 65_536.0 - 1.0).abs() < 1e-3, "{small:?}");
    }

    #[test]
    fn an_address_that_comes_again_counts_once() {
        let mut table = Table::default();
        table.add(&[1], 0x10, exact(8));
        table.add(&[2], 0x10, exact(5));
        let live: f64 = table.found().stacks.iter().map(|(_, sums)| sums.live_bytes).sum();
        assert_eq!((live, table.live_bytes), (5.0, 5.0));
        assert_eq!(table.remove(0x20), None);
    }

    proptest! {
        /// Against a model that keeps every allocation, and a copy of all stacks at the highest peak.
        #[test]
        fn sums_and_the_peak_are_those_of_a_plain_model(
            steps in prop::collection::vec((0_usize..4, 0_usize..12, 1_usize..100), 1..200),
        ) {
            let mut table = Table::default();
            let mut live: HashMap<usize, (usize, usize)> = HashMap::new();
            let (mut highest, mut at_peak) = (0, [0; 4]);
            let mut allocated = [0; 4];
            for (stack, address, size) in steps {
                if live.remove(&address).is_some() {
                    prop_assert!(table.remove(address).is_some());
                } else {
                    table.add(&[stack], address, exact(size));
                    live.insert(address, (stack, size));
                    allocated[stack] += size;
                }
                let mut by_stack = [0; 4];
                live.values().for_each(|(stack, size)| by_stack[*stack] += size);
                let sum: usize = by_stack.iter().sum();
                if sum > highest {
                    (highest, at_peak) = (sum, by_stack);
                }
                for (stack, sums) in table.found().stacks {
                    prop_assert_eq!(sums.live_bytes as usize, by_stack[stack[0]]);
                    prop_assert_eq!(sums.peak_bytes as usize, at_peak[stack[0]]);
                    prop_assert_eq!(sums.allocated_bytes as usize, allocated[stack[0]]);
                }
            }
        }
    }
}

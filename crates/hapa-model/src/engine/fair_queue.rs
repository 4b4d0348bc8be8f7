//! Who is next among those who wait: fair between namespaces, quick for editors.
//!
//! Each flow (a namespace and a priority) counts the tokens that it was served, and the flow with the smallest count is next.
//! A flow that comes back starts at the smallest count of those who wait, so that nobody saves up time. Between two flows
//! that both wait, the served tokens never differ by more than a few requests' worth, whatever they ask and however many
//! requests either has waiting. This is the virtual token counter of Sheng et al., "Fairness in Serving Large Language
//! Models", OSDI 2024; prompts are counted when they are taken up, whether or not the prefix cache has them, answers as they grow.
//!
//! A token of an interactive flow counts an eighth: editors wait for little, and whoever only generates still gets a ninth.

use std::collections::{HashMap, VecDeque};

use super::request::Priority;

/// Those between whom the engine's time is shared.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub(super) struct Flow {
    pub(super) namespace: u64,
    pub(super) priority: Priority,
}

/// A token of an answer costs as much as that many of a prompt, which are computed many at once.
pub(super) const ANSWER_TOKEN: u64 = 2;
/// What a normal flow's token counts, in tokens of an interactive one.
const NORMAL_TOKEN: u64 = 8;

impl Flow {
    fn price(self) -> u64 {
        match self.priority {
            Priority::Interactive => 1,
            Priority::Normal => NORMAL_TOKEN,
        }
    }
}

/// Requests that wait, each with the tokens of its prompt.
pub(super) struct FairQueue<T> {
    lines: HashMap<Flow, Line<T>>,
    len: usize,
    tokens: usize,
    /// The count at which a flow starts while nobody waits: that of the last one that did.
    idle_floor: u64,
}

struct Line<T> {
    served: u64,
    entries: VecDeque<Entry<T>>,
}

struct Entry<T> {
    id: u64,
    tokens: usize,
    value: T,
}

impl<T> Default for FairQueue<T> {
    fn default() -> Self {
        Self { lines: HashMap::new(), len: 0, tokens: 0, idle_floor: 0 }
    }
}

impl<T> FairQueue<T> {
    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// Prompt tokens of all who wait.
    pub(super) fn tokens(&self) -> usize {
        self.tokens
    }

    /// Lets a request wait at the end of its flow. Ids grow from call to call.
    pub(super) fn push(&mut self, flow: Flow, id: u64, tokens: usize, value: T) {
        let floor = self.floor();
        if !self.lines.contains_key(&flow) {
            // Whoever is not ahead of the others would start at the floor anyway: nothing is lost by forgetting it.
            self.lines.retain(|_, line| !line.entries.is_empty() || line.served > floor);
        }
        let line =
            self.lines.entry(flow).or_insert(Line { served: floor, entries: VecDeque::new() });
        if line.entries.is_empty() {
            line.served = line.served.max(floor);
        }
        line.entries.push_back(Entry { id, tokens, value });
        self.len += 1;
        self.tokens += tokens;
    }

    /// The request that is next among those whose priority has room.
    pub(super) fn front(&self, has_room: impl Fn(Priority) -> bool) -> Option<&T> {
        self.next(has_room)
            .and_then(|flow| self.lines.get(&flow)?.entries.front())
            .map(|e| &e.value)
    }

    /// Takes the request that [`Self::front`] shows, and counts its prompt as served.
    pub(super) fn take(&mut self, has_room: impl Fn(Priority) -> bool) -> Option<T> {
        let flow = self.next(has_room)?;
        let line = self.lines.get_mut(&flow)?;
        let entry = line.entries.pop_front()?;
        line.served += flow.price() * entry.tokens as u64;
        self.left(flow, entry.tokens);
        Some(entry.value)
    }

    /// Takes a request out that is not served.
    pub(super) fn remove(&mut self, id: u64) -> Option<T> {
        let (&flow, line) =
            self.lines.iter_mut().find(|(_, line)| line.entries.iter().any(|e| e.id == id))?;
        let at = line.entries.iter().position(|entry| entry.id == id)?;
        let entry = line.entries.remove(at)?;
        self.left(flow, entry.tokens);
        Some(entry.value)
    }

    /// Counts tokens of an answer as served.
    pub(super) fn charge(&mut self, flow: Flow, answer_tokens: usize) {
        let floor = self.floor();
        let line =
            self.lines.entry(flow).or_insert(Line { served: floor, entries: VecDeque::new() });
        line.served += flow.price() * ANSWER_TOKEN * answer_tokens as u64;
    }

    /// Those who would be served before one that comes now, in their order, if each costs what `cost` says.
    pub(super) fn ahead(&self, flow: Flow, cost: impl Fn(&T) -> u64) -> Vec<&T> {
        let own = self.lines.get(&flow);
        let start = match own {
            Some(line) if !line.entries.is_empty() => line.served,
            Some(line) => line.served.max(self.floor()),
            None => self.floor(),
        };
        let waiting = own.into_iter().flat_map(|line| &line.entries);
        let turn: u64 = start + waiting.map(|e| flow.price() * cost(&e.value)).sum::<u64>();
        let mut ahead = Vec::new();
        for (&other, line) in &self.lines {
            let mut at = line.served;
            for entry in &line.entries {
                let first = at < turn || (at == turn && other.priority <= flow.priority);
                if other != flow && !first {
                    break;
                }
                ahead.push(((at, other.priority, entry.id), &entry.value));
                at += other.price() * cost(&entry.value);
            }
        }
        ahead.sort_unstable_by_key(|&(turn, _)| turn);
        ahead.into_iter().map(|(_, value)| value).collect()
    }

    /// Takes all out.
    pub(super) fn drain(&mut self) -> impl Iterator<Item = T> {
        let lines = std::mem::take(self).lines.into_values();
        lines.flat_map(|line| line.entries).map(|entry| entry.value)
    }

    fn next(&self, has_room: impl Fn(Priority) -> bool) -> Option<Flow> {
        let waiting = self.lines.iter().filter(|(flow, _)| has_room(flow.priority));
        let fronts = waiting.filter_map(|(flow, line)| {
            Some((line.served, flow.priority, line.entries.front()?.id, *flow))
        });
        fronts.min_by_key(|&(served, priority, id, _)| (served, priority, id)).map(|front| front.3)
    }

    /// Where a flow starts that comes now.
    fn floor(&self) -> u64 {
        let waiting = self.lines.values().filter(|line| !line.entries.is_empty());
        waiting.map(|line| line.served).min().unwrap_or(self.idle_floor)
    }

    fn left(&mut self, flow: Flow, tokens: usize) {
        self.len -= 1;
        self.tokens -= tokens;
        if self.len == 0 {
            self.idle_floor = self.lines.get(&flow).map_or(self.idle_floor, |line| line.served);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    impl<T> FairQueue<T> {
        /// Recomputes every counter.
        fn check(&self) {
            let entries = || self.lines.values().flat_map(|line| &line.entries);
            assert_eq!(self.len, entries().count());
            assert_eq!(self.tokens, entries().map(|entry| entry.tokens).sum::<usize>());
            for line in self.lines.values() {
                assert!(
                    line.entries.iter().is_sorted_by_key(|entry| entry.id),
                    "a flow is first come, first served"
                );
            }
            let floor = self.floor();
            let waiting = self.lines.values().filter(|line| !line.entries.is_empty());
            assert!(waiting.map(|line| line.served).all(|served| served >= floor));
        }
    }

    fn flow(namespace: u64, priority: Priority) -> Flow {
        Flow { namespace, priority }
    }

    fn normal(namespace: u64) -> Flow {
        flow(namespace, Priority::Normal)
    }

    fn all(_: Priority) -> bool {
        true
    }

    /// Takes all, serving each at once.
    fn order(queue: &mut FairQueue<(Flow, usize)>) -> Vec<Flow> {
        let mut order = Vec::new();
        while let Some((flow, answer)) = queue.take(all) {
            queue.charge(flow, answer);
            queue.check();
            order.push(flow);
        }
        order
    }

    #[test]
    fn one_flow_is_first_come_first_served() {
        let mut queue = FairQueue::default();
        for id in 0..5 {
            queue.push(normal(0), id, 10 + id as usize, id);
        }
        assert_eq!((queue.len(), queue.tokens()), (5, 60));
        assert_eq!(queue.remove(2), Some(2));
        assert_eq!(queue.remove(2), None);
        let taken: Vec<u64> = std::iter::from_fn(|| queue.take(all)).collect();
        assert_eq!(taken, [0, 1, 3, 4]);
        assert_eq!((queue.len(), queue.tokens()), (0, 0));
    }

    #[test]
    fn who_asks_for_much_does_not_keep_others_waiting() {
        let mut queue = FairQueue::default();
        for id in 0..50 {
            queue.push(normal(1), id, 100, (normal(1), 100));
        }
        queue.push(normal(2), 50, 100, (normal(2), 100));
        queue.push(normal(2), 51, 100, (normal(2), 100));
        let order = order(&mut queue);
        let places: Vec<usize> = (0..order.len()).filter(|&at| order[at] == normal(2)).collect();
        assert_eq!(places, [1, 3], "turn by turn, though 50 came before");
    }

    #[test]
    fn nobody_saves_up_time_by_being_away() {
        let mut queue = FairQueue::default();
        for id in 0..20 {
            queue.push(normal(1), id, 10, (normal(1), 0));
        }
        for _ in 0..15 {
            queue.take(all);
        }
        for id in 20..30 {
            queue.push(normal(2), id, 10, (normal(2), 0));
        }
        let order = order(&mut queue);
        let first: Vec<u64> = order[..6].iter().map(|flow| flow.namespace).collect();
        assert_eq!(first, [1, 2, 1, 2, 1, 2]);
    }

    #[test]
    fn editors_come_first_and_starve_nobody() {
        let editor = flow(1, Priority::Interactive);
        let mut queue = FairQueue::default();
        for id in 0..90 {
            let flow = if id % 2 == 0 { normal(1) } else { editor };
            queue.push(flow, id, 100, (flow, 0));
        }
        let order = order(&mut queue);
        assert_eq!(order[0], editor);
        let generations = order[..45].iter().filter(|flow| **flow == normal(1)).count();
        assert_eq!(generations, 5, "one in nine");
    }

    #[test]
    fn room_for_editors_alone_goes_to_editors() {
        let editor = flow(1, Priority::Interactive);
        let mut queue = FairQueue::default();
        queue.push(normal(0), 0, 1, "generation");
        queue.charge(editor, 1_000);
        queue.push(editor, 1, 1, "completion");
        assert_eq!(queue.front(all), Some(&"generation"));
        let spare = |priority| priority == Priority::Interactive;
        assert_eq!(queue.take(spare), Some("completion"));
        assert_eq!(queue.front(spare), None);
        assert_eq!(queue.take(all), Some("generation"));
    }

    #[test]
    fn flows_that_are_even_are_forgotten() {
        let mut queue = FairQueue::default();
        for id in 0..10_000 {
            queue.push(normal(id), id, 10, ());
            queue.take(all);
        }
        assert!(queue.lines.len() < 10, "{} flows are remembered", queue.lines.len());
    }

    #[test]
    fn those_ahead_are_those_who_are_served_before() {
        let mut queue = FairQueue::default();
        for id in 0..12 {
            let flow = [normal(1), normal(2), flow(3, Priority::Interactive)][id as usize % 3];
            queue.push(flow, id, 10 + id as usize, (flow, id));
        }
        for newcomer in [normal(1), normal(4), flow(1, Priority::Interactive)] {
            let cost = |&(_, id): &(Flow, u64)| 10 + id;
            let ahead: Vec<u64> = queue.ahead(newcomer, cost).iter().map(|job| job.1).collect();
            let mut copy = FairQueue::default();
            for id in 0..12 {
                let flow = [normal(1), normal(2), flow(3, Priority::Interactive)][id as usize % 3];
                copy.push(flow, id, 10 + id as usize, (flow, id));
            }
            copy.push(newcomer, 12, 10, (newcomer, 12));
            let served = std::iter::from_fn(|| copy.take(all)).map(|job| job.1);
            let before: Vec<u64> = served.take_while(|&id| id != 12).collect();
            assert_eq!(ahead, before, "{newcomer:?}");
        }
    }

    #[derive(Debug, Clone)]
    enum Action {
        Push { namespace: u64, interactive: bool, prompt: usize, answer: usize },
        Take,
        Remove(u64),
    }

    fn actions() -> impl Strategy<Value = Vec<Action>> {
        let push = (0..3u64, any::<bool>(), 0..200usize, 0..50usize).prop_map(
            |(namespace, interactive, prompt, answer)| Action::Push {
                namespace,
                interactive,
                prompt,
                answer,
            },
        );
        let action = prop_oneof![4 => push, 3 => Just(Action::Take), 1 => (0..200u64).prop_map(Action::Remove)];
        proptest::collection::vec(action, 1..200)
    }

    proptest! {
        #[test]
        fn nothing_is_lost_doubled_or_miscounted(actions in actions()) {
            let mut queue = FairQueue::default();
            let mut model: BTreeMap<u64, (Flow, usize, usize)> = BTreeMap::new();
            for (id, action) in (0..).zip(actions) {
                let mut floor = queue.floor();
                match action {
                    Action::Push { namespace, interactive, prompt, answer } => {
                        let priority = if interactive { Priority::Interactive } else { Priority::Normal };
                        let flow = flow(namespace, priority);
                        model.insert(id, (flow, prompt, answer));
                        queue.push(flow, id, prompt, id);
                    }
                    Action::Take => {
                        let shown = queue.front(all).copied();
                        let taken = queue.take(all);
                        prop_assert_eq!(shown, taken);
                        prop_assert_eq!(taken.is_none(), model.is_empty());
                        if let Some((flow, _, answer)) = taken.and_then(|id| model.remove(&id)) {
                            queue.charge(flow, answer);
                        }
                    }
                    Action::Remove(id) => {
                        prop_assert_eq!(queue.remove(id), model.remove(&id).map(|_| id));
                    }
                }
                queue.check();
                prop_assert_eq!(queue.len(), model.len());
                prop_assert_eq!(queue.tokens(), model.values().map(|job| job.1).sum::<usize>());
                floor = queue.floor().checked_sub(floor).expect("the floor never sinks");
                let _ = floor;
            }
            let mut rest: Vec<u64> = queue.drain().collect();
            rest.sort_unstable();
            prop_assert_eq!(rest, model.into_keys().collect::<Vec<_>>());
            prop_assert_eq!(queue.len(), 0);
        }

        /// The bound of the paper for two flows that always have somebody waiting: two requests' worth.
        #[test]
        fn two_who_wait_are_served_alike(requests in proptest::collection::vec((1..300usize, 0..100usize), 80)) {
            let mut queue = FairQueue::default();
            let most = requests.iter().map(|&(prompt, answer)| prompt as u64 + ANSWER_TOKEN * answer as u64).max();
            let bound = 2 * most.unwrap_or(0);
            // The first asks three times as much as the second, all of it before the second comes.
            for (id, &(prompt, answer)) in (0..).zip(&requests) {
                let flow = normal(u64::from(id >= 60));
                queue.push(flow, id, prompt, (flow, prompt, answer));
            }
            let mut served = [0u64; 2];
            let mut left = [60, 20];
            while left.iter().all(|&left| left > 1) {
                let (flow, prompt, answer) = queue.take(all).expect("both wait");
                queue.charge(flow, answer);
                served[flow.namespace as usize] += prompt as u64 + ANSWER_TOKEN * answer as u64;
                left[flow.namespace as usize] -= 1;
                prop_assert!(served[0].abs_diff(served[1]) <= bound, "{served:?}, {bound}");
            }
        }
    }
}

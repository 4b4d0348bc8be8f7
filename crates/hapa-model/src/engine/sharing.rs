//! Prompts that begin alike and arrive together are computed once.
//!
//! The prefix cache knows what has been computed. Requests that come at the same moment (an editor that asks for several
//! completions, a batch with one system prompt) find nothing there yet, so all but the first of them wait while
//! that one reads what they share, and then take over its pages.

use super::sequence::{Kind, Leader, Sequence};
use crate::backend::Executor;

/// Makes a sequence wait for one that runs already and reads the same beginning. `running` are those before it.
pub(super) fn follow(sequence: &mut Sequence, running: &[Sequence], page_tokens: usize) {
    sequence.leader = None;
    if page_tokens == 0 || !matches!(sequence.kind, Kind::Generate(_)) {
        return;
    }
    // One token is always computed by the sequence itself.
    let own = &sequence.tokens[..sequence.tokens.len() - 1];
    let mut most = sequence.computed;
    let mut leader = None;
    for other in running.iter().filter(|other| leads(other, sequence)) {
        let common = own.iter().zip(&other.tokens).take_while(|(a, b)| a == b).count();
        let common = common / page_tokens * page_tokens;
        if common > most && common > other.computed {
            most = common;
            leader = Some(Leader { id: other.id, common });
        }
    }
    sequence.leader = leader;
}

/// The other reads its prompt, came first, and can go on. Since leaders came first, none waits for another in a circle.
fn leads(other: &Sequence, sequence: &Sequence) -> bool {
    other.id < sequence.id
        && other.flow.namespace == sequence.flow.namespace
        && matches!(other.kind, Kind::Generate(_))
        && other.open.is_some()
        && other.suspect_until.is_none()
        && other.pending() > 0
        && other.reader_ready()
}

/// Lets sequences go on whose leaders have read what they share, with the leader's pages, and finds new leaders for those
/// that lost theirs. Calls `adopted` with each sequence and the tokens that it need not compute.
pub(super) fn take_over(
    running: &mut [Sequence],
    executor: &mut dyn Executor,
    page_tokens: usize,
    mut adopted: impl FnMut(&mut Sequence, usize),
) {
    for index in 0..running.len() {
        let (before, rest) = running.split_at_mut(index);
        let sequence = &mut rest[0];
        let (Some(leader), Some(id)) = (sequence.leader, sequence.open) else { continue };
        let leading = before.iter().find(|other| other.id == leader.id);
        if leading.is_some_and(|other| leads(other, sequence) && other.computed < leader.common) {
            continue;
        }
        let held = executor.adopt(id, &sequence.tokens);
        let more = held.saturating_sub(sequence.computed);
        sequence.computed = held;
        adopted(sequence, more);
        follow(sequence, before, page_tokens);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::Ordering;

    use crate::engine::fake::{FakeBackend, FakeVocabulary, Probe, continuation};
    use crate::engine::tests::{collect, options, prompt};
    use crate::engine::{Engine, GenerateRequest, Generation, Speculate};

    fn engine() -> (Engine, Arc<Probe>) {
        let mut backend = FakeBackend::new(0, 4);
        backend.shares = true;
        let probe = Arc::clone(&backend.probe);
        let mut options = options();
        options.max_sequences = 8;
        options.speculate = Speculate::Never;
        let engine = Engine::start(Arc::new(backend), Arc::new(FakeVocabulary), options);
        (engine.expect("starts"), probe)
    }

    fn computed(probe: &Probe) -> usize {
        probe.steps.lock().iter().flatten().map(|chunk| chunk.1).sum()
    }

    /// Prompts with one beginning of 100 tokens, and an end of their own.
    fn prompts() -> Vec<Vec<u32>> {
        (0..8).map(|i| [prompt(0, 100), prompt(i + 1, i as usize)].concat()).collect()
    }

    fn submit(engine: &Engine, prompts: &[Vec<u32>]) -> Vec<Generation> {
        let request = |p: &Vec<u32>| GenerateRequest::new(p.clone(), 5);
        prompts.iter().map(|p| engine.submit(request(p)).expect("room")).collect()
    }

    #[test]
    fn what_eight_prompts_begin_with_is_computed_once() {
        let (engine, probe) = engine();
        probe.hold();
        let prompts = prompts();
        let generations = submit(&engine, &prompts);
        probe.release();
        let mut cached = 0;
        for (prompt, generation) in prompts.iter().zip(generations) {
            let answer = collect(generation);
            assert_eq!(answer.output.tokens, continuation(prompt, 5));
            cached += answer.finish.usage.cached_tokens;
        }
        let total: usize = prompts.iter().map(Vec::len).sum();
        // The first prompt is the beginning alone, of which its last page is computed by itself.
        assert!(cached >= 7 * 96, "{cached} tokens were shared");
        assert_eq!(computed(&probe), total - cached + 8 * 4, "each token once");
        assert_eq!(engine.stats().cached_tokens, cached as u64);
        assert_eq!(probe.open.load(Ordering::SeqCst), 0);
    }

    #[test]
    fn namespaces_do_not_wait_for_one_another() {
        let (engine, probe) = engine();
        probe.hold();
        let request =
            |namespace| GenerateRequest { namespace, ..GenerateRequest::new(prompt(0, 40), 5) };
        let both = [1, 2].map(|namespace| engine.submit(request(namespace)).expect("room"));
        probe.release();
        for generation in both {
            assert_eq!(collect(generation).finish.usage.cached_tokens, 0);
        }
    }

    #[test]
    fn another_leads_when_the_first_goes_away() {
        let (engine, probe) = engine();
        probe.hold();
        let prompts = prompts();
        let mut generations = submit(&engine, &prompts);
        probe.allow(4);
        crate::engine::tests::eventually("four chunks", || probe.steps.lock().len() == 4);
        drop(generations.remove(0));
        probe.release();
        for (prompt, generation) in prompts[1..].iter().zip(generations) {
            assert_eq!(collect(generation).output.tokens, continuation(prompt, 5));
        }
        let alone: usize = prompts.iter().map(Vec::len).sum();
        // The fake forgets what the first had read, so that is read once more, but by one.
        assert!(computed(&probe) < alone - 5 * 96, "{} of {alone}", computed(&probe));
    }
}

//! The page table and the prefix tree under random sequences: every counter is recomputed after every step.

use std::collections::HashMap;

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::{KvCache, PageCopy};
use crate::backend::SequenceId;

/// A KV cache whose pages hold the very tokens they stand for, so that sharing, copying and eviction can be seen to
/// be right.
struct Checked {
    cache: KvCache,
    contents: Vec<Vec<Option<u32>>>,
    page_tokens: usize,
    expected: HashMap<SequenceId, Vec<u32>>,
}

impl Checked {
    fn new(pages: u32, page_tokens: usize) -> Self {
        Self {
            cache: KvCache::new(pages, page_tokens),
            contents: vec![vec![None; page_tokens]; pages as usize],
            page_tokens,
            expected: HashMap::new(),
        }
    }

    fn copy(&mut self, copies: &[PageCopy]) {
        for copy in copies {
            self.contents[copy.to as usize] = self.contents[copy.from as usize].clone();
        }
    }

    fn open(&mut self, prompt: &[u32], namespace: u64) -> (SequenceId, usize) {
        let (opened, copy) = self.cache.open(prompt, namespace);
        self.copy(copy.as_slice());
        assert!(opened.cached_tokens < prompt.len());
        self.expected.insert(opened.id, prompt[..opened.cached_tokens].to_vec());
        self.check();
        (opened.id, opened.cached_tokens)
    }

    fn append(&mut self, id: SequenceId, tokens: &[u32]) -> bool {
        let mut copies = Vec::new();
        if self.cache.reserve(id, tokens.len(), &mut copies).is_err() {
            self.copy(&copies);
            self.cache.trim(id);
            self.check();
            return false;
        }
        self.copy(&copies);
        let start = self.cache.len(id).unwrap();
        for (i, &token) in tokens.iter().enumerate() {
            let position = start + i;
            let page = self.cache.pages(id)[position / self.page_tokens];
            assert_eq!(self.cache.pages.refs(page), 1, "a shared page is written to");
            self.contents[page as usize][position % self.page_tokens] = Some(token);
        }
        self.cache.append(id, tokens);
        self.expected.get_mut(&id).unwrap().extend_from_slice(tokens);
        self.check();
        true
    }

    fn adopt(&mut self, id: SequenceId, prompt: &[u32]) -> usize {
        let before = self.cache.len(id).unwrap();
        let held = self.cache.adopt(id, prompt);
        assert!(held < prompt.len() && held >= before);
        self.expected.insert(id, prompt[..held].to_vec());
        self.check();
        held
    }

    fn truncate(&mut self, id: SequenceId, tokens: usize) {
        self.cache.truncate(id, tokens);
        self.expected.get_mut(&id).unwrap().truncate(tokens);
        self.check();
    }

    fn close(&mut self, id: SequenceId) {
        self.cache.close(id);
        self.expected.remove(&id);
        self.check();
    }

    fn check(&self) {
        self.cache.check().unwrap();
        for (&id, tokens) in &self.expected {
            assert_eq!(self.cache.len(id), Some(tokens.len()));
            for (position, &token) in tokens.iter().enumerate() {
                let page = self.cache.pages(id)[position / self.page_tokens];
                let held = self.contents[page as usize][position % self.page_tokens];
                assert_eq!(held, Some(token), "{id:?} at {position}");
            }
        }
    }
}

#[test]
fn a_closed_prompt_is_found_again_up_to_its_last_token() {
    let mut kv = Checked::new(16, 4);
    let prompt: Vec<u32> = (0..11).collect();
    let (id, cached) = kv.open(&prompt, 0);
    assert_eq!(cached, 0);
    assert!(kv.append(id, &prompt));
    kv.close(id);
    let (id, cached) = kv.open(&prompt, 0);
    assert_eq!(cached, 10, "two whole pages and two tokens of the third");
    kv.close(id);
    let (_, cached) = kv.open(&prompt, 1);
    assert_eq!(cached, 0, "namespaces do not share");
}

#[test]
fn a_running_sequence_shares_its_full_pages() {
    let mut kv = Checked::new(16, 4);
    let prompt: Vec<u32> = (0..9).collect();
    let (a, _) = kv.open(&prompt, 0);
    assert!(kv.append(a, &prompt));
    assert!(kv.append(a, &[100]));
    let (b, cached) = kv.open(&prompt, 0);
    assert_eq!(cached, 8);
    assert_eq!(kv.cache.pages(a)[..2], kv.cache.pages(b)[..2]);
}

#[test]
fn a_prompt_that_another_is_reading_is_adopted() {
    let mut kv = Checked::new(16, 4);
    let prompt: Vec<u32> = (0..14).collect();
    let mut other = prompt.clone();
    other[13] = 99;
    let (a, _) = kv.open(&prompt, 0);
    let (b, _) = kv.open(&other, 0);
    let (c, _) = kv.open(&other, 1);
    assert_eq!(kv.adopt(b, &other), 0, "nothing is there yet");
    assert!(kv.append(b, &other[..3]));
    assert!(kv.append(a, &prompt[..6]));
    assert_eq!(kv.adopt(b, &other), 4, "a page of its own gives way");
    assert!(kv.append(a, &prompt[6..]));
    assert_eq!(kv.adopt(b, &other), 12);
    assert_eq!(kv.cache.pages(a)[..3], kv.cache.pages(b)[..3]);
    assert_eq!(kv.adopt(c, &other), 0, "namespaces do not share");
    assert!(kv.append(b, &other[12..]));
    // One token must be left to compute, so the last whole page is not taken.
    let (d, _) = kv.open(&[7], 0);
    let whole: Vec<u32> = (0..12).collect();
    assert_eq!(kv.cache.adopt(d, &whole), 8);
    kv.expected.insert(d, whole[..8].to_vec());
    for id in [a, b, c, d] {
        kv.close(id);
    }
    assert_eq!(kv.cache.usage(1).held_pages, 0);
}

#[test]
fn rejected_drafts_never_reach_the_tree() {
    let mut kv = Checked::new(16, 4);
    let (a, _) = kv.open(&[1, 2, 3], 0);
    assert!(kv.append(a, &[1, 2, 3]));
    assert!(kv.append(a, &[7, 7, 7, 7, 7]));
    kv.truncate(a, 4);
    assert!(kv.append(a, &[8]));
    kv.close(a);
    let (_, cached) = kv.open(&[1, 2, 3, 7, 8, 9], 0);
    assert_eq!(cached, 5);
    let (_, cached) = kv.open(&[1, 2, 3, 7, 7, 7], 0);
    assert_eq!(cached, 4);
}

#[test]
fn a_full_cache_refuses_and_closing_makes_room() {
    let mut kv = Checked::new(3, 2);
    let (a, _) = kv.open(&[1; 9], 0);
    assert!(kv.append(a, &[1, 2, 3, 4]));
    let (b, _) = kv.open(&[9; 9], 0);
    assert!(kv.append(b, &[9, 8]));
    assert!(!kv.append(b, &[7]));
    let usage = kv.cache.usage(10);
    assert_eq!((usage.held_pages, usage.cached_pages, usage.bytes), (3, 0, 30));
    kv.close(a);
    assert!(kv.append(b, &[7, 6, 5, 4]), "pages of a closed sequence are evicted at need");
}

#[test]
fn ten_thousand_random_operations_keep_every_invariant() {
    for seed in 0..4 {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let page_tokens = [1, 3, 4, 8][seed as usize];
        let mut kv = Checked::new([40, 20, 16, 10][seed as usize], page_tokens);
        let mut open: Vec<SequenceId> = Vec::new();
        let (mut refused, mut adopted) = (0, 0);
        for _ in 0..10_000 {
            match rng.random_range(0..11) {
                0..=2 if open.len() < 6 => {
                    // Few distinct tokens, so that prefixes meet often.
                    let prompt: Vec<u32> =
                        (0..rng.random_range(1..20)).map(|_| rng.random_range(0..2)).collect();
                    let (id, cached) = kv.open(&prompt, rng.random_range(0..2));
                    refused += usize::from(!kv.append(id, &prompt[cached..]));
                    open.push(id);
                }
                3..=6 if !open.is_empty() => {
                    let id = open[rng.random_range(0..open.len())];
                    let tokens: Vec<u32> =
                        (0..rng.random_range(1..6)).map(|_| rng.random_range(0..2)).collect();
                    refused += usize::from(!kv.append(id, &tokens));
                }
                7 if !open.is_empty() => {
                    let id = open[rng.random_range(0..open.len())];
                    let len = kv.cache.len(id).unwrap();
                    kv.truncate(id, rng.random_range(0..=len));
                }
                8..=9 if !open.is_empty() => {
                    let id = open.swap_remove(rng.random_range(0..open.len()));
                    kv.close(id);
                }
                10 if !open.is_empty() => {
                    // What it holds, going on as others may have gone on.
                    let id = open[rng.random_range(0..open.len())];
                    let mut prompt = kv.expected[&id].clone();
                    prompt.extend((0..rng.random_range(1..12)).map(|_| rng.random_range(0..2)));
                    let before = kv.cache.len(id).unwrap();
                    adopted += kv.adopt(id, &prompt) - before;
                }
                _ => {}
            }
        }
        assert!(refused > 0 && adopted > 0, "the test must reach exhaustion and adoption");
        for id in open {
            kv.close(id);
        }
        assert_eq!(kv.cache.usage(1).held_pages, 0);
    }
}

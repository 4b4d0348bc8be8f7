//! A KV cache that is looked over after each operation: for tests, and for the fuzz target `kv_cache`.
#![allow(clippy::unwrap_used, reason = "a check that fails should stop")]

use std::collections::HashMap;

use super::{KvCache, PageCopy};
use crate::backend::SequenceId;

/// A KV cache whose pages hold the very tokens they stand for, so that sharing, copying and eviction can be seen to
/// be right.
pub(super) struct Checked {
    pub(super) cache: KvCache,
    contents: Vec<Vec<Option<u32>>>,
    page_tokens: usize,
    pub(super) expected: HashMap<SequenceId, Vec<u32>>,
}

impl Checked {
    pub(super) fn new(pages: u32, page_tokens: usize) -> Self {
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

    pub(super) fn open(&mut self, prompt: &[u32], namespace: u64) -> (SequenceId, usize) {
        let (opened, copy) = self.cache.open(prompt, namespace);
        self.copy(copy.as_slice());
        assert!(opened.cached_tokens < prompt.len());
        self.expected.insert(opened.id, prompt[..opened.cached_tokens].to_vec());
        self.check();
        (opened.id, opened.cached_tokens)
    }

    pub(super) fn append(&mut self, id: SequenceId, tokens: &[u32]) -> bool {
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

    pub(super) fn adopt(&mut self, id: SequenceId, prompt: &[u32]) -> usize {
        let before = self.cache.len(id).unwrap();
        let held = self.cache.adopt(id, prompt);
        assert!(held < prompt.len() && held >= before);
        self.expected.insert(id, prompt[..held].to_vec());
        self.check();
        held
    }

    pub(super) fn truncate(&mut self, id: SequenceId, tokens: usize) {
        self.cache.truncate(id, tokens);
        self.expected.get_mut(&id).unwrap().truncate(tokens);
        self.check();
    }

    pub(super) fn close(&mut self, id: SequenceId) {
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

/// What some [`operations`] came to.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct KvOperations {
    /// How many there were.
    pub operations: usize,
    /// Those for which there was no page.
    pub refused: usize,
    /// Tokens that a sequence took over from another one while it ran.
    pub adopted: usize,
}

/// Carries out the operations that bytes spell on a small KV cache. After each, every counter is recomputed and the contents of
/// all pages are compared; at the end all sequences are closed and no page may be held.
///
/// # Panics
/// When anything is not as it should be.
pub fn operations(bytes: &[u8]) -> KvOperations {
    let mut bytes = bytes.iter().map(|byte| usize::from(*byte));
    let mut next = move || bytes.next();
    let mut done = KvOperations::default();
    let (Some(size), Some(pages)) = (next(), next()) else { return done };
    let mut kv = Checked::new(8 + pages as u32 % 32, [1, 3, 4, 8][size % 4]);
    let mut open: Vec<SequenceId> = Vec::new();
    while carry_out(&mut kv, &mut open, &mut next, &mut done).is_some() {
        done.operations += 1;
    }
    for id in open {
        kv.close(id);
    }
    assert_eq!(kv.cache.usage(1).held_pages, 0);
    done
}

/// One operation; `None` when the bytes are at their end.
fn carry_out(
    kv: &mut Checked,
    open: &mut Vec<SequenceId>,
    next: &mut impl FnMut() -> Option<usize>,
    done: &mut KvOperations,
) -> Option<()> {
    let operation = next()? % 11;
    if operation <= 2 && open.len() < 6 {
        let namespace = next()? as u64 % 2;
        let prompt = tokens(next, 19)?;
        let (id, cached) = kv.open(&prompt, namespace);
        done.refused += usize::from(!kv.append(id, &prompt[cached..]));
        open.push(id);
        return Some(());
    }
    if open.is_empty() {
        return Some(());
    }
    let at = next()? % open.len();
    let id = open[at];
    let len = kv.cache.len(id).unwrap();
    match operation {
        3..=6 => done.refused += usize::from(!kv.append(id, &tokens(next, 5)?)),
        7 => kv.truncate(id, next()? % (len + 1)),
        8..=9 => {
            open.swap_remove(at);
            kv.close(id);
        }
        10 => {
            // What it holds, going on as others may have gone on.
            let mut prompt = kv.expected[&id].clone();
            prompt.extend(tokens(next, 11)?);
            done.adopted += kv.adopt(id, &prompt) - len;
        }
        _ => {}
    }
    Some(())
}

/// Up to `most` tokens, at least one, of few kinds, so that prefixes meet often.
fn tokens(next: &mut impl FnMut() -> Option<usize>, most: usize) -> Option<Vec<u32>> {
    let count = 1 + next()? % most;
    (0..count).map(|_| Some(next()? as u32 % 2)).collect()
}

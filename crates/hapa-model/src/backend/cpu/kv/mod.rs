//! The bookkeeping of the paged KV cache: which page holds which tokens of which sequence.
//!
//! Nothing here touches keys or values. Where a page's contents must be duplicated, a [`PageCopy`] says so and
//! the executor carries it out before the next write.
//!
//! Invariants, recomputed by [`KvCache::check`]:
//! - a page's counter equals the number of sequences and tree nodes that hold it; it is free exactly at zero;
//! - a sequence holds exactly the pages that its tokens (and a reservation) need;
//! - a page that is written to is held by one sequence alone.

#[cfg(any(test, feature = "testing"))]
mod checked;
mod pages;
mod prefix_tree;
#[cfg(test)]
mod tests;

use std::collections::HashMap;

#[cfg(any(test, feature = "testing"))]
pub use self::checked::{KvOperations, operations};
use self::pages::PageTable;
use self::prefix_tree::{NodeIndex, PrefixTree};
use crate::backend::{KvUsage, Opened, SequenceId};

/// "Copy the contents of one page to another."
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct PageCopy {
    pub(super) from: u32,
    pub(super) to: u32,
}

/// Every page is held by an open sequence.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct OutOfPages;

#[derive(Debug)]
struct Sequence {
    namespace: u64,
    tokens: Vec<u32>,
    pages: Vec<u32>,
    /// Tree nodes of the leading pages; `path[i]` holds `pages[i]`.
    path: Vec<NodeIndex>,
}

#[derive(Debug)]
pub(super) struct KvCache {
    page_tokens: usize,
    pages: PageTable,
    tree: PrefixTree,
    sequences: HashMap<SequenceId, Sequence>,
    next_id: u64,
}

impl KvCache {
    pub(super) fn new(total_pages: u32, page_tokens: usize) -> Self {
        Self {
            page_tokens,
            pages: PageTable::new(total_pages),
            tree: PrefixTree::new(page_tokens),
            sequences: HashMap::new(),
            next_id: 0,
        }
    }

    /// Opens a sequence on the longest known prefix of `prompt`, always leaving one token to compute.
    pub(super) fn open(&mut self, prompt: &[u32], namespace: u64) -> (Opened, Option<PageCopy>) {
        self.share_all();
        let usable = &prompt[..prompt.len().saturating_sub(1)];
        let found = self.tree.find(namespace, usable);
        let mut held = Vec::with_capacity(found.path.len() + 1);
        for &node in &found.path {
            if let Some(page) = self.tree.page(node) {
                self.pages.retain(page);
                held.push(page);
            }
        }
        let mut cached_tokens = held.len() * self.page_tokens;
        let mut copy = None;
        if let Some((from, shared)) = found.partial {
            // Held for the moment, so that making room cannot evict the very page that is to be copied.
            self.pages.retain(from);
            if let Some(to) = self.take_page() {
                held.push(to);
                cached_tokens += shared;
                copy = Some(PageCopy { from, to });
            }
            self.pages.release(from);
        }
        let id = SequenceId(self.next_id);
        self.next_id += 1;
        let tokens = usable[..cached_tokens].to_vec();
        self.sequences.insert(id, Sequence { namespace, tokens, pages: held, path: found.path });
        (Opened { id, cached_tokens }, copy)
    }

    /// Gives a sequence the whole pages of `prompt` that others have computed since it was opened, always leaving one token to
    /// compute. Returns its length.
    pub(super) fn adopt(&mut self, id: SequenceId, prompt: &[u32]) -> usize {
        self.share_all();
        self.trim(id);
        let Some(sequence) = self.sequences.get_mut(&id) else { return 0 };
        let usable = &prompt[..prompt.len().saturating_sub(1)];
        debug_assert!(prompt.starts_with(&sequence.tokens), "{id:?} holds other tokens");
        let known = sequence.path.len();
        for tokens in usable.chunks_exact(self.page_tokens).skip(known) {
            let parent = (sequence.namespace, sequence.path.last().copied());
            let Some((node, page)) = self.tree.child(parent, tokens) else { break };
            let at = sequence.path.len();
            self.pages.retain(page);
            sequence.path.push(node);
            match sequence.pages.get_mut(at) {
                // The beginning of the same page, computed by itself or copied.
                Some(own) => self.pages.release(std::mem::replace(own, page)),
                None => sequence.pages.push(page),
            }
            let held = sequence.path.len() * self.page_tokens;
            if held > sequence.tokens.len() {
                sequence.tokens.truncate(at * self.page_tokens);
                sequence.tokens.extend_from_slice(tokens);
            }
        }
        self.tree.touch(&sequence.path);
        sequence.tokens.len()
    }

    fn take_page(&mut self) -> Option<u32> {
        loop {
            if let Some(page) = self.pages.take() {
                return Some(page);
            }
            if !self.tree.evict(&mut self.pages) {
                return None;
            }
        }
    }

    pub(super) fn sequences(&self) -> usize {
        self.sequences.len()
    }

    pub(super) fn len(&self, id: SequenceId) -> Option<usize> {
        self.sequences.get(&id).map(|s| s.tokens.len())
    }

    pub(super) fn pages(&self, id: SequenceId) -> &[u32] {
        self.sequences.get(&id).map_or(&[], |s| &s.pages)
    }

    /// Makes sure that `more` tokens can be written. A page that others hold too is replaced by a copy first;
    /// the copies to make are appended to `copies`.
    pub(super) fn reserve(
        &mut self,
        id: SequenceId,
        more: usize,
        copies: &mut Vec<PageCopy>,
    ) -> Result<(), OutOfPages> {
        self.share_full_pages(id);
        let Some(sequence) = self.sequences.get(&id) else { return Ok(()) };
        let len = sequence.tokens.len();
        let missing = (len + more).div_ceil(self.page_tokens).saturating_sub(sequence.pages.len());
        let last = len / self.page_tokens;
        let shared_tail = (len % self.page_tokens != 0)
            .then(|| sequence.pages[last])
            .filter(|&page| self.pages.refs(page) > 1);
        if let Some(from) = shared_tail {
            let to = self.take_page().ok_or(OutOfPages)?;
            copies.push(PageCopy { from, to });
            self.pages.release(from);
            if let Some(sequence) = self.sequences.get_mut(&id) {
                sequence.pages[last] = to;
                sequence.path.truncate(last);
            }
        }
        for _ in 0..missing {
            let page = self.take_page().ok_or(OutOfPages)?;
            if let Some(sequence) = self.sequences.get_mut(&id) {
                sequence.pages.push(page);
            }
        }
        Ok(())
    }

    /// Gives back reserved pages that hold no token.
    pub(super) fn trim(&mut self, id: SequenceId) {
        let Some(sequence) = self.sequences.get_mut(&id) else { return };
        let needed = sequence.tokens.len().div_ceil(self.page_tokens);
        for page in sequence.pages.drain(needed..) {
            self.pages.release(page);
        }
    }

    /// Records tokens whose keys and values have been written to reserved pages.
    pub(super) fn append(&mut self, id: SequenceId, tokens: &[u32]) {
        if let Some(sequence) = self.sequences.get_mut(&id) {
            sequence.tokens.extend_from_slice(tokens);
        }
    }

    /// Forgets all but the first `tokens` tokens.
    pub(super) fn truncate(&mut self, id: SequenceId, tokens: usize) {
        if let Some(sequence) = self.sequences.get_mut(&id) {
            sequence.tokens.truncate(tokens);
            sequence.path.truncate(sequence.tokens.len() / self.page_tokens);
        }
        self.trim(id);
    }

    /// Offers the full pages of a sequence to the tree. Called between steps, never right after tokens were added, since the
    /// newest may be drafts that are about to be rejected.
    fn share_full_pages(&mut self, id: SequenceId) {
        let Some(sequence) = self.sequences.get_mut(&id) else { return };
        let full = sequence.tokens.len() / self.page_tokens;
        while sequence.path.len() < full {
            let at = sequence.path.len();
            let tokens = &sequence.tokens[at * self.page_tokens..(at + 1) * self.page_tokens];
            let parent = (sequence.namespace, sequence.path.last().copied());
            let page = sequence.pages[at];
            let Some(node) = self.tree.insert(parent, tokens, page, &mut self.pages) else { break };
            // Another sequence computed the same tokens first: hold its page instead of a twin.
            if let Some(known) = self.tree.page(node).filter(|&known| known != page) {
                self.pages.retain(known);
                self.pages.release(page);
                sequence.pages[at] = known;
            }
            sequence.path.push(node);
        }
    }

    /// Offers the full pages of all sequences, so that the tree has everything that was computed.
    fn share_all(&mut self) {
        let behind = |s: &Sequence| s.path.len() < s.tokens.len() / self.page_tokens;
        let mut ids: Vec<SequenceId> =
            self.sequences.iter().filter(|(_, s)| behind(s)).map(|(&id, _)| id).collect();
        // In the order of their arrival: which of two twins the tree takes must not be left to chance.
        ids.sort_unstable();
        for id in ids {
            self.share_full_pages(id);
        }
    }

    /// Closes a sequence; what it computed stays in the tree until its pages are needed.
    pub(super) fn close(&mut self, id: SequenceId) {
        self.trim(id);
        self.share_full_pages(id);
        let Some(sequence) = self.sequences.remove(&id) else { return };
        let full = sequence.path.len();
        let rest = &sequence.tokens[full * self.page_tokens..];
        if !rest.is_empty() && rest.len() < self.page_tokens {
            let parent = (sequence.namespace, sequence.path.last().copied());
            self.tree.insert(parent, rest, sequence.pages[full], &mut self.pages);
        }
        self.tree.touch(&sequence.path);
        for page in sequence.pages {
            self.pages.release(page);
        }
    }

    /// Occupancy; `page_bytes` converts it.
    pub(super) fn usage(&self, page_bytes: usize) -> KvUsage {
        let cached_pages = self.tree.idle_pages(&self.pages);
        let used = self.pages.total() - self.pages.free();
        KvUsage {
            held_pages: used - cached_pages,
            cached_pages,
            total_pages: self.pages.total(),
            page_tokens: self.page_tokens,
            page_bytes,
            bytes: used * page_bytes,
        }
    }

    /// Recomputes every counter from its holders and compares.
    ///
    /// # Errors
    /// What disagrees.
    #[cfg(any(test, feature = "testing"))]
    pub(super) fn check(&self) -> Result<(), String> {
        let mut refs = vec![0; self.pages.total()];
        self.tree.check(&mut refs)?;
        for (id, sequence) in &self.sequences {
            for &page in &sequence.pages {
                refs[page as usize] += 1;
            }
            if sequence.pages.len() < sequence.tokens.len().div_ceil(self.page_tokens) {
                return Err(format!("{id:?} has too few pages for its tokens"));
            }
            for (at, &node) in sequence.path.iter().enumerate() {
                if self.tree.page(node) != Some(sequence.pages[at]) {
                    return Err(format!("{id:?}: page {at} is not the tree's"));
                }
            }
        }
        self.pages.check(&refs)
    }
}

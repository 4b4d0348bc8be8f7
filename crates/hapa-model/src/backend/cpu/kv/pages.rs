//! Reference counts and the free list of KV pages.

/// Counts who holds each page: open sequences and the prefix tree.
///
/// All operations take constant time.
#[derive(Debug)]
pub(super) struct PageTable {
    refs: Vec<u32>,
    free: Vec<u32>,
}

impl PageTable {
    pub(super) fn new(total: u32) -> Self {
        // Low pages are handed out first, so that a lightly used cache touches little memory.
        Self { refs: vec![0; total as usize], free: (0..total).rev().collect() }
    }

    pub(super) fn total(&self) -> usize {
        self.refs.len()
    }

    pub(super) fn free(&self) -> usize {
        self.free.len()
    }

    /// Takes a free page with one reference.
    pub(super) fn take(&mut self) -> Option<u32> {
        let page = self.free.pop()?;
        self.refs[page as usize] = 1;
        Some(page)
    }

    pub(super) fn retain(&mut self, page: u32) {
        debug_assert!(self.refs[page as usize] > 0, "page {page} is free");
        self.refs[page as usize] += 1;
    }

    pub(super) fn release(&mut self, page: u32) {
        let refs = &mut self.refs[page as usize];
        debug_assert!(*refs > 0, "page {page} is free already");
        *refs -= 1;
        if *refs == 0 {
            self.free.push(page);
        }
    }

    pub(super) fn refs(&self, page: u32) -> u32 {
        self.refs[page as usize]
    }

    /// Compares every counter with `expected`, counted from the holders, and the free list with the counters.
    #[cfg(any(test, feature = "testing"))]
    pub(super) fn check(&self, expected: &[u32]) -> Result<(), String> {
        if self.refs != expected {
            let page = self.refs.iter().zip(expected).position(|(a, b)| a != b).unwrap_or(0);
            return Err(format!(
                "page {page} counts {} references, {} hold it",
                self.refs[page], expected[page]
            ));
        }
        let mut is_free = vec![false; self.refs.len()];
        for &page in &self.free {
            if std::mem::replace(&mut is_free[page as usize], true) {
                return Err(format!("page {page} is on the free list twice"));
            }
        }
        match (0..self.refs.len()).find(|&p| is_free[p] != (self.refs[p] == 0)) {
            Some(page) => Err(format!("page {page}: free list and counter disagree")),
            None => Ok(()),
        }
    }
}

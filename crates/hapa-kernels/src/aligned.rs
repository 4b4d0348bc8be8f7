//! Zeroed bytes on a cache-line boundary.

use std::alloc::{Layout, alloc_zeroed, dealloc};
use std::ptr::NonNull;

/// Bytes that start on a 64-byte boundary, zero at first. Large ones take physical memory only
/// where they are written.
pub struct AlignedBytes {
    allocation: NonNull<u8>,
    layout: Layout,
    start: usize,
    len: usize,
}

const ALIGN: usize = 64;

impl AlignedBytes {
    /// `len` zero bytes, or `None` where the system does not give them.
    pub fn zeroed(len: usize) -> Option<Self> {
        // A small alignment and a later start, not an aligned allocation: the allocator would clear
        // that one by hand and so touch every page.
        let layout = Layout::from_size_align(len.checked_add(ALIGN)?, 16).ok()?;
        // SAFETY: the layout's size is not zero.
        let allocation = NonNull::new(unsafe { alloc_zeroed(layout) })?;
        let start = allocation.as_ptr().align_offset(ALIGN);
        (start <= ALIGN).then_some(Self { allocation, layout, start, len })
    }

    /// Number of bytes.
    pub const fn len(&self) -> usize {
        self.len
    }

    /// Whether there are none.
    pub const fn is_empty(&self) -> bool {
        self.len == 0
    }

    pub(crate) fn as_ptr(&self) -> *const u8 {
        // SAFETY: `start + len` is within the allocation.
        unsafe { self.allocation.as_ptr().add(self.start) }
    }

    pub(crate) fn as_mut_ptr(&mut self) -> *mut u8 {
        // SAFETY: as in `as_ptr`.
        unsafe { self.allocation.as_ptr().add(self.start) }
    }
}

impl std::ops::Deref for AlignedBytes {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        // SAFETY: `len` initialised bytes that this value owns.
        unsafe { std::slice::from_raw_parts(self.as_ptr(), self.len) }
    }
}

impl std::ops::DerefMut for AlignedBytes {
    fn deref_mut(&mut self) -> &mut [u8] {
        // SAFETY: `len` initialised bytes that this value owns.
        unsafe { std::slice::from_raw_parts_mut(self.as_mut_ptr(), self.len) }
    }
}

impl Drop for AlignedBytes {
    fn drop(&mut self) {
        // SAFETY: allocated in `zeroed` with this layout.
        unsafe { dealloc(self.allocation.as_ptr(), self.layout) }
    }
}

impl std::fmt::Debug for AlignedBytes {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("AlignedBytes").field("len", &self.len).finish_non_exhaustive()
    }
}

// SAFETY: it owns its bytes as a `Vec<u8>` does.
unsafe impl Send for AlignedBytes {}
// SAFETY: shared access only reads.
unsafe impl Sync for AlignedBytes {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn miri_bytes_are_aligned_zero_and_writable() {
        for len in [0, 1, 63, 64, 1000] {
            let mut bytes = AlignedBytes::zeroed(len).unwrap();
            assert_eq!(bytes.as_ptr().align_offset(ALIGN), 0);
            assert_eq!(bytes.len(), len);
            assert!(bytes.iter().all(|b| *b == 0));
            bytes.fill(7);
            assert!(bytes.iter().all(|b| *b == 7));
        }
        assert!(AlignedBytes::zeroed(usize::MAX).is_none());
    }
}

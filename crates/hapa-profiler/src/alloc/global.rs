//! The counting global allocator: the one file of this crate with `unsafe`.
//!
//! `GlobalAlloc` is an unsafe trait, and no maintained crate offers per-thread counts behind a safe
//! one without a header on each allocation and a copying `realloc`. What is unsafe here is only
//! handed on: every method calls the same method of the inner allocator with the same arguments,
//! and counts beside it. Counting allocates nothing and can not panic; what a heap profile does while one is taken is in
//! `sampling/heap/hook.rs`, which is safe code.
#![allow(unsafe_code)]

use std::alloc::{GlobalAlloc, Layout, System};

use super::{on_alloc, on_dealloc, sampled};

/// Wraps a global allocator and counts what each thread allocates.
#[derive(Debug, Default, Clone, Copy)]
pub struct ProfiledAlloc<A = System> {
    inner: A,
}

impl ProfiledAlloc<System> {
    /// Counts what the system's allocator gives.
    pub const fn system() -> Self {
        Self { inner: System }
    }
}

impl<A> ProfiledAlloc<A> {
    /// Counts what `inner` gives.
    pub const fn new(inner: A) -> Self {
        Self { inner }
    }
}

// SAFETY: each method forwards its arguments unchanged to the inner allocator, whose contract the
// caller upholds, and returns what it returned; the counters do not touch the memory.
unsafe impl<A: GlobalAlloc> GlobalAlloc for ProfiledAlloc<A> {
    #[inline]
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller's contract is the inner allocator's.
        let pointer = unsafe { self.inner.alloc(layout) };
        if !pointer.is_null() {
            on_alloc(layout.size());
            sampled::allocated(pointer, layout.size());
        }
        pointer
    }

    #[inline]
    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller's contract is the inner allocator's.
        let pointer = unsafe { self.inner.alloc_zeroed(layout) };
        if !pointer.is_null() {
            on_alloc(layout.size());
            sampled::allocated(pointer, layout.size());
        }
        pointer
    }

    #[inline]
    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        on_dealloc(layout.size());
        sampled::released(pointer);
        // SAFETY: the caller's contract is the inner allocator's.
        unsafe { self.inner.dealloc(pointer, layout) }
    }

    #[inline]
    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, new_size: usize) -> *mut u8 {
        let before = sampled::released(pointer);
        // SAFETY: the caller's contract is the inner allocator's.
        let moved = unsafe { self.inner.realloc(pointer, layout, new_size) };
        if moved.is_null() {
            sampled::restored(pointer, before);
        } else {
            sampled::allocated(moved, new_size);
            if new_size > layout.size() {
                on_alloc(new_size - layout.size());
            } else {
                on_dealloc(layout.size() - new_size);
            }
        }
        moved
    }
}

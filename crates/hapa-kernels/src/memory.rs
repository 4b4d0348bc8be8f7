//! Giving freed memory back to the system.
//!
//! It is here because the call is foreign, hence `unsafe`, and this is the crate that may hold such code.

/// Asks the allocator to return the pages of freed memory to the system, where there is a way to ask.
///
/// glibc keeps what was freed for later: its threshold above which an allocation gets pages of its own rises with the
/// largest block that was ever freed, up to 32 MiB, so that most tensors of a model come from its heaps and would stay
/// resident after the model is gone. Takes some milliseconds; for the end of something large. Other
/// allocators and systems return large blocks by themselves: nothing is done there.
pub fn release_freed_memory() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    {
        // SAFETY: this is the declaration of glibc's malloc.h, `int malloc_trim(size_t pad)`; the function may be
        // called from any thread at any time with any argument, and touches freed memory only.
        unsafe extern "C" {
            safe fn malloc_trim(pad: usize) -> i32;
        }
        // Whether anything was released does not matter here.
        let _ = malloc_trim(0);
    }
}

#[cfg(test)]
#[cfg(all(target_os = "linux", target_env = "gnu"))]
mod tests {
    use super::release_freed_memory;

    fn resident_bytes() -> u64 {
        let text = std::fs::read_to_string("/proc/self/statm").expect("statm");
        text.split(' ').nth(1).and_then(|pages| pages.parse::<u64>().ok()).expect("pages") * 4096
    }

    #[test]
    #[cfg_attr(miri, ignore = "a foreign call")]
    fn freed_blocks_leave_the_process() {
        // Small blocks come from the heap whatever the thresholds are; every 64th stays, so that the heap cannot shrink.
        let mut blocks: Vec<Box<[u8; 16 << 10]>> =
            (0..4096).map(|_| Box::new([1; 16 << 10])).collect();
        let mut number = 0;
        blocks.retain(|_| {
            number += 1;
            number % 64 == 0
        });
        let before = resident_bytes();
        release_freed_memory();
        let after = resident_bytes();
        assert!(after + (32 << 20) < before, "{before} bytes before, {after} after");
        assert_eq!(blocks.len(), 64);
    }
}

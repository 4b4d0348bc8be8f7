//! Any operations on the paged KV cache: every counter and all pages' contents are recomputed after each.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    hapa_model::testing::kv_operations(bytes);
});

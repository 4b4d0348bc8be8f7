//! The page table and the prefix tree: what is shared, copied, adopted, refused.

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::checked::{Checked, operations};

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
        let mut bytes = vec![0; 150_000];
        ChaCha8Rng::seed_from_u64(seed).fill(bytes.as_mut_slice());
        // Each size of pages once.
        bytes[0] = u8::try_from(seed).unwrap();
        let done = operations(&bytes);
        assert!(done.operations >= 10_000, "{done:?}");
        assert!(done.refused > 0 && done.adopted > 0, "it must reach both: {done:?}");
    }
}

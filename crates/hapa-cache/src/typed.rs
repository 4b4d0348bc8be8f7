//! Completions that are typed through: what was offered at a cursor answers the requests that follow while the user
//! types it.
//!
//! An editor asks at `def mea`, is offered `n(values):`, and asks again at `def mean(`: the earlier completion begins
//! with what was typed since, so its rest is the answer, and nothing is computed.
//!
//! Completions are kept by *group*: everything but the text before the cursor (suffix, file, model, sampling, limits;
//! [`RequestKey::group`](crate::RequestKey::group)). In a group they form a prefix tree with two kinds of steps: first
//! one long step over the text before the cursor where the completion was offered, known by its length and digest
//! alone, then the completion itself. A lookup hashes the text before the cursor once, however many completions there
//! are: O(text + completions of the group), the text is not kept. The longest step wins: it was offered last.

use crate::{CacheError, Digest, Weigh};
use parking_lot::Mutex;
use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::atomic::{AtomicU64, Ordering};

/// Completions that one group keeps; the oldest leave for more. A group is one place in one file.
const GROUP_OFFERS: usize = 32;
/// What an offer takes beside its texts and its value.
const OFFER_BYTES: usize = 128;

/// Bounds of a [`TypedThrough`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TypedOptions {
    /// The most completions that are kept; 4,096 by default.
    pub max_offers: usize,
    /// The most bytes of them; 8 MiB by default.
    pub max_bytes: usize,
}

impl Default for TypedOptions {
    fn default() -> Self {
        Self { max_offers: 4_096, max_bytes: 8 << 20 }
    }
}

/// Figures of a [`TypedThrough`].
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct TypedStats {
    /// Lookups that were answered from an earlier completion.
    pub hits: u64,
    /// Lookups that were not.
    pub misses: u64,
    /// Completions that are kept now.
    pub offers: u64,
    /// Their bytes.
    pub bytes: u64,
}

/// A completion that the user is typing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Typed<V> {
    /// What was stored with it.
    pub value: V,
    /// How many bytes of the completion are typed already; the rest is the answer. At least one, never all.
    pub typed_bytes: usize,
}

struct Offer<V> {
    completion: Box<str>,
    value: V,
    bytes: usize,
    /// Tells this offer from one that had its place before.
    number: u64,
}

/// Offers by the length of the text before the cursor, then by its digest.
type Group<V> = BTreeMap<usize, HashMap<Digest, Offer<V>>>;

struct Table<V> {
    groups: HashMap<Digest, Group<V>>,
    /// In the order they came; entries whose offer was replaced are stale and passed over.
    order: VecDeque<Place>,
    offers: usize,
    bytes: usize,
    next_number: u64,
}

struct Place {
    group: Digest,
    length: usize,
    before: Digest,
    number: u64,
}

/// An index of offered completions, bounded, shared by threads.
///
/// ```
/// use hapa_cache::{Digest, TypedThrough};
///
/// let index = TypedThrough::new(hapa_cache::TypedOptions::default())?;
/// let group = Digest::of(b"suffix, file, model, ...");
/// index.offer(group, "def mea", "n(values):", "whole answer".to_owned());
///
/// let typed = index.find(&group, "def mean(").expect("typed through");
/// assert_eq!(&"n(values):"[typed.typed_bytes..], "values):");
/// assert!(index.find(&group, "def measure").is_none(), "typed something else");
/// # Ok::<(), hapa_cache::CacheError>(())
/// ```
pub struct TypedThrough<V> {
    table: Mutex<Table<V>>,
    options: TypedOptions,
    hits: AtomicU64,
    misses: AtomicU64,
}

impl<V> std::fmt::Debug for TypedThrough<V> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TypedThrough").field("options", &self.options).finish_non_exhaustive()
    }
}

impl<V: Clone + Weigh> TypedThrough<V> {
    /// An empty index.
    ///
    /// # Errors
    /// [`CacheError::BadOption`] when nothing could be kept.
    pub fn new(options: TypedOptions) -> Result<Self, CacheError> {
        if options.max_offers == 0 || options.max_bytes == 0 {
            return Err(CacheError::bad_option("typed", "must keep at least one completion"));
        }
        let table = Table {
            groups: HashMap::new(),
            order: VecDeque::new(),
            offers: 0,
            bytes: 0,
            next_number: 0,
        };
        let (hits, misses) = (AtomicU64::new(0), AtomicU64::new(0));
        Ok(Self { table: Mutex::new(table), options, hits, misses })
    }

    /// Keeps a completion that was offered after `before`, in place of an earlier one there.
    pub fn offer(&self, group: Digest, before: &str, completion: &str, value: V) {
        // Of a completion of one character nothing is left once it is typed.
        if completion.chars().nth(1).is_none() {
            return;
        }
        let bytes = OFFER_BYTES + completion.len() + size_of::<V>() + value.heap_bytes();
        if bytes > self.options.max_bytes {
            return;
        }
        let before = (before.len(), Digest::of(before.as_bytes()));
        let mut table = self.table.lock();
        let number = table.next_number;
        table.next_number += 1;
        let offer = Offer { completion: completion.into(), value, bytes, number };
        let lengths = table.groups.entry(group).or_default();
        let old = lengths.entry(before.0).or_default().insert(before.1, offer);
        let in_group: usize = lengths.values().map(HashMap::len).sum();
        if let Some(old) = old {
            table.offers -= 1;
            table.bytes -= old.bytes;
        }
        table.offers += 1;
        table.bytes += bytes;
        table.order.push_back(Place { group, length: before.0, before: before.1, number });
        if in_group > GROUP_OFFERS {
            table.drop_oldest_of(&group);
        }
        while table.offers > self.options.max_offers || table.bytes > self.options.max_bytes {
            let Some(place) = table.order.pop_front() else { break };
            table.take(&place);
        }
        // Places of replaced offers must not pile up.
        if table.order.len() > 2 * table.offers + 64 {
            table.sweep();
        }
    }

    /// The completion that the user is typing at the end of `before`, if one of the group is.
    pub fn find(&self, group: &Digest, before: &str) -> Option<Typed<V>> {
        let found = self.table.lock().find(group, before);
        let counter = if found.is_some() { &self.hits } else { &self.misses };
        counter.fetch_add(1, Ordering::Relaxed);
        found
    }

    /// Forgets all completions.
    pub fn clear(&self) {
        let mut table = self.table.lock();
        let groups = std::mem::take(&mut table.groups);
        table.order.clear();
        (table.offers, table.bytes) = (0, 0);
        drop(table);
        drop(groups);
    }

    /// The figures now.
    #[must_use]
    pub fn stats(&self) -> TypedStats {
        let table = self.table.lock();
        TypedStats {
            hits: self.hits.load(Ordering::Relaxed),
            misses: self.misses.load(Ordering::Relaxed),
            offers: table.offers as u64,
            bytes: table.bytes as u64,
        }
    }

    /// Recomputes every counter and bound.
    ///
    /// # Panics
    /// When one is wrong.
    #[doc(hidden)]
    pub fn validate(&self) {
        let table = self.table.lock();
        let offers = || table.groups.values().flat_map(BTreeMap::values).flat_map(HashMap::values);
        assert_eq!(table.offers, offers().count());
        assert_eq!(table.bytes, offers().map(|offer| offer.bytes).sum::<usize>());
        assert!(table.offers <= self.options.max_offers && table.bytes <= self.options.max_bytes);
        for group in table.groups.values() {
            let count: usize = group.values().map(HashMap::len).sum();
            assert!((1..=GROUP_OFFERS).contains(&count), "{count} offers in a group");
            assert!(group.values().all(|offers| !offers.is_empty()), "no empty lengths are kept");
        }
        let live = table.order.iter().filter(|place| table.is_live(place)).count();
        assert_eq!(live, table.offers, "every offer has its place in the order");
    }
}

impl<V> Table<V> {
    fn find(&self, group: &Digest, before: &str) -> Option<Typed<V>>
    where
        V: Clone,
    {
        let text = before.as_bytes();
        let mut hasher = blake3::Hasher::new();
        let (mut hashed, mut found) = (0, None);
        for (length, offers) in self.groups.get(group)?.range(..text.len()) {
            // A completion typed from here must reach to the end of the text and further.
            let typed = text.len() - length;
            if !offers.values().any(|offer| offer.completion.len() > typed) {
                continue;
            }
            hasher.update(&text[hashed..*length]);
            hashed = *length;
            let digest = Digest::from_bytes(*hasher.finalize().as_bytes());
            let Some(offer) = offers.get(&digest) else { continue };
            let completion = offer.completion.as_bytes();
            // Both are valid UTF-8, so a common end of theirs is a boundary in both.
            if completion.len() > typed && completion.starts_with(&text[*length..]) {
                found = Some(Typed { value: offer.value.clone(), typed_bytes: typed });
            }
        }
        found
    }

    fn is_live(&self, place: &Place) -> bool {
        let offers = self.groups.get(&place.group).and_then(|group| group.get(&place.length));
        offers
            .and_then(|offers| offers.get(&place.before))
            .is_some_and(|offer| offer.number == place.number)
    }

    /// Takes out the offer of a place, unless another has it by now.
    fn take(&mut self, place: &Place) {
        if !self.is_live(place) {
            return;
        }
        let Some(group) = self.groups.get_mut(&place.group) else { return };
        let Some(offers) = group.get_mut(&place.length) else { return };
        if let Some(offer) = offers.remove(&place.before) {
            self.offers -= 1;
            self.bytes -= offer.bytes;
        }
        if offers.is_empty() {
            group.remove(&place.length);
        }
        if group.is_empty() {
            self.groups.remove(&place.group);
        }
    }

    fn drop_oldest_of(&mut self, group: &Digest) {
        let is_oldest = |place: &Place| place.group == *group && self.is_live(place);
        let Some(at) = self.order.iter().position(is_oldest) else { return };
        if let Some(place) = self.order.remove(at) {
            self.take(&place);
        }
    }

    fn sweep(&mut self) {
        let order = std::mem::take(&mut self.order);
        self.order = order.into_iter().filter(|place| self.is_live(place)).collect();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn index(max_offers: usize) -> TypedThrough<u64> {
        TypedThrough::new(TypedOptions { max_offers, ..TypedOptions::default() }).unwrap()
    }

    #[test]
    fn each_step_of_typing_is_answered_until_the_end() {
        let index = index(10);
        let group = Digest::of(b"g");
        let (before, completion) = ("def größe", "_von(wert):\n    return len(wert)\n");
        index.offer(group, before, completion, 1);
        assert!(index.find(&group, before).is_none(), "nothing typed: the cache's own key");
        for (at, c) in completion.char_indices() {
            let typed = at + c.len_utf8();
            let text = format!("{before}{}", &completion[..typed]);
            let expected =
                (typed < completion.len()).then_some(Typed { value: 1, typed_bytes: typed });
            assert_eq!(index.find(&group, &text), expected, "{text:?}");
        }
        assert!(index.find(&group, "def größe_vom").is_none());
        assert!(index.find(&Digest::of(b"other"), "def größe_von").is_none());
        assert_eq!(index.stats().hits, completion.chars().count() as u64 - 1);
    }

    #[test]
    fn the_later_offer_wins() {
        let index = index(10);
        let group = Digest::of(b"g");
        index.offer(group, "a", "bcdef", 1);
        index.offer(group, "ab", "cdxyz", 2);
        assert_eq!(index.find(&group, "abc").unwrap(), Typed { value: 2, typed_bytes: 1 });
        assert_eq!(index.find(&group, "abcde").unwrap(), Typed { value: 1, typed_bytes: 4 });
        index.offer(group, "a", "bcq", 3);
        assert!(index.find(&group, "abcde").is_none(), "replaced");
    }

    #[test]
    fn it_is_bounded() {
        assert!(TypedThrough::<u64>::new(TypedOptions { max_offers: 0, max_bytes: 1 }).is_err());
        let index = index(100);
        for n in 0..1_000u64 {
            let group = Digest::of(&(n % 7).to_le_bytes());
            index.offer(group, &format!("x{n}"), "completion", n);
            index.validate();
        }
        assert_eq!(index.stats().offers, 100);
        for _ in 0..10_000 {
            index.offer(Digest::of(b"same"), "x", "completion", 1);
        }
        index.validate();
        assert!(index.table.lock().order.len() < 400, "stale places are swept");
        index.clear();
        index.validate();
        assert_eq!(index.stats().offers, 0);
    }

    proptest! {
        /// Against the rule written out: of all offers whose text before the cursor and completion begin with the
        /// request, the one with the longest text before the cursor.
        #[test]
        fn it_finds_what_the_rule_finds(
            offers in prop::collection::vec(("[ab]{0,4}", "[ab]{0,5}"), 0..20),
            asked in prop::collection::vec("[ab]{0,7}", 1..20),
        ) {
            let index = index(1_000);
            let group = Digest::of(b"g");
            let mut rule: Vec<(String, String, u64)> = Vec::new();
            for (n, (before, completion)) in offers.iter().enumerate() {
                index.offer(group, before, completion, n as u64);
                if completion.len() > 1 {
                    rule.retain(|(known, ..)| known != before);
                    rule.push((before.clone(), completion.clone(), n as u64));
                }
            }
            index.validate();
            for text in asked {
                let expected = rule
                    .iter()
                    .filter(|(before, completion, _)| {
                        text.len() > before.len()
                            && text.len() < before.len() + completion.len()
                            && format!("{before}{completion}").starts_with(&text)
                    })
                    .max_by_key(|(before, ..)| before.len())
                    .map(|(before, _, n)| Typed { value: *n, typed_bytes: text.len() - before.len() });
                prop_assert_eq!(index.find(&group, &text), expected);
            }
        }
    }
}

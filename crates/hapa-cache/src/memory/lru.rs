//! Exact least-recently-used order: one table, one doubly linked list, one lock.

use super::slot::Slot;
use super::stats::{EvictionCause, Tally};
use hashbrown::HashTable;
use parking_lot::Mutex;
use quick_cache::{DefaultHashBuilder, Equivalent};
use std::hash::{BuildHasher, Hash};
use std::sync::Arc;

/// No node: the end of a list.
const NONE: u32 = u32::MAX;

struct Node<K, V> {
    /// Absent in free nodes.
    entry: Option<(K, Arc<Slot<V>>)>,
    hash: u64,
    /// Towards more recent use.
    newer: u32,
    /// Towards less recent use; links the free nodes too.
    older: u32,
}

struct Table<K, V> {
    /// Indices into `nodes`.
    index: HashTable<u32>,
    nodes: Vec<Node<K, V>>,
    newest: u32,
    oldest: u32,
    free: u32,
    bytes: u64,
    max_bytes: u64,
    max_entries: usize,
}

/// The exact LRU policy.
pub(super) struct Lru<K, V> {
    table: Mutex<Table<K, V>>,
    hasher: DefaultHashBuilder,
    tally: Arc<Tally>,
    full_bytes: u64,
    full_entries: usize,
}

impl<K: Eq + Hash + Clone, V> Lru<K, V> {
    pub(super) fn new(max_bytes: u64, max_entries: usize, tally: Arc<Tally>) -> Self {
        let table = Table {
            index: HashTable::with_capacity(max_entries + 1),
            nodes: Vec::with_capacity(max_entries + 1),
            newest: NONE,
            oldest: NONE,
            free: NONE,
            bytes: 0,
            max_bytes,
            max_entries,
        };
        Self {
            table: Mutex::new(table),
            hasher: DefaultHashBuilder::default(),
            tally,
            full_bytes: max_bytes,
            full_entries: max_entries,
        }
    }

    pub(super) fn get<Q: Hash + Equivalent<K> + ?Sized>(&self, key: &Q) -> Option<Arc<Slot<V>>> {
        let hash = self.hasher.hash_one(key);
        let mut table = self.table.lock();
        let at = table.find(hash, key)?;
        table.unlink(at);
        table.link_newest(at);
        table.slot(at).map(Arc::clone)
    }

    pub(super) fn peek<Q: Hash + Equivalent<K> + ?Sized>(&self, key: &Q) -> Option<Arc<Slot<V>>> {
        let hash = self.hasher.hash_one(key);
        let table = self.table.lock();
        table.slot(table.find(hash, key)?).map(Arc::clone)
    }

    pub(super) fn largest(&self) -> u64 {
        self.table.lock().max_bytes
    }

    /// Puts an entry in and counts what left for it. False if the entry was refused.
    pub(super) fn insert(&self, key: &K, slot: &Arc<Slot<V>>) -> bool {
        let hash = self.hasher.hash_one(key);
        // Declared before the lock, so that values are dropped after it is released.
        let mut gone = Vec::new();
        let mut table = self.table.lock();
        if let Some(at) = table.find(hash, key) {
            gone.extend(table.take(at).map(|entry| (EvictionCause::Replaced, entry.1)));
        }
        let fits = u64::from(slot.bytes) <= table.max_bytes;
        if fits {
            table.bytes += u64::from(slot.bytes);
            table.add(hash, key.clone(), Arc::clone(slot));
            table.trim(&mut gone);
        } else {
            gone.push((EvictionCause::Rejected, Arc::clone(slot)));
        }
        drop(table);
        for (cause, slot) in &gone {
            self.tally.left(*cause, slot);
        }
        fits
    }

    /// Gives `bytes` of pinned entries, `entries` of them, out of the bounds.
    pub(super) fn reserve(&self, bytes: u64, entries: usize) {
        let mut gone = Vec::new();
        let mut table = self.table.lock();
        table.max_bytes = self.full_bytes.saturating_sub(bytes);
        table.max_entries = self.full_entries.saturating_sub(entries);
        table.trim(&mut gone);
        drop(table);
        for (cause, slot) in &gone {
            self.tally.left(*cause, slot);
        }
    }

    /// Takes an entry out if `condition` holds; the caller counts it.
    pub(super) fn remove_if<Q: Hash + Equivalent<K> + ?Sized>(
        &self,
        key: &Q,
        condition: impl FnOnce(&Arc<Slot<V>>) -> bool,
    ) -> Option<(K, Arc<Slot<V>>)> {
        let hash = self.hasher.hash_one(key);
        let mut table = self.table.lock();
        let at = table.find(hash, key)?;
        if table.slot(at).is_some_and(condition) { table.take(at) } else { None }
    }

    /// Takes out the entries that `keep` does not want; the caller counts them.
    pub(super) fn retain(&self, keep: impl Fn(&Slot<V>) -> bool) -> Vec<Arc<Slot<V>>> {
        let mut table = self.table.lock();
        let mut gone = Vec::new();
        let mut at = table.oldest;
        while at != NONE {
            let newer = table.nodes[at as usize].newer;
            if table.slot(at).is_some_and(|slot| !keep(slot)) {
                gone.extend(table.take(at).map(|entry| entry.1));
            }
            at = newer;
        }
        gone
    }

    /// Keys and entries, the least recently used first.
    pub(super) fn entries(&self) -> Vec<(K, Arc<Slot<V>>)> {
        let table = self.table.lock();
        let mut entries = Vec::with_capacity(table.index.len());
        let mut at = table.oldest;
        while at != NONE {
            let node = &table.nodes[at as usize];
            entries.extend(node.entry.clone());
            at = node.newer;
        }
        entries
    }

    /// Bytes of the tables.
    pub(super) fn table_bytes(&self) -> usize {
        let table = self.table.lock();
        table.index.allocation_size() + table.nodes.capacity() * size_of::<Node<K, V>>()
    }

    /// Checks list, index, free nodes and counters against each other.
    pub(super) fn validate(&self) {
        let table = self.table.lock();
        let (mut entries, mut bytes, mut at, mut older) = (0, 0, table.oldest, NONE);
        while at != NONE {
            let node = &table.nodes[at as usize];
            assert_eq!(node.older, older, "links mirror each other");
            let (key, slot) = node.entry.as_ref().unwrap_or_else(|| panic!("free node in list"));
            assert_eq!(table.find(node.hash, key), Some(at), "a listed node is indexed");
            assert_eq!(node.hash, self.hasher.hash_one(key), "the hash is the key's");
            bytes += u64::from(slot.bytes);
            entries += 1;
            older = at;
            at = node.newer;
        }
        assert_eq!(table.newest, older, "the list ends at the newest");
        assert_eq!(table.index.len(), entries, "everything indexed is listed");
        assert_eq!(table.bytes, bytes, "bytes add up");
        assert!(table.bytes <= table.max_bytes, "bytes within bounds");
        assert!(entries <= table.max_entries, "entries within bounds");
        let (mut free, mut at) = (0, table.free);
        while at != NONE {
            assert!(table.nodes[at as usize].entry.is_none(), "a free node is empty");
            free += 1;
            at = table.nodes[at as usize].older;
        }
        assert_eq!(free + entries, table.nodes.len(), "every node is listed or free");
    }
}

impl<K, V> Table<K, V> {
    fn find<Q: Equivalent<K> + ?Sized>(&self, hash: u64, key: &Q) -> Option<u32> {
        let nodes = &self.nodes;
        let same = |at: &u32| {
            nodes[*at as usize].entry.as_ref().is_some_and(|(found, _)| key.equivalent(found))
        };
        self.index.find(hash, same).copied()
    }

    fn slot(&self, at: u32) -> Option<&Arc<Slot<V>>> {
        self.nodes[at as usize].entry.as_ref().map(|entry| &entry.1)
    }

    fn unlink(&mut self, at: u32) {
        let (newer, older) = (self.nodes[at as usize].newer, self.nodes[at as usize].older);
        match newer {
            NONE => self.newest = older,
            newer => self.nodes[newer as usize].older = older,
        }
        match older {
            NONE => self.oldest = newer,
            older => self.nodes[older as usize].newer = newer,
        }
    }

    fn link_newest(&mut self, at: u32) {
        let was_newest = std::mem::replace(&mut self.newest, at);
        self.nodes[at as usize].older = was_newest;
        self.nodes[at as usize].newer = NONE;
        match was_newest {
            NONE => self.oldest = at,
            older => self.nodes[older as usize].newer = at,
        }
    }

    fn add(&mut self, hash: u64, key: K, slot: Arc<Slot<V>>) {
        let node = Node { entry: Some((key, slot)), hash, newer: NONE, older: NONE };
        let at = match self.free {
            NONE => {
                self.nodes.push(node);
                // `max_entries` is below `u32::MAX`, and one entry more than that lives here.
                (self.nodes.len() - 1) as u32
            }
            free => {
                self.free = self.nodes[free as usize].older;
                self.nodes[free as usize] = node;
                free
            }
        };
        let nodes = &self.nodes;
        self.index.insert_unique(hash, at, |at| nodes[*at as usize].hash);
        self.link_newest(at);
    }

    fn take(&mut self, at: u32) -> Option<(K, Arc<Slot<V>>)> {
        self.unlink(at);
        if let Ok(found) = self.index.find_entry(self.nodes[at as usize].hash, |i| *i == at) {
            found.remove();
        }
        let node = &mut self.nodes[at as usize];
        let entry = node.entry.take();
        node.older = self.free;
        self.free = at;
        self.bytes -= entry.as_ref().map_or(0, |entry| u64::from(entry.1.bytes));
        entry
    }

    fn trim(&mut self, gone: &mut Vec<(EvictionCause, Arc<Slot<V>>)>) {
        while self.oldest != NONE
            && (self.bytes > self.max_bytes || self.index.len() > self.max_entries)
        {
            let entry = self.take(self.oldest);
            gone.extend(entry.map(|entry| (EvictionCause::Capacity, entry.1)));
        }
    }
}

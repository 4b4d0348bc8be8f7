//! Names of scopes as small numbers.

use std::{collections::HashMap, sync::Arc};

use parking_lot::RwLock;

/// How many names a profiler keeps; later ones are counted as `(other)`.
pub const MAX_NAMES: usize = 1024;

/// The number of `(other)`.
pub(crate) const OTHER: u32 = 0;

#[derive(Debug)]
pub(crate) struct Names(RwLock<Table>);

#[derive(Debug)]
struct Table {
    by_name: HashMap<Arc<str>, u32>,
    by_number: Vec<Arc<str>>,
}

impl Names {
    pub(crate) fn new() -> Self {
        let other: Arc<str> = Arc::from("(other)");
        let by_name = HashMap::from([(other.clone(), OTHER)]);
        Self(RwLock::new(Table { by_name, by_number: vec![other] }))
    }

    /// The number of a name, the same for the life of the profiler.
    pub(crate) fn number(&self, name: &str) -> u32 {
        if let Some(number) = self.0.read().by_name.get(name) {
            return *number;
        }
        let mut table = self.0.write();
        if let Some(number) = table.by_name.get(name) {
            return *number;
        }
        if table.by_number.len() >= MAX_NAMES {
            return OTHER;
        }
        #[expect(clippy::cast_possible_truncation, reason = "at most MAX_NAMES")]
        let number = table.by_number.len() as u32;
        let name: Arc<str> = Arc::from(name);
        table.by_number.push(name.clone());
        table.by_name.insert(name, number);
        number
    }

    /// All names, by number.
    pub(crate) fn all(&self) -> Vec<Arc<str>> {
        self.0.read().by_number.clone()
    }
}

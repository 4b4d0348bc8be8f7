//! Stacks with a figure each: what the profiles of processor time and of the heap are both made of.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use inferno::flamegraph::{self, Options};

use super::symbols::Place;

/// What was measured for a stack.
pub(super) trait Figure: Copy + Default {
    fn add(&mut self, other: Self);
}

impl Figure for u64 {
    fn add(&mut self, other: Self) {
        *self += other;
    }
}

/// What was measured, by the stack that it was met with: the outermost function first.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Stacks<F>(BTreeMap<Vec<Place>, F>);

impl<F> Default for Stacks<F> {
    fn default() -> Self {
        Self(BTreeMap::new())
    }
}

impl<F: Figure> FromIterator<(Vec<Place>, F)> for Stacks<F> {
    fn from_iter<I: IntoIterator<Item = (Vec<Place>, F)>>(found: I) -> Self {
        let mut stacks = Self::default();
        for (stack, figure) in found {
            stacks.0.entry(stack).or_default().add(figure);
        }
        stacks
    }
}

impl<F: Figure> Stacks<F> {
    /// Everything together.
    pub(super) fn sum(&self) -> F {
        self.0.values().fold(F::default(), |mut sum, figure| {
            sum.add(*figure);
            sum
        })
    }

    /// By what `key` makes of a place: what was met there itself, and with what it called. A key that is on a stack
    /// twice counts once.
    pub(super) fn sums<K: Ord>(&self, key: impl Fn(&Place) -> Option<K>) -> BTreeMap<K, (F, F)> {
        let mut sums: BTreeMap<K, (F, F)> = BTreeMap::new();
        for (stack, figure) in &self.0 {
            if let Some(innermost) = stack.last().and_then(&key) {
                sums.entry(innermost).or_default().0.add(*figure);
            }
            for key in stack.iter().filter_map(&key).collect::<BTreeSet<K>>() {
                sums.entry(key).or_default().1.add(*figure);
            }
        }
        sums
    }

    /// By source line, places without debug information left out: the function is one of those that the line was
    /// compiled into, which differ in their generic arguments only.
    pub(super) fn lines(&self) -> Vec<(Place, F, F)> {
        let key = |place: &Place| (place.line > 0).then(|| (Arc::clone(&place.file), place.line));
        let mut functions = BTreeMap::new();
        for place in self.0.keys().flatten() {
            if let Some(key) = key(place) {
                functions.entry(key).or_insert_with(|| Arc::clone(&place.function));
            }
        }
        let line = |((file, line), (own, total)): ((Arc<str>, u32), (F, F))| {
            let function = functions.get(&(Arc::clone(&file), line)).cloned();
            let function = function.unwrap_or_else(|| Arc::from(""));
            (Place { function, file, line }, own, total)
        };
        self.sums(key).into_iter().map(line).collect()
    }

    /// Folded stacks, `outer;inner count` each; stacks whose count is 0 are left out.
    pub(super) fn folded(&self, count: impl Fn(&F) -> u64) -> Vec<String> {
        let mut sums: BTreeMap<String, u64> = BTreeMap::new();
        for (stack, figure) in &self.0 {
            let names: Vec<String> =
                stack.iter().map(|place| place.function.replace(';', ":")).collect();
            *sums.entry(names.join(";")).or_default() += count(figure);
        }
        sums.retain(|_, count| *count > 0);
        sums.into_iter().map(|(stack, count)| format!("{stack} {count}")).collect()
    }
}

/// What stands around a flame graph.
pub(super) struct Titles<'a> {
    pub(super) title: &'a str,
    /// What its widths count.
    pub(super) counted: &'a str,
    pub(super) summary: String,
    /// Instead of a picture without stacks.
    pub(super) nothing: &'a str,
}

/// One self-contained SVG that zooms and searches in a browser.
pub(super) fn flame_graph(folded: &[String], titles: Titles<'_>) -> String {
    let mut options = Options::default();
    titles.title.clone_into(&mut options.title);
    titles.counted.clone_into(&mut options.count_name);
    options.subtitle = Some(titles.summary);
    // A function has its colour in every picture, so that two can be compared.
    options.hash = true;
    let mut svg = Vec::new();
    // Only an empty profile has nothing to draw.
    if flamegraph::from_lines(&mut options, folded.iter().map(String::as_str), &mut svg).is_err() {
        return format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"600\" height=\"40\"><text x=\"10\" y=\"25\">{}</text></svg>\n",
            titles.nothing
        );
    }
    String::from_utf8_lossy(&svg).into_owned()
}

/// The most at the place itself first, then the most with what it called.
pub(super) fn hottest_first<T>(all: &mut [T], figures: impl Fn(&T) -> (f64, f64)) {
    all.sort_by(|a, b| {
        let ((own, total), (others_own, others_total)) = (figures(a), figures(b));
        others_own.total_cmp(&own).then(others_total.total_cmp(&total))
    });
}

/// A name that fits beside a few columns: its end says more than its beginning.
pub(super) fn clip(name: &str, width: usize) -> String {
    let count = name.chars().count();
    if count <= width {
        return name.to_owned();
    }
    let tail: String = name.chars().skip(count - (width - 3)).collect();
    format!("...{tail}")
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    pub(in super::super) fn place(function: &str, line: u32) -> Place {
        Place { function: Arc::from(function), file: Arc::from("a/src/lib.rs"), line }
    }

    #[test]
    fn stacks_that_are_alike_add_up_and_empty_ones_are_not_drawn() {
        let stack = |leaf| vec![place("main", 1), place(leaf, 2)];
        let stacks: Stacks<u64> =
            [(stack("a"), 2), (stack("a;b"), 1), (stack("a"), 3), (stack("c"), 0)]
                .into_iter()
                .collect();
        assert_eq!(stacks.folded(|count| *count), ["main;a 5", "main;a:b 1"]);
        assert_eq!(stacks.sum(), 6);
        let by_line = stacks.sums(|place| Some(place.line));
        assert_eq!(by_line[&1], (0, 6));
        assert_eq!(by_line[&2], (6, 6));
    }

    #[test]
    fn a_line_is_one_whatever_it_was_compiled_into() {
        let stacks: Stacks<u64> = [
            (vec![place("main", 1), place("dot<A>", 7)], 2),
            (vec![place("main", 1), place("dot<B>", 7)], 3),
            (vec![place("nowhere", 0)], 1),
        ]
        .into_iter()
        .collect();
        let lines = stacks.lines();
        assert_eq!(lines, [(place("main", 1), 0, 5), (place("dot<A>", 7), 5, 5)]);
    }

    #[test]
    fn long_names_keep_their_end() {
        assert_eq!(clip("abcdefgh", 8), "abcdefgh");
        assert_eq!(clip("abcdefghi", 8), "...efghi");
    }
}

//! The figures of a run, as a table and as JSON.

use serde_json::{Value, json};

use super::Judged;
use super::holes::Kind;
use crate::text::table;

pub(super) struct Report<'a> {
    pub(super) model: &'a str,
    /// All results, also those of earlier runs.
    pub(super) judged: &'a [Judged],
    pub(super) unanswered: usize,
    /// What this run took, and the tokens that it brought.
    pub(super) seconds: f64,
    pub(super) fresh_tokens: u64,
}

/// Shares and means over some of the results.
struct Means {
    holes: usize,
    exact: f64,
    similarity: f64,
    valid: f64,
}

impl Means {
    fn of(judged: &[&Judged]) -> Option<Self> {
        let holes = judged.len();
        let mean = |value: fn(&Judged) -> f64| {
            judged.iter().map(|judged| value(judged)).sum::<f64>() / holes as f64
        };
        (holes > 0).then(|| Self {
            holes,
            exact: mean(|judged| f64::from(u8::from(judged.score.exact))),
            similarity: mean(|judged| judged.score.similarity),
            valid: mean(|judged| f64::from(u8::from(judged.score.valid))),
        })
    }
}

impl Report<'_> {
    /// Over one kind of holes, or over all.
    fn means(&self, kind: Option<Kind>) -> Option<Means> {
        let wanted = |judged: &&Judged| kind.is_none_or(|kind| judged.kind == kind);
        Means::of(&self.judged.iter().filter(wanted).collect::<Vec<_>>())
    }

    pub(super) fn json(&self) -> Value {
        let kinds: Vec<Value> = Kind::ALL
            .into_iter()
            .filter_map(|kind| {
                let means = self.means(Some(kind))?;
                Some(json!({
                    "kind": kind,
                    "holes": means.holes,
                    "exact": means.exact,
                    "similarity": means.similarity,
                    "valid": means.valid,
                }))
            })
            .collect();
        let all = self.means(None);
        let of = |pick: fn(&Means) -> f64| all.as_ref().map(pick);
        json!({
            "model": self.model,
            "holes": self.judged.len(),
            "unanswered": self.unanswered,
            "exact": of(|means| means.exact),
            "similarity": of(|means| means.similarity),
            "valid": of(|means| means.valid),
            "kinds": kinds,
            "seconds": self.seconds,
            "output_tokens_per_second": self.fresh_tokens as f64 / self.seconds.max(1e-9),
        })
    }

    pub(super) fn table(&self) -> String {
        let mut rows =
            vec![["", "holes", "exact", "edit similarity", "valid"].map(str::to_owned).to_vec()];
        let mut row = |name: &str, means: Option<Means>| {
            let Some(means) = means else { return };
            let percent = |share: f64| format!("{:.1}%", share * 100.0);
            rows.push(vec![
                name.to_owned(),
                means.holes.to_string(),
                percent(means.exact),
                percent(means.similarity),
                percent(means.valid),
            ]);
        };
        for kind in Kind::ALL {
            row(kind.name(), self.means(Some(kind)));
        }
        row("all", self.means(None));
        let mut text = format!("{}\n{}", self.model, table(&rows));
        if self.unanswered > 0 {
            text.push_str(&format!("unanswered: {}\n", self.unanswered));
        }
        if self.fresh_tokens > 0 {
            let rate = self.fresh_tokens as f64 / self.seconds.max(1e-9);
            text.push_str(&format!("{:.1} s, {rate:.1} tokens/s\n", self.seconds));
        }
        text
    }
}

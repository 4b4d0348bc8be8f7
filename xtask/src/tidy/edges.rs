//! Which crate may depend on which, by `cargo metadata`.

use crate::tools::{cargo, output, try_output};
use anyhow::{Context, Result};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet, VecDeque};

/// Edges that must never exist, directly or through others: `(crate, what it must not know, why)`. A
/// trailing `*` means any name that starts so. See docs/architecture.md.
const FORBIDDEN: &[(&str, &[&str], &str)] = &[
    ("hapa-cache", LEAF, "it is used alone by projects that have no model"),
    ("hapa-profiler", LEAF, "it is used alone by projects that have no model"),
    ("hapa-metrics", LEAF, "it is used alone by projects that have no model"),
    (
        "hapa-loadtest",
        &["hapa-*", "candle-*", "axum*"],
        "it drives any server and must not share code with ours",
    ),
    ("hapa-kernels", &["candle-*", "tokio*", "memmap2", "hapa-*"], "slices in, slices out"),
    (
        "hapa-model",
        &[
            "axum*",
            "metrics-exporter-*",
            "hapa-cache",
            "hapa-metrics",
            "hapa-service",
            "hapa-server",
        ],
        "it knows nothing of HTTP serving, the cache or the metrics exporter",
    ),
    ("hapa-service", &["axum*", "hapa-server"], "it knows nothing of HTTP"),
    ("hapa-server", &["hapa-cli"], "the binary stands on top"),
];

const LEAF: &[&str] =
    &["hapa-model", "hapa-kernels", "hapa-service", "hapa-server", "candle-*", "axum*"];

/// Crates that a crate may have below it, but not name itself: `(crate, dependency, why)`.
///
/// (`cargo metadata` also counts crates that a feature only names weakly, `reqwest?/tls`, so that hyper
/// seems to be below the hub client; HTTP can only be forbidden directly.)
const FORBIDDEN_DIRECT: &[(&str, &str, &str)] = &[
    ("hapa-model", "hyper", "HTTP belongs to hapa-server"),
    ("hapa-model", "tower-http", "HTTP belongs to hapa-server"),
    ("hapa-service", "hyper", "HTTP belongs to hapa-server"),
    ("hapa-service", "tower-http", "HTTP belongs to hapa-server"),
    ("hapa-service", "serde_json", "wire JSON belongs to hapa-server"),
];

/// The part of `cargo metadata` that the rules need.
#[derive(Debug, Default)]
pub(crate) struct Metadata {
    /// Names of the workspace's own crates.
    pub(crate) members: BTreeSet<String>,
    /// Declared dependencies by member, of every kind, optional ones too.
    pub(crate) declared: BTreeMap<String, BTreeSet<String>>,
    /// Resolved normal and build dependencies by crate name.
    pub(crate) resolved: BTreeMap<String, BTreeSet<String>>,
}

impl Metadata {
    pub(crate) fn read() -> Result<Self> {
        let mut command = cargo(&["metadata", "--format-version", "1", "--quiet"]);
        // Only this platform's crates: others need not be on this machine.
        let rustc = try_output("rustc", &["-vV"]).unwrap_or_default();
        if let Some(host) = rustc.lines().find_map(|line| line.strip_prefix("host: ")) {
            command.args(["--filter-platform", host]);
        }
        let text = output(command)?;
        let value: Value = serde_json::from_str(&text).context("cargo metadata wrote no JSON")?;
        Self::parse(&value).context("cargo metadata has another shape than expected")
    }

    fn parse(value: &Value) -> Option<Self> {
        let mut metadata = Self::default();
        let mut names = BTreeMap::new();
        let members: BTreeSet<&str> =
            value["workspace_members"].as_array()?.iter().filter_map(Value::as_str).collect();
        for package in value["packages"].as_array()? {
            let (id, name) = (package["id"].as_str()?, package["name"].as_str()?);
            names.insert(id, name);
            if members.contains(id) {
                metadata.members.insert(name.to_owned());
                let declared = package["dependencies"].as_array()?.iter();
                let declared = declared.filter_map(|dependency| dependency["name"].as_str());
                metadata.declared.insert(name.to_owned(), declared.map(str::to_owned).collect());
            }
        }
        for node in value["resolve"]["nodes"].as_array()? {
            let below = metadata
                .resolved
                .entry((*names.get(node["id"].as_str()?)?).to_owned())
                .or_default();
            for dependency in node["deps"].as_array()? {
                // Tests may use what the crate itself must not.
                let mut kinds = dependency["dep_kinds"].as_array()?.iter();
                if kinds.any(|kind| kind["kind"].as_str() != Some("dev")) {
                    below.insert((*names.get(dependency["pkg"].as_str()?)?).to_owned());
                }
            }
        }
        Some(metadata)
    }

    /// The shortest way from `start` down to each crate below it.
    fn paths(&self, start: &str) -> BTreeMap<&str, Vec<&str>> {
        let mut paths: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
        let Some((start, _)) = self.resolved.get_key_value(start) else { return paths };
        let mut queue = VecDeque::from([(start.as_str(), vec![start.as_str()])]);
        while let Some((name, path)) = queue.pop_front() {
            for below in self.resolved.get(name).into_iter().flatten() {
                if below != start && !paths.contains_key(below.as_str()) {
                    let mut longer = path.clone();
                    longer.push(below);
                    paths.insert(below, longer.clone());
                    queue.push_back((below, longer));
                }
            }
        }
        paths
    }
}

pub(crate) fn check(metadata: &Metadata) -> Vec<String> {
    let mut breaches = Vec::new();
    for (name, forbidden, why) in FORBIDDEN {
        for (below, path) in metadata.paths(name) {
            if below != *name && forbidden.iter().any(|pattern| matches(pattern, below)) {
                breaches
                    .push(format!("{name} must not know {below} ({why}): {}", path.join(" -> ")));
            }
        }
    }
    for (name, below, why) in FORBIDDEN_DIRECT {
        if metadata.declared.get(*name).is_some_and(|names| names.contains(*below))
            || metadata.resolved.get(*name).is_some_and(|names| names.contains(*below))
        {
            breaches.push(format!("{name} must not depend on {below} itself: {why}"));
        }
    }
    breaches
}

fn matches(pattern: &str, name: &str) -> bool {
    match pattern.strip_suffix('*') {
        Some(prefix) => name.starts_with(prefix),
        None => pattern == name,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    /// A dependency and its kind; no kind means a normal one.
    type Below = (&'static str, Option<&'static str>);

    /// Metadata of crates given with what they depend on.
    fn metadata(crates: &[(&str, &[Below])]) -> Metadata {
        let packages: Vec<Value> = crates
            .iter()
            .map(|(name, _)| json!({"id": name, "name": name, "dependencies": []}))
            .collect();
        let nodes: Vec<Value> = crates
            .iter()
            .map(|(name, below)| {
                let deps: Vec<Value> = below
                    .iter()
                    .map(|(name, kind)| json!({"pkg": name, "dep_kinds": [{"kind": kind}]}))
                    .collect();
                json!({"id": name, "deps": deps})
            })
            .collect();
        let members: Vec<&str> = crates.iter().map(|(name, _)| *name).collect();
        let value = json!({"packages": packages, "workspace_members": members, "resolve": {"nodes": nodes}});
        Metadata::parse(&value).unwrap()
    }

    #[test]
    fn an_edge_through_others_is_found() {
        let metadata = metadata(&[
            ("hapa-cache", &[("helper", None)]),
            ("helper", &[("candle-core", None)]),
            ("candle-core", &[]),
        ]);
        let breaches = check(&metadata);
        assert_eq!(breaches.len(), 1);
        assert!(breaches[0].ends_with("hapa-cache -> helper -> candle-core"), "{}", breaches[0]);
    }

    #[test]
    fn tests_may_use_anything() {
        let metadata = metadata(&[
            ("hapa-cache", &[("axum", Some("dev"))]),
            ("axum", &[("tokio", None)]),
            ("tokio", &[]),
        ]);
        assert!(check(&metadata).is_empty());
    }

    #[test]
    fn a_direct_edge_is_told_from_one_below() {
        let below: &[_] = &[("hapa-model", None)];
        let json: &[_] = &[("serde_json", None)];
        let none: &[_] = &[];
        let fine = metadata(&[("hapa-service", below), ("hapa-model", json), ("serde_json", none)]);
        assert!(check(&fine).is_empty());
        let direct = metadata(&[("hapa-service", json), ("serde_json", none)]);
        assert_eq!(check(&direct).len(), 1);
    }
}

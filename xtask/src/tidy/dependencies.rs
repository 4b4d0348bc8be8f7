//! Every third-party crate is used, and explained in docs/dependencies.md.

use super::File;
use super::edges::Metadata;
use std::collections::BTreeSet;

const PAGE: &str = "docs/dependencies.md";

pub(crate) fn check(metadata: &Metadata, files: &[File]) -> Vec<String> {
    let used: BTreeSet<&String> = metadata
        .declared
        .values()
        .flatten()
        .filter(|name| !metadata.members.contains(*name))
        .collect();
    let text = |path: &str| {
        files.iter().find(|file| file.path == path).map_or("", |file| file.text.as_str())
    };
    let page = text(PAGE);
    let mut breaches: Vec<String> = used
        .iter()
        .filter(|name| !page.contains(&format!("`{name}`")))
        .map(|name| format!("{PAGE}: says nothing of `{name}`"))
        .collect();
    for name in declared_at_the_root(text("Cargo.toml")) {
        let known = metadata.members.contains(name) || used.iter().any(|used| *used == name);
        if !known {
            breaches.push(format!("Cargo.toml: no member uses the workspace dependency `{name}`"));
        }
    }
    breaches
}

/// Names of `[workspace.dependencies]`.
fn declared_at_the_root(manifest: &str) -> impl Iterator<Item = &str> {
    manifest
        .lines()
        .skip_while(|line| line.trim() != "[workspace.dependencies]")
        .skip(1)
        .take_while(|line| !line.starts_with('['))
        .filter_map(|line| Some(line.split_once('=')?.0.trim()))
        .filter(|name| !name.starts_with('#'))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    #[test]
    fn unexplained_and_unused_crates_are_found() {
        let file = |path: &str, text: &str| File { path: path.to_owned(), text: text.to_owned() };
        let metadata = Metadata {
            members: BTreeSet::from(["hapa-cache".to_owned()]),
            declared: BTreeMap::from([(
                "hapa-cache".to_owned(),
                BTreeSet::from(["bytes".to_owned(), "blake3".to_owned()]),
            )]),
            ..Metadata::default()
        };
        let files = [
            file(PAGE, "| `blake3` | hashing |"),
            file(
                "Cargo.toml",
                "[workspace.dependencies]\nblake3 = \"1\"\n# bytes\nrand = \"1\"\n[profile]\nx = 1",
            ),
        ];
        let breaches = check(&metadata, &files);
        assert_eq!(breaches.len(), 2, "{breaches:?}");
        assert!(breaches[0].contains("`bytes`") && breaches[1].contains("`rand`"), "{breaches:?}");
    }
}

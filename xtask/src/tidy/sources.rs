//! Rules on source text: module docs, `unsafe`, length, paths that don't belong.

use super::File;
use super::lexer::{code_only, lines_with_word};

/// Where `unsafe` may stand, and why. A trailing `/` means a folder.
const UNSAFE: &[(&str, &str)] = &[
    ("crates/hapa-kernels/", "SIMD intrinsics and the loads they need"),
    ("crates/hapa-model/src/gguf/map.rs", "memory-mapping a weight file"),
    (
        "crates/hapa-profiler/src/alloc/global.rs",
        "a global allocator is an unsafe trait: docs/decisions/profiled-allocator.md",
    ),
    (
        "crates/hapa-profiler/src/sampling/signal.rs",
        "signal handlers and timers: docs/decisions/sampling.md",
    ),
];

/// Lines above which a file's head must say why it is so long.
const LONG: usize = 600;

/// Texts that would tie the project to the place where it was written. Split, so that this file
/// does not hold them itself.
const FOREIGN: &[&str] = &[concat!("../", "shared"), concat!("/wo", "rk/")];

pub(crate) fn check(files: &[File]) -> Vec<String> {
    let mut breaches = Vec::new();
    for file in files {
        for text in FOREIGN.iter().filter(|text| file.text.contains(**text)) {
            breaches.push(format!("{}: mentions {text}, which a clone does not have", file.path));
        }
        if file.is_rust() {
            breaches.extend(check_rust(file));
        }
    }
    breaches
}

fn check_rust(file: &File) -> Vec<String> {
    let File { path, text } = file;
    let mut breaches = Vec::new();
    if !text.trim_start().starts_with("//!") {
        breaches.push(format!("{path}: does not open with module docs (`//!`)"));
    }
    let lines = text.lines().count();
    let head = text.lines().take_while(|line| line.starts_with("//!"));
    let says_why = head.map(str::to_lowercase).any(|line| line.contains("long because"));
    if lines > LONG && !says_why {
        breaches.push(format!(
            "{path}: {lines} lines; above {LONG} the module docs must say \"Long because ...\""
        ));
    }
    let allowed = UNSAFE
        .iter()
        .any(|(place, _)| path == place || (place.ends_with('/') && path.starts_with(place)));
    if !allowed {
        for line in lines_with_word(&code_only(text), "unsafe") {
            breaches.push(format!(
                "{path}:{line}: unsafe; it may stand only in {}",
                UNSAFE
                    .iter()
                    .map(|(place, why)| format!("{place} ({why})"))
                    .collect::<Vec<_>>()
                    .join(", ")
            ));
        }
    }
    breaches
}

#[cfg(test)]
mod tests {
    use super::*;

    fn breaches(path: &str, text: &str) -> Vec<String> {
        check(&[File { path: path.to_owned(), text: text.to_owned() }])
    }

    #[test]
    fn a_good_file_passes() {
        assert!(breaches("crates/a/src/lib.rs", "//! Docs.\nfn a() {} // unsafe\n").is_empty());
    }

    #[test]
    fn each_rule_is_applied() {
        assert!(breaches("crates/a/src/lib.rs", "fn a() {}\n")[0].contains("module docs"));
        assert!(
            breaches("crates/a/src/lib.rs", "//! A.\nunsafe fn a() {}\n")[0].contains(":2: unsafe")
        );
        let long = format!("//! A.\n{}", "fn a() {}\n".repeat(LONG));
        assert!(breaches("crates/a/src/lib.rs", &long)[0].contains("601 lines"));
        assert!(
            breaches("crates/a/src/lib.rs", &long.replace("A.", "Long because of a table."))
                .is_empty()
        );
        assert!(breaches("README.md", &format!("see {}/x", FOREIGN[0]))[0].contains("a clone"));
    }

    #[test]
    fn unsafe_may_stand_where_the_table_says() {
        let text = "//! A.\nunsafe fn a() {}\n";
        assert!(breaches("crates/hapa-kernels/src/avx2.rs", text).is_empty());
        assert!(breaches("crates/hapa-model/src/gguf/map.rs", text).is_empty());
        assert_eq!(breaches("crates/hapa-model/src/gguf/maps.rs", text).len(), 1);
    }
}

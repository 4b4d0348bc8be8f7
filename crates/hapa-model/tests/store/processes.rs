//! Several processes, and processes that are killed. The test program starts itself as the other process.

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use hapa_model::catalog::{CatalogModel, IndexPart};
use hapa_model::{ModelRef, NoProgress, Store, StoreOptions};
use tempfile::tempdir;

use crate::common::{NOBODY, bytes, options, store};
use crate::fake_hub::{FakeHub, Mood, REPO, sha256};
use crate::index::FakeIndex;

const JOB: &str = "HAPA_TEST_JOB";

/// What the other process does: resolves the model that its environment names. A test of its own it is not.
#[test]
fn other_process() {
    let Ok(job) = std::env::var(JOB) else { return };
    let value = |name: &str| std::env::var(format!("HAPA_TEST_{name}")).expect(name);
    let dir = std::path::PathBuf::from(value("DIR"));
    let python = Some(value("PYTHON").into());
    let mut options = StoreOptions { python, ..options(&dir, &value("ENDPOINT")) };
    options.network.stall = Duration::from_secs(20);
    let model = match job.as_str() {
        "hub" => REPO.parse().expect("reference"),
        _ => ModelRef::Catalog(
            CatalogModel {
                id: "pieces".to_owned(),
                title: "A model in pieces".to_owned(),
                architecture: "llama".to_owned(),
                license: "MIT".to_owned(),
                hub: None,
                bytes: value("BYTES").parse().expect("a number"),
                sha256: value("SHA256"),
                index: (0..3)
                    .map(|number| IndexPart {
                        package: format!("piece{number}==1.0"),
                        member: "data/piece.bin".to_owned(),
                    })
                    .collect(),
            }
            .into(),
        ),
    };
    let found = Store::open(options).expect("open").resolve(&model, &NoProgress).expect("resolved");
    println!("digest={}", found.digest);
}

fn spawn(job: &str, dir: &Path, endpoint: &str, settings: &[(&str, String)]) -> Child {
    let mut command = Command::new(std::env::current_exe().expect("this program"));
    command
        .args(["--exact", "processes::other_process", "--nocapture"])
        .env(JOB, job)
        .env("HAPA_TEST_DIR", dir)
        .env("HAPA_TEST_ENDPOINT", endpoint)
        .env("HAPA_TEST_PYTHON", "/nonexistent/python")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    for (name, value) in settings {
        command.env(format!("HAPA_TEST_{name}"), value);
    }
    command.spawn().expect("spawn")
}

fn until(what: &str, mut condition: impl FnMut() -> bool) {
    let end = Instant::now() + Duration::from_secs(20);
    while !condition() {
        assert!(Instant::now() < end, "not within 20 s: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn two_processes_fetch_once() {
    let (hub, dir) = (FakeHub::start(), tempdir().expect("dir"));
    let content = bytes(2_000_000, 5);
    hub.put("model.gguf", &content, true);
    hub.set(Mood { slow: Some(Duration::from_millis(15)), ..Mood::default() });
    let children: Vec<Child> =
        (0..2).map(|_| spawn("hub", dir.path(), &hub.endpoint(), &[])).collect();
    for child in children {
        let output = child.wait_with_output().expect("output");
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(output.status.success(), "{text}{}", String::from_utf8_lossy(&output.stderr));
        assert!(text.contains(&format!("digest={}", sha256(&content))), "{text}");
    }
    assert_eq!(hub.fetches().len(), 1, "{:?}", hub.fetches());
}

#[test]
fn a_killed_fetch_from_the_hub_is_resumed() {
    let (hub, dir) = (FakeHub::start(), tempdir().expect("dir"));
    let content = bytes(3_000_000, 6);
    hub.put("model.gguf", &content, true);
    hub.set(Mood { slow: Some(Duration::from_millis(20)), ..Mood::default() });
    let store = store(&dir, &hub.endpoint());
    let mut child = spawn("hub", dir.path(), &hub.endpoint(), &[]);
    until("a part is there", || store.leftovers().iter().any(|l| l.bytes > 500_000));
    child.kill().expect("kill");
    child.wait().expect("wait");
    assert!(store.list().is_empty(), "nothing has the final name");
    let kept = store.leftovers().iter().map(|l| l.bytes).max().expect("a part");
    assert!(kept < 3_000_000);
    hub.set(Mood::default());
    let found = store.resolve(&REPO.parse().expect("reference"), &NoProgress).expect("resumed");
    assert_eq!(found.digest, sha256(&content));
    assert_eq!(hub.fetches().last().expect("a request").range, Some(kept));
    assert!(store.leftovers().is_empty());
}

#[cfg(unix)]
#[test]
fn a_killed_fetch_from_the_index_is_resumed_by_packages() {
    let (index, dir) = (FakeIndex::new(), tempdir().expect("dir"));
    std::fs::write(index.hold(1), "").expect("write");
    let settings = [
        ("PYTHON", index.python().display().to_string()),
        ("BYTES", index.content.len().to_string()),
        ("SHA256", sha256(&index.content)),
    ];
    let mut child = spawn("index", dir.path(), NOBODY, &settings);
    let state = dir.path().join("home/models/pieces/.pieces.gguf.index.part.json");
    until("the first piece is joined", || state.exists());
    until("the second is asked for", || index.asked().len() == 2);
    child.kill().expect("kill");
    child.wait().expect("wait");
    std::fs::remove_file(index.hold(1)).expect("remove");
    let store = index.store(dir.path());
    let found =
        store.resolve(&ModelRef::Catalog(index.model().into()), &NoProgress).expect("resumed");
    assert_eq!(found.digest, sha256(&index.content));
    assert_eq!(index.asked(), ["piece0", "piece1", "piece1", "piece2"]);
    assert!(store.leftovers().is_empty(), "{:?}", store.leftovers());
}

/// pip is a process of its own: when ours is killed it must not go on.
#[cfg(target_os = "linux")]
#[test]
fn pip_dies_with_us() {
    let dir = tempdir().expect("dir");
    let module = dir.path().join("modules/pip");
    std::fs::create_dir_all(&module).expect("dir");
    std::fs::write(module.join("__init__.py"), "").expect("write");
    let notes = dir.path().join("pid");
    let script = format!(
        "import os, time\nopen({notes:?} + '.new', 'w').write(str(os.getpid()))\n\
         os.rename({notes:?} + '.new', {notes:?})\ntime.sleep(60)\n"
    );
    std::fs::write(module.join("__main__.py"), script).expect("write");
    let python = ["python3", "python"].into_iter().find(|name| {
        Command::new(name).arg("--version").output().is_ok_and(|output| output.status.success())
    });
    let Some(python) = python else {
        eprintln!("SKIPPED: no Python on this machine");
        return;
    };
    let settings =
        [("PYTHON", python.to_owned()), ("BYTES", "1000".to_owned()), ("SHA256", sha256(b""))];
    // The user may stand in a folder with a file of a standard module's name: it must not run.
    let project = dir.path().join("project");
    std::fs::create_dir(&project).expect("dir");
    std::fs::write(project.join("runpy.py"), "raise SystemExit('the wrong runpy')").expect("write");
    // The stand-in is found before the real pip.
    let modules = module.parent().expect("parent");
    let mut command = Command::new(std::env::current_exe().expect("this program"));
    command
        .args(["--exact", "processes::other_process"])
        .env("PYTHONPATH", modules)
        .current_dir(&project);
    command.env(JOB, "index").env("HAPA_TEST_DIR", dir.path()).env("HAPA_TEST_ENDPOINT", NOBODY);
    for (name, value) in settings {
        command.env(format!("HAPA_TEST_{name}"), value);
    }
    let mut child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("spawn");
    until("pip runs", || notes.exists());
    let pid = std::fs::read_to_string(&notes).expect("pid");
    let alive = || {
        // A process that ended but whose parent has not looked yet is as good as gone.
        std::fs::read_to_string(format!("/proc/{pid}/stat"))
            .is_ok_and(|stat| !stat.contains(") Z "))
    };
    assert!(alive());
    child.kill().expect("kill");
    child.wait().expect("wait");
    until("pip is gone", || !alive());
}

//! The hub route, over real sockets.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use hapa_model::catalog::{CatalogModel, HubSource};
use hapa_model::{ModelError, ModelRef, NoProgress, Origin, Route, Store};
use tempfile::{TempDir, tempdir};

use crate::common::{NOBODY, Watch, bytes, files, options, store};
use crate::fake_hub::{COMMIT, FakeHub, Mood, REPO, sha256};

const LEN: usize = 700_000;

fn hub_with_model() -> (FakeHub, Vec<u8>, TempDir) {
    let hub = FakeHub::start();
    let content = bytes(LEN, 1);
    hub.put("model-Q4_K_M.gguf", &content, true);
    hub.put("model-Q8_0.gguf", &bytes(1000, 2), true);
    hub.put("config.json", b"{}", false);
    (hub, content, tempdir().expect("dir"))
}

fn reference() -> ModelRef {
    REPO.parse().expect("a hub reference")
}

fn pinned(content: &[u8]) -> ModelRef {
    ModelRef::Catalog(
        CatalogModel {
            id: "pinned".to_owned(),
            title: "A model of this test".to_owned(),
            architecture: "llama".to_owned(),
            license: "MIT".to_owned(),
            hub: Some(HubSource { repo: REPO.to_owned(), file: "model-Q4_K_M.gguf".to_owned() }),
            bytes: content.len() as u64,
            sha256: sha256(content),
            index: Vec::new(),
        }
        .into(),
    )
}

#[test]
fn a_model_is_fetched_once_and_then_needs_no_hub() {
    let (hub, content, dir) = hub_with_model();
    let store = store(&dir, &hub.endpoint());
    let watch = Watch::default();
    let model = store.resolve(&reference(), &watch).expect("fetched");
    assert_eq!(model.origin, Origin::Fetched(Route::Hub));
    assert_eq!(model.digest, sha256(&content));
    assert_eq!(std::fs::read(&model.path).expect("read"), content);
    assert_eq!(watch.fetched().last(), Some(&(LEN as u64)));
    assert_eq!(
        files(&dir.path().join("home")),
        [
            format!("models/hub/someone--some-model/{COMMIT}/model-Q4_K_M.gguf"),
            "models/hub/someone--some-model/main.json".to_owned(),
        ]
    );

    hub.forget();
    let offline = hapa_model::StoreOptions { offline: true, ..options(dir.path(), NOBODY) };
    let again =
        Store::open(offline).expect("open").resolve(&reference(), &NoProgress).expect("here");
    assert_eq!(
        (again.origin, &again.path, &again.digest),
        (Origin::Store, &model.path, &model.digest)
    );
    assert!(hub.seen().is_empty());
}

#[test]
fn the_token_goes_to_the_hub_and_not_to_its_storage() {
    let (hub, _, dir) = hub_with_model();
    hub.set(Mood { token: Some("hf_test".to_owned()), ..Mood::default() });
    store(&dir, &hub.endpoint()).resolve(&reference(), &NoProgress).expect("may read");
    let seen = hub.seen();
    assert!(seen.iter().any(|s| s.path.contains("/resolve/") && s.token.is_some()));
    assert!(hub.fetches().iter().all(|s| s.token.is_none()), "{seen:?}");
}

#[test]
fn a_connection_cut_in_the_middle_goes_on_where_it_was() {
    let (hub, content, dir) = hub_with_model();
    hub.set(Mood { cuts: vec![200_000, 100_000, 0], ..Mood::default() });
    let watch = Watch::default();
    let model = store(&dir, &hub.endpoint()).resolve(&reference(), &watch).expect("in the end");
    assert_eq!(model.digest, sha256(&content));
    let ranges: Vec<_> = hub.fetches().iter().map(|s| s.range).collect();
    assert_eq!(ranges, [None, Some(200_000), Some(300_000), Some(300_000)]);
    watch.fetched();
}

#[test]
fn a_silent_connection_is_given_up_and_resumed() {
    let (hub, content, dir) = hub_with_model();
    hub.set(Mood { silences: vec![131_072], ..Mood::default() });
    let begun = Instant::now();
    let model = store(&dir, &hub.endpoint()).resolve(&reference(), &NoProgress).expect("resumed");
    assert_eq!(model.digest, sha256(&content));
    assert_eq!(hub.fetches()[1].range, Some(131_072));
    assert!(begun.elapsed() < Duration::from_secs(10), "{:?}", begun.elapsed());
}

#[test]
fn a_cancelled_fetch_stops_soon_and_the_next_one_resumes() {
    let (hub, content, dir) = hub_with_model();
    hub.set(Mood { silences: vec![400_000], ..Mood::default() });
    let mut patient = options(dir.path(), &hub.endpoint());
    patient.network.stall = Duration::from_secs(30);
    let store = Store::open(patient).expect("open");
    let watch = Watch { cancel_at: Some(300_000), ..Watch::default() };
    let begun = Instant::now();
    let error = store.resolve(&reference(), &watch).expect_err("cancelled");
    assert!(matches!(error, ModelError::Cancelled), "{error}");
    assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
    assert_eq!(store.leftovers().len(), 2, "the part and its note: {:?}", store.leftovers());
    let here = store.leftovers().iter().map(|l| l.bytes).max().expect("a part");
    let model = store.resolve(&reference(), &NoProgress).expect("resumed");
    assert_eq!(model.digest, sha256(&content));
    let range = hub.fetches().last().expect("a request").range.expect("a range");
    assert_eq!(range, here);
    assert!(range >= 300_000);
    assert!(store.leftovers().is_empty());
}

#[test]
fn a_damaged_part_is_noticed_and_fetched_anew() {
    let (hub, content, dir) = hub_with_model();
    let store = store(&dir, &hub.endpoint());
    let watch = Watch { cancel_at: Some(1), ..Watch::default() };
    hub.set(Mood { slow: Some(Duration::from_millis(20)), ..Mood::default() });
    store.resolve(&reference(), &watch).expect_err("cancelled");
    let part = store.leftovers().into_iter().max_by_key(|l| l.bytes).expect("a part").path;
    let mut kept = std::fs::read(&part).expect("read");
    kept[3] ^= 0x40;
    std::fs::write(&part, kept).expect("write");
    hub.set(Mood::default());
    let model = store.resolve(&reference(), &NoProgress).expect("anew");
    assert_eq!(std::fs::read(&model.path).expect("read"), content);
    let ranges: Vec<_> = hub.fetches().iter().map(|s| s.range.is_some()).collect();
    assert_eq!(ranges, [false, true, false]);
}

#[test]
fn a_server_without_ranges_starts_over() {
    let (hub, content, dir) = hub_with_model();
    hub.set(Mood { cuts: vec![200_000], ignore_ranges: true, ..Mood::default() });
    let model = store(&dir, &hub.endpoint()).resolve(&reference(), &NoProgress).expect("whole");
    assert_eq!(model.digest, sha256(&content));
}

#[test]
fn a_busy_hub_is_asked_again_but_not_for_ever() {
    let (hub, content, dir) = hub_with_model();
    hub.set(Mood { refusals: vec![503, 429, 500], ..Mood::default() });
    let store = store(&dir, &hub.endpoint());
    let model = store.resolve(&reference(), &NoProgress).expect("the fourth time");
    assert_eq!(model.digest, sha256(&content));
    store.remove(&reference()).expect("removed");
    hub.set(Mood { refusals: vec![503; 50], ..Mood::default() });
    hub.forget();
    let error = store.resolve(&reference(), &NoProgress).expect_err("gives up").to_string();
    assert!(error.contains("HTTP 503") && error.contains("gave up after 4 tries"), "{error}");
    assert_eq!(hub.fetches().len(), 4);
}

#[test]
fn refusals_say_what_would_help() {
    let (hub, _, dir) = hub_with_model();
    for (status, token, help) in [
        (401, None, "set HF_TOKEN"),
        (403, Some("hf_other"), "the token in HF_TOKEN may not read"),
        (404, None, "no such repository"),
    ] {
        hub.set(Mood { listing_status: Some(status), ..Mood::default() });
        let mut options = options(dir.path(), &hub.endpoint());
        // An empty token is none, whatever this machine's environment has.
        options.hub_token = Some(token.unwrap_or_default().to_owned());
        let error = Store::open(options).expect("open").resolve(&reference(), &NoProgress);
        let error = error.expect_err("refused");
        assert!(matches!(error, ModelError::UnknownModel { .. }), "{error}");
        assert!(error.to_string().contains(help), "{error}");
        assert!(error.to_string().contains(&status.to_string()), "{error}");
    }
}

#[test]
fn a_file_that_the_repository_lacks_is_named_with_what_there_is() {
    let (hub, _, dir) = hub_with_model();
    let store = store(&dir, &hub.endpoint());
    let model: ModelRef = format!("{REPO}:Q5_K_M").parse().expect("reference");
    let error = store.resolve(&model, &NoProgress).expect_err("no such file").to_string();
    assert!(error.contains("Q5_K_M") && error.contains("model-Q8_0.gguf"), "{error}");
}

#[test]
fn wrong_bytes_are_refused_and_nothing_is_left() {
    let (hub, _, dir) = hub_with_model();
    hub.set(Mood { corrupt: true, ..Mood::default() });
    let store = store(&dir, &hub.endpoint());
    let error = store.resolve(&reference(), &NoProgress).expect_err("corrupt");
    assert!(matches!(error, ModelError::DigestMismatch { .. }), "{error}");
    assert_eq!(files(&dir.path().join("home")), Vec::<String>::new());
}

#[test]
fn digests_come_from_headers_when_the_listing_has_none() {
    let (hub, content, dir) = hub_with_model();
    hub.set(Mood { plain_listing: true, ..Mood::default() });
    let model = store(&dir, &hub.endpoint()).resolve(&reference(), &NoProgress).expect("fetched");
    assert_eq!(model.digest, sha256(&content));
    assert!(hub.seen().iter().any(|s| s.method == "HEAD"));

    let other = tempdir().expect("dir");
    hub.set(Mood { plain_listing: true, corrupt: true, ..Mood::default() });
    let error = store_in(&other, &hub).resolve(&reference(), &NoProgress).expect_err("corrupt");
    assert!(matches!(error, ModelError::DigestMismatch { .. }), "{error}");
}

fn store_in(dir: &TempDir, hub: &FakeHub) -> Store {
    store(dir, &hub.endpoint())
}

#[test]
fn a_safetensors_repository_becomes_a_folder() {
    let hub = FakeHub::start();
    let dir = tempdir().expect("dir");
    hub.put("config.json", b"{\"model_type\":\"llama\"}", false);
    hub.put("tokenizer.json", b"{}", false);
    hub.put("tokenizer_config.json", b"{}", false);
    hub.put("model-00001-of-00002.safetensors", &bytes(5000, 3), true);
    hub.put("model-00002-of-00002.safetensors", &bytes(6000, 4), true);
    let map = r#"{"weight_map":{"a":"model-00001-of-00002.safetensors","b":"model-00002-of-00002.safetensors"}}"#;
    hub.put("model.safetensors.index.json", map.as_bytes(), false);
    hub.put("pytorch_model.bin", &bytes(100, 5), true);
    let store = store(&dir, &hub.endpoint());
    let watch = Watch::default();
    let model = store.resolve(&reference(), &watch).expect("fetched");
    assert!(model.path.join("model-00002-of-00002.safetensors").is_file());
    assert!(!model.path.join("pytorch_model.bin").exists());
    watch.fetched();
    let by_path =
        store.resolve(&ModelRef::Path(model.path.clone()), &NoProgress).expect("a folder");
    assert_eq!(by_path.digest, model.digest, "a folder has one digest, however it is named");
    assert_eq!(store.resolve(&reference(), &NoProgress).expect("here").origin, Origin::Store);
    // A small file is checked by git's digest of it.
    hub.set(Mood { corrupt: true, ..Mood::default() });
    std::fs::remove_file(model.path.join("config.json")).expect("remove");
    let error = store.resolve(&reference(), &NoProgress).expect_err("corrupt");
    assert!(
        matches!(error, ModelError::DigestMismatch { ref expected, .. } if expected.len() == 40),
        "{error}"
    );
}

#[test]
fn file_names_with_spaces_are_fetched() {
    let hub = FakeHub::start();
    let dir = tempdir().expect("dir");
    hub.put("my model.gguf", &bytes(100, 1), true);
    let model = store(&dir, &hub.endpoint()).resolve(&reference(), &NoProgress).expect("fetched");
    assert!(model.path.ends_with("my model.gguf"));
}

#[test]
fn pull_follows_the_branch_and_keeps_what_it_has_without_a_hub() {
    let (hub, _, dir) = hub_with_model();
    let store = store(&dir, &hub.endpoint());
    let first = store.pull(&reference(), &NoProgress).expect("fetched");
    hub.forget();
    let second = store.pull(&reference(), &NoProgress).expect("asked again");
    assert_eq!((second.origin, second.path), (Origin::Store, first.path.clone()));
    assert!(hub.seen().iter().any(|s| s.path.starts_with("/api/")) && hub.fetches().is_empty());
    let alone = Store::open(options(dir.path(), NOBODY)).expect("open");
    assert_eq!(alone.pull(&reference(), &NoProgress).expect("kept").path, first.path);
}

#[test]
fn a_catalogue_model_comes_from_the_hub_and_must_match_its_pin() {
    let (hub, content, dir) = hub_with_model();
    let store = store(&dir, &hub.endpoint());
    let model = store.resolve(&pinned(&content), &NoProgress).expect("fetched");
    assert_eq!((model.name.as_str(), model.origin), ("pinned", Origin::Fetched(Route::Hub)));
    assert!(model.path.ends_with("models/pinned/model-Q4_K_M.gguf"));

    // Someone put other bytes of the same length there.
    hub.put("model-Q4_K_M.gguf", &bytes(LEN, 99), true);
    std::fs::remove_dir_all(dir.path().join("home")).expect("remove");
    let error = store.resolve(&pinned(&content), &NoProgress).expect_err("not the pinned bytes");
    assert!(matches!(error, ModelError::DigestMismatch { .. }), "{error}");
    assert_eq!(files(&dir.path().join("home")), Vec::<String>::new());

    // Or of another length.
    hub.put("model-Q4_K_M.gguf", &bytes(LEN + 1, 1), true);
    let error = store.resolve(&pinned(&content), &NoProgress).expect_err("too long").to_string();
    assert!(error.contains(&format!("{} bytes, expected {LEN}", LEN + 1)), "{error}");
}

#[test]
fn a_damaged_file_of_the_store_is_noticed_and_replaced() {
    let (hub, content, dir) = hub_with_model();
    let store = store(&dir, &hub.endpoint());
    let model = store.resolve(&pinned(&content), &NoProgress).expect("fetched");
    let damage = || {
        let mut damaged = content.clone();
        damaged[LEN / 2] ^= 1;
        std::fs::write(&model.path, damaged).expect("write");
    };
    damage();
    let healed = store.resolve(&pinned(&content), &NoProgress).expect("replaced");
    assert_eq!(healed.origin, Origin::Fetched(Route::Hub));
    assert_eq!(std::fs::read(&model.path).expect("read"), content);
    damage();
    let offline = hapa_model::StoreOptions { offline: true, ..options(dir.path(), NOBODY) };
    let error = Store::open(offline).expect("open").resolve(&pinned(&content), &NoProgress);
    let error = error.expect_err("cannot be replaced");
    assert!(matches!(error, ModelError::DigestMismatch { .. }), "{error}");
    assert!(!model.path.exists());
}

#[test]
fn the_hugging_face_cache_is_used() {
    let (hub, content, dir) = hub_with_model();
    let repo = dir.path().join("hf/models--someone--some-model");
    let snapshot = repo.join("snapshots").join(COMMIT);
    std::fs::create_dir_all(repo.join("refs")).expect("dir");
    std::fs::create_dir_all(repo.join("blobs")).expect("dir");
    std::fs::create_dir_all(&snapshot).expect("dir");
    std::fs::write(repo.join("refs/main"), COMMIT).expect("write");
    let blob = repo.join("blobs").join(sha256(&content));
    std::fs::write(&blob, &content).expect("write");
    #[cfg(unix)]
    std::os::unix::fs::symlink(&blob, snapshot.join("model-Q4_K_M.gguf")).expect("link");
    #[cfg(not(unix))]
    std::fs::copy(&blob, snapshot.join("model-Q4_K_M.gguf")).expect("copy");

    let store = store(&dir, &hub.endpoint());
    for model in [reference(), pinned(&content)] {
        let found = store.resolve(&model, &NoProgress).expect("cached");
        assert_eq!(found.origin, Origin::HubCache, "{model}");
        assert_eq!(found.path, snapshot.join("model-Q4_K_M.gguf"));
        assert_eq!(found.digest, sha256(&content));
    }
    assert!(hub.seen().is_empty());
    // Other bytes under the right name are not the pinned model: it is fetched.
    std::fs::write(&blob, bytes(LEN, 77)).expect("write");
    let fetched = store.resolve(&pinned(&content), &NoProgress).expect("fetched");
    assert_eq!(fetched.origin, Origin::Fetched(Route::Hub));
}

#[test]
fn offline_fetches_nothing() {
    let (hub, content, dir) = hub_with_model();
    let offline =
        hapa_model::StoreOptions { offline: true, ..options(dir.path(), &hub.endpoint()) };
    let store = Store::open(offline).expect("open");
    for model in [reference(), pinned(&content)] {
        let error = store.resolve(&model, &NoProgress).expect_err("not here");
        assert!(matches!(error, ModelError::Offline { .. }), "{error}");
        assert!(error.to_string().contains(&format!("hapa model pull {model}")), "{error}");
    }
    assert!(hub.seen().is_empty());
    assert!(!dir.path().join("home").exists(), "nothing was written either");
}

#[test]
fn a_hub_that_never_answers_does_not_hang_and_can_be_cancelled() {
    let (hub, content, dir) = hub_with_model();
    hub.set(Mood { mute: true, ..Mood::default() });
    let mut options = options(dir.path(), &hub.endpoint());
    options.network.retries = 1;
    let begun = Instant::now();
    let error = Store::open(options.clone()).expect("open").resolve(&pinned(&content), &NoProgress);
    assert!(matches!(error, Err(ModelError::Fetch { .. })), "{error:?}");
    assert!(begun.elapsed() < Duration::from_secs(8), "{:?}", begun.elapsed());

    options.network.stall = Duration::from_secs(60);
    let store = Store::open(options).expect("open");
    for model in [reference(), pinned(&content)] {
        let watch = Watch::default();
        let begun = Instant::now();
        std::thread::scope(|scope| {
            let resolving = scope.spawn(|| store.resolve(&model, &watch));
            std::thread::sleep(Duration::from_millis(100));
            watch.cancelled.store(true, Ordering::SeqCst);
            let error = resolving.join().expect("join").expect_err("cancelled");
            assert!(matches!(error, ModelError::Cancelled), "{error}");
        });
        assert!(begun.elapsed() < Duration::from_secs(2), "{:?}", begun.elapsed());
    }
}

#[test]
fn without_hub_and_index_the_error_lists_both_routes() {
    let dir = tempdir().expect("dir");
    let model: ModelRef = "qwen2.5-coder-0.5b".parse().expect("catalogue");
    let error = store(&dir, NOBODY).resolve(&model, &NoProgress).expect_err("no way").to_string();
    assert!(
        error.contains("Hugging Face hub: ") && error.contains("Python package index: "),
        "{error}"
    );
}

#[test]
fn a_hub_that_cannot_be_reached_is_left_soon() {
    let dir = tempdir().expect("dir");
    let mut options = options(dir.path(), "http://no-such-host.invalid");
    options.network = hapa_model::store::NetworkOptions::default();
    let store = Store::open(options).expect("open");
    let begun = Instant::now();
    let error = store.resolve(&pinned(b"abc"), &NoProgress).expect_err("unreachable").to_string();
    assert!(error.contains("cannot reach http://no-such-host.invalid"), "{error}");
    assert!(begun.elapsed() < Duration::from_secs(7), "{:?}", begun.elapsed());
}

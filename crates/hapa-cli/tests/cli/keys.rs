//! `hapa keys`, and a running server that follows them.

use std::time::{Duration, Instant};

use hapa_model::testing::TinyModel;

use crate::sandbox::{Sandbox, signal};
use crate::serve::Running;

#[test]
fn keys_are_shown_once_listed_and_revoked() {
    let sandbox = Sandbox::new();
    assert!(sandbox.run(&["keys", "list"]).ok().stdout.contains("no keys in"));
    let made = sandbox.run(&["keys", "create", "--name", "ci", "--scope", "code_generation"]).ok();
    let key = made.stdout.trim();
    assert!(key.starts_with("hapa_") && key.len() == 37, "{key}");
    assert!(made.stderr.contains("cannot be shown again"), "{}", made.stderr);
    let file = std::fs::read_to_string(sandbox.home().join("keys.json")).unwrap();
    assert!(!file.contains(&key[5..]), "{file}");
    let listed = sandbox.run(&["keys", "list", "--json"]).ok().json();
    let record = &listed["keys"][0];
    assert_eq!(record["name"], "ci");
    assert_eq!(record["state"], "active");
    assert_eq!(record["scopes"][0], "code_generation");
    let text = sandbox.run(&["keys", "list"]).ok().stdout;
    assert!(text.contains("active") && !text.contains(key), "{text}");
    let full =
        ["keys", "create", "--name", "lap", "--scope", "code_generation,admin", "--rate", "60"];
    let full = [&full[..], &["--token-rate", "1000", "--expires", "90d", "--json"]].concat();
    let made = sandbox.run(&full).ok().json();
    assert_eq!(made["requests_per_minute"], 60);
    assert_eq!(made["expires"].as_u64().unwrap() - made["created"].as_u64().unwrap(), 90 * 86_400);
    let id = record["id"].as_str().unwrap();
    assert_eq!(sandbox.run(&["keys", "revoke", id, "--json"]).ok().json()["state"], "revoked");
    let again = sandbox.run(&["keys", "revoke", id]);
    assert_eq!(again.code, Some(2), "{}", again.stderr);
    let wrong = sandbox.run(&["keys", "create", "--name", "x", "--scope", "root"]);
    assert!(wrong.code == Some(2) && wrong.stderr.contains("code_completion"), "{}", wrong.stderr);
}

#[test]
fn a_running_server_follows_the_file() {
    let sandbox = Sandbox::new();
    let model = sandbox.tiny(&TinyModel::qwen2());
    let open = sandbox.run(&["serve", "--host", "0.0.0.0", "--port", "0", "-m", &model]);
    assert!(open.stderr.contains("hapa keys create"), "{}", open.stderr);
    assert_eq!(open.code, Some(1));

    let make = |name: &str| {
        let ran = sandbox.run(&["keys", "create", "--name", name, "--scope", "admin"]).ok();
        ran.stdout.trim().to_owned()
    };
    let first = make("first");
    let server =
        Running::start(sandbox.hapa(&["serve", "--host", "0.0.0.0", "--port", "0", "-m", &model]));
    let status = |key: &str| {
        let head = server.ask_with("GET /stats", &format!("x-api-key: {key}\r\n"));
        head.split(' ').nth(1).unwrap().to_owned()
    };
    let until = |key: &str, wanted: &str| {
        let deadline = Instant::now() + Duration::from_secs(30);
        while status(key) != wanted {
            assert!(Instant::now() < deadline, "never {wanted}");
            std::thread::sleep(Duration::from_millis(50));
        }
    };
    assert_eq!(status(&first), "200");
    assert_eq!(status("hapa_0123456789abcdef0123456789abcdef"), "401");
    let second = make("second");
    until(&second, "200");
    sandbox.run(&["keys", "revoke", "first"]).ok();
    until(&first, "401");
    // A file that is gone or damaged opens no door and locks nobody out.
    std::fs::write(sandbox.home().join("keys.json"), "nonsense").unwrap();
    std::thread::sleep(Duration::from_millis(1500));
    assert_eq!(status(&second), "200");
    std::fs::remove_file(sandbox.home().join("keys.json")).unwrap();
    std::thread::sleep(Duration::from_millis(1500));
    assert_eq!((status(&second).as_str(), status("x").as_str()), ("200", "401"));
    signal(server.child(), "TERM");
    assert_eq!(server.end().0, Some(0));
}

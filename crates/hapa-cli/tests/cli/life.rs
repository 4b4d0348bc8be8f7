//! The life of `hapa serve`: reloads, service managers, ends that are not asked for, and files that fail.

use std::io::Read;
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use hapa_model::testing::TinyModel;

use crate::sandbox::{Sandbox, arg, signal};
use crate::serve::Running;

/// Tries until it is so, or fails.
fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(30);
    while !is_so() {
        assert!(Instant::now() < deadline, "waited in vain: {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Reads messages to a service manager until one has a line.
fn heard(manager: &UnixDatagram, line: &str) {
    let mut message = [0; 1024];
    loop {
        let length = manager.recv(&mut message).unwrap_or_else(|e| panic!("no {line}: {e}"));
        let text = std::str::from_utf8(&message[..length]).unwrap();
        if text.lines().any(|found| found.starts_with(line)) {
            return;
        }
    }
}

#[test]
fn a_service_manager_is_told_of_everything() {
    let sandbox = Sandbox::new();
    let model = sandbox.tiny(&TinyModel::qwen2());
    let manager = UnixDatagram::bind(sandbox.path("notify")).unwrap();
    manager.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
    let other = arg(&sandbox.file("other.gguf", TinyModel::qwen2().seed(7).to_bytes()));
    let mut command = sandbox.hapa(&["serve", "--port", "0", "-m", &model, "--also", &other]);
    command.env("NOTIFY_SOCKET", sandbox.path("notify")).env("WATCHDOG_USEC", "200000");
    let server = Running::start(command);
    heard(&manager, "READY=1");
    heard(&manager, "STATUS=tiny: unloaded; other: unloaded");
    heard(&manager, "WATCHDOG=1");
    for (model, status) in [("other", "tiny: unloaded; other"), ("tiny", "tiny: ready; other")] {
        let body = format!("{{\"model\": \"{model}\", \"prompt\": \"x\", \"max_tokens\": 1}}");
        let answer = server.ask("POST /v1/completions", &body);
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
        heard(&manager, &format!("STATUS={status}: ready"));
    }
    signal(server.child(), "HUP");
    heard(&manager, "RELOADING=1");
    heard(&manager, "READY=1");
    signal(server.child(), "TERM");
    heard(&manager, "STOPPING=1");
    assert_eq!(server.end().0, Some(0));
}

/// Opens a socket, as a service manager does, and becomes the program.
const ACTIVATE: &str = "
import os, socket, sys
listener = socket.create_server((sys.argv[1], 0))
os.dup2(listener.fileno(), 3)
os.set_inheritable(3, True)
os.environ.update(LISTEN_FDS='1', LISTEN_PID=str(os.getpid()))
os.execv(sys.argv[2], sys.argv[2:])
";

fn activated(sandbox: &Sandbox, host: &str, model: &str) -> Command {
    let program = sandbox.hapa(&["serve", "-m", model]);
    let mut command = Command::new("python3");
    command.args(["-c", ACTIVATE, host]).arg(program.get_program()).args(program.get_args());
    command.current_dir(sandbox.path(""));
    for (name, value) in program.get_envs() {
        match value {
            Some(value) => command.env(name, value),
            None => command.env_remove(name),
        };
    }
    command.stdin(std::process::Stdio::null()).stdout(std::process::Stdio::piped());
    command.stderr(std::process::Stdio::piped());
    command
}

#[test]
fn a_socket_that_was_handed_over_is_the_one() {
    let sandbox = Sandbox::new();
    let model = sandbox.tiny(&TinyModel::qwen2());
    let server = Running::start(activated(&sandbox, "127.0.0.1", &model));
    assert!(!server.url().ends_with(":8000"), "{}", server.url());
    assert!(server.ask("GET /health", "").starts_with("HTTP/1.1 200"));
    signal(server.child(), "TERM");
    assert_eq!(server.end().0, Some(0));
    // One that others can reach takes a key, whoever opened it.
    let refused = activated(&sandbox, "0.0.0.0", &model).output().unwrap();
    let message = String::from_utf8(refused.stderr).unwrap();
    assert!(message.contains("refused to listen on 0.0.0.0"), "{message}");
}

#[test]
fn hangup_takes_settings_over_and_leaves_bad_ones() {
    let sandbox = Sandbox::new();
    let model = sandbox.tiny(&TinyModel::qwen2());
    let settings = |server: &str, rest: &str| {
        sandbox.file("hapa.toml", format!("model = '{model}'\n{rest}[server]\nport = 0\n{server}"));
    };
    settings("", "");
    let mut server = Running::start(sandbox.hapa(&["serve"]));
    let status = |server: &Running| server.ask_with("GET /health", "")[9..12].to_owned();
    assert_eq!(status(&server), "403", "the name is not allowed yet");
    settings("allowed_hosts = 'a.example'\nmax_connections = 7\n", "log = 'hapa=info'\n");
    signal(server.child(), "HUP");
    assert_eq!(
        server.line(),
        "warning: the setting server.max_connections was changed; it takes a restart\n"
    );
    assert_eq!(server.line(), "settings, keys and certificate were read again\n");
    assert_eq!(status(&server), "200");
    settings("allowed_hosts = 3\n", "");
    signal(server.child(), "HUP");
    // Logs may come before it.
    until("the mistake is told", || {
        server.line().starts_with("error: nothing was reloaded: hapa.toml:")
    });
    assert_eq!(status(&server), "200", "what was in force stays");
    signal(server.child(), "TERM");
    assert_eq!(server.end().0, Some(0));
}

/// A certificate for localhost that is its own authority, in files.
fn certificate(sandbox: &Sandbox) -> (String, String, String) {
    let made = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
    let pem = made.cert.pem();
    let key = sandbox.file("key.pem", made.signing_key.serialize_pem());
    (arg(&sandbox.file("cert.pem", &pem)), arg(&key), pem)
}

#[test]
fn https_by_flags_and_a_new_certificate_by_hangup() {
    let sandbox = Sandbox::new();
    let model = sandbox.tiny(&TinyModel::qwen2());
    let (cert, key, pem) = certificate(&sandbox);
    let args = ["serve", "--port", "0", "-m", &model, "--tls-cert", &cert, "--tls-key", &key];
    let mut server = Running::start(sandbox.hapa(&args));
    let port = server.url().strip_prefix("https://127.0.0.1:").unwrap().to_owned();
    let status = |pem: &str| {
        use ureq::tls::{Certificate, RootCerts, TlsConfig};
        let root = Certificate::from_pem(pem.as_bytes()).unwrap();
        let tls = TlsConfig::builder().root_certs(RootCerts::new_with_certs(&[root])).build();
        let agent: ureq::Agent = ureq::Agent::config_builder().tls_config(tls).build().into();
        agent
            .get(format!("https://localhost:{port}/health"))
            .call()
            .map(|reply| reply.status().as_u16())
    };
    assert_eq!(status(&pem).unwrap(), 200);
    let (_, _, new) = certificate(&sandbox);
    signal(server.child(), "HUP");
    assert_eq!(server.line(), "settings, keys and certificate were read again\n");
    assert_eq!(status(&new).unwrap(), 200);
    assert!(status(&pem).is_err(), "the old authority does not know the new certificate");
    signal(server.child(), "TERM");
    assert_eq!(server.end().0, Some(0));
    sandbox.run(&["serve", "--tls-cert", &cert]).code.filter(|code| *code == 2).unwrap();
    let nowhere = ["serve", "-m", &model, "--tls-cert", "nowhere.pem", "--tls-key", &key];
    sandbox.run(&nowhere).refused(1, &["TLS: nowhere.pem"]);
}

/// A question whose answer ends by itself, so that it is kept.
fn question(number: usize) -> String {
    let messages = format!("[{{\"role\": \"user\", \"content\": \"{number}\"}}]");
    let form = "{\"type\": \"json_schema\", \"json_schema\": {\"name\": \"n\", \"schema\": {\"enum\": [1, 2]}}}";
    format!("{{\"messages\": {messages}, \"max_tokens\": 100, \"response_format\": {form}}}")
}

/// A stream of a long answer that has begun.
fn begun(server: &Running, number: usize, tokens: usize) -> std::net::TcpStream {
    let body = format!("{{\"prompt\": \"{number}\", \"max_tokens\": {tokens}, \"stream\": true}}");
    let mut stream = server.open("POST /v1/completions", &body);
    let mut first = [0; 12];
    stream.read_exact(&mut first).unwrap();
    assert_eq!(&first, b"HTTP/1.1 200");
    stream
}

#[test]
fn whoever_is_not_served_in_the_grace_time_is_told() {
    let sandbox = Sandbox::new();
    let model = sandbox.tiny(&TinyModel::qwen2().context_length(20_000));
    let mut command = sandbox.hapa(&["serve", "--port", "0", "-m", &model]);
    command.env("HAPA_SERVER_GRACE", "100ms").env("HAPA_ENGINE_CONTEXT_TOKENS", "20000");
    let server = Running::start(command);
    let mut streams: Vec<_> = (0..4).map(|number| begun(&server, number, 19_000)).collect();
    signal(server.child(), "TERM");
    for stream in &mut streams {
        let mut rest = String::new();
        stream.read_to_string(&mut rest).unwrap();
        assert!(
            rest.contains("\"code\":\"shutting_down\""),
            "{}",
            &rest[rest.len().saturating_sub(500)..]
        );
        assert!(
            rest.contains("data: [DONE]") && rest.ends_with("0\r\n\r\n"),
            "the stream is whole"
        );
    }
    assert_eq!(server.end().0, Some(0));
}

#[test]
fn after_a_kill_under_load_it_starts_and_knows_its_answers() {
    let sandbox = Sandbox::new();
    let model = sandbox.tiny(&TinyModel::qwen2().context_length(8192));
    let start = || Running::start(sandbox.hapa(&["serve", "--port", "0", "-m", &model]));
    let server = start();
    let ask = |server: &Running| server.ask("POST /v1/chat/completions", &question(1));
    assert!(ask(&server).contains("x-hapa-cache: miss"));
    // Written behind: until it is on disk.
    until("the answer is stored", || server.ask("GET /stats", "").contains("\"stored\":1"));
    let _streams: Vec<_> = (0..8).map(|number| begun(&server, number, 8_000)).collect();
    signal(server.child(), "KILL");
    assert_eq!(server.end().0, None);
    let server = start();
    let again = ask(&server);
    assert!(again.contains("x-hapa-cache: hit-"), "{again}");
    signal(server.child(), "TERM");
    assert_eq!(server.end().0, Some(0));
}

#[test]
fn a_key_file_that_cannot_be_read_opens_no_door() {
    let sandbox = Sandbox::new();
    let model = sandbox.tiny(&TinyModel::qwen2());
    std::fs::create_dir_all(sandbox.path("keys")).unwrap();
    let with = |file: &str| {
        let mut command = sandbox.hapa(&["serve", "--port", "0", "-m", &model]);
        command.env("HAPA_SERVER_KEY_FILE", file);
        command
    };
    let missing = crate::sandbox::Ran::new(with("kyes.json").output().unwrap());
    missing.refused(2, &["kyes.json", "server.key_file", "hapa keys create"]);
    // A folder: unreadable for every user, as a file of mode 0 is for all but one.
    let refused = crate::sandbox::Ran::new(with("keys").output().unwrap());
    refused.refused(1, &["could not read the key file keys"]);
    sandbox.run(&["keys", "create", "--name", "a", "--scope", "admin"]).ok();
    let file = sandbox.home().join("keys.json");
    let mut server = Running::start(with(&arg(&file)));
    assert!(server.ask("GET /stats", "").starts_with("HTTP/1.1 401"));
    std::fs::remove_file(&file).unwrap();
    std::fs::create_dir(&file).unwrap();
    signal(server.child(), "HUP");
    until("the failure is told", || server.line().starts_with("error: nothing was reloaded"));
    assert!(server.ask("GET /stats", "").starts_with("HTTP/1.1 401"));
    signal(server.child(), "TERM");
    assert_eq!(server.end().0, Some(0));
}

/// A run in which no file may grow.
fn on_a_full_disk(sandbox: &Sandbox, args: &[&str]) -> Command {
    let program = sandbox.hapa(args);
    let mut limited = Command::new("bash");
    limited.args(["-c", "trap '' XFSZ; ulimit -f 0; exec \"$0\" \"$@\""]);
    limited.arg(program.get_program()).args(program.get_args());
    limited.current_dir(sandbox.path(""));
    for (name, value) in program.get_envs() {
        match value {
            Some(value) => limited.env(name, value),
            None => limited.env_remove(name),
        };
    }
    limited.stdin(std::process::Stdio::null()).stderr(std::process::Stdio::piped());
    limited
}

#[test]
fn keys_are_changed_wholly_or_not_at_all() {
    let sandbox = Sandbox::new();
    sandbox.run(&["keys", "create", "--name", "a", "--scope", "admin"]).ok();
    let whole = std::fs::read(sandbox.home().join("keys.json")).unwrap();
    let beside = sandbox.files();
    for args in
        [&["keys", "revoke", "a"][..], &["keys", "create", "--name", "b", "--scope", "admin"]]
    {
        let ran = crate::sandbox::Ran::new(on_a_full_disk(&sandbox, args).output().unwrap());
        assert_eq!(ran.stdout, "", "no key is shown that was not stored");
        ran.refused(1, &["could not write the key file", "keys.json"]);
        assert_eq!(std::fs::read(sandbox.home().join("keys.json")).unwrap(), whole);
        assert_eq!(sandbox.files(), beside, "nothing is left behind");
    }
    sandbox.run(&["keys", "revoke", "a"]).ok();
}

#[test]
fn answers_go_on_when_the_disk_is_full() {
    let sandbox = Sandbox::new();
    let model = sandbox.tiny(&TinyModel::qwen2());
    // Packed weights and the file of answers exist, and from now on no file may grow.
    let program = |args: &[&str]| sandbox.hapa(args);
    let first = program(&["complete", "--prefix", "x", "-m", &model, "--max-tokens", "2"]);
    assert!({ first }.output().unwrap().status.success());
    let mut command = on_a_full_disk(&sandbox, &["serve", "--port", "0", "-m", &model]);
    command.stdout(std::process::Stdio::null());
    let server = Running::start(command);
    for number in 0..20 {
        let answer = server.ask("POST /v1/chat/completions", &question(number));
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    }
    let again = server.ask("POST /v1/chat/completions", &question(3));
    assert!(again.contains("x-hapa-cache: hit-l1"), "{again}");
    let troubles = |stats: &str| {
        let stats = stats.split("\r\n\r\n").nth(1).unwrap();
        let stats: serde_json::Value = serde_json::from_str(stats).unwrap();
        let tier = &stats["performance_metrics"]["cache"]["tiers"][0];
        ["errors", "skipped", "writes_failed"]
            .iter()
            .map(|name| tier[name].as_u64().unwrap())
            .sum::<u64>()
    };
    until("the trouble is counted", || troubles(&server.ask("GET /stats", "")) > 0);
    signal(server.child(), "TERM");
    let (code, stderr) = server.end();
    assert_eq!(code, Some(0), "{stderr}");
    assert!(!stderr.contains("panicked"), "{stderr}");
}

#[test]
fn a_model_file_that_is_replaced_changes_nothing_until_it_is_loaded_again() {
    let sandbox = Sandbox::new();
    let model = sandbox.tiny(&TinyModel::qwen2());
    let mut command = sandbox.hapa(&["serve", "--port", "0", "-m", &model]);
    command.env("HAPA_ENGINE_KEEP_ALIVE", "1s").env("HAPA_CACHE_DISK", "0");
    let server = Running::start(command);
    let ask = |tokens: usize| {
        let body = format!("{{\"prompt\": \"x\", \"max_tokens\": {tokens}}}");
        server.ask("POST /v1/completions", &body)
    };
    let digest = || {
        let stats = server.ask("GET /stats", "");
        let at = stats.find("\"digest\":\"")? + 10;
        stats.get(at..at + 16).map(str::to_owned)
    };
    assert!(ask(4).starts_with("HTTP/1.1 200"));
    let old = digest().expect("it is loaded");
    replace(Path::new(&model), &TinyModel::qwen2().seed(99).to_bytes());
    assert!(ask(5).starts_with("HTTP/1.1 200"), "the mapped file lives on");
    // Looking at it is a use of it, too.
    until("it is unloaded", || {
        std::thread::sleep(Duration::from_millis(1_500));
        digest().is_none()
    });
    let answer = ask(4);
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    until("it is loaded", || digest().is_some());
    assert_ne!(digest().unwrap(), old);
    assert!(ask(4).contains("x-hapa-cache: "));
    signal(server.child(), "TERM");
    assert_eq!(server.end().0, Some(0));
}

#[test]
fn a_model_file_that_is_written_over_changes_nothing_until_it_is_loaded_again() {
    let tied = (TinyModel::qwen2(), TinyModel::qwen2().seed(99));
    let untied = (TinyModel::qwen2().untied(), TinyModel::qwen2().untied().seed(99));
    for (old, new) in [tied, untied] {
        let sandbox = Sandbox::new();
        let model = sandbox.tiny(&old);
        let mut command = sandbox.hapa(&["serve", "--port", "0", "-m", &model]);
        command.env("HAPA_ENGINE_KEEP_ALIVE", "1s").env("HAPA_CACHE_DISK", "0");
        let server = Running::start(command);
        // What is cut is not kept: it is computed each time.
        let computed = || {
            let body = "{\"prompt\": \"x\", \"max_tokens\": 12, \"temperature\": 0}";
            let answer = server.ask("POST /v1/completions", body);
            assert!(answer.contains("x-hapa-cache: miss"), "{answer}");
            let answer = answer.split("\r\n\r\n").nth(1).unwrap();
            let answer: serde_json::Value = serde_json::from_str(answer).unwrap();
            answer["choices"][0]["text"].as_str().unwrap().to_owned()
        };
        let kept = || server.ask("POST /v1/chat/completions", &question(1));
        let before = computed();
        for bytes in [Vec::new(), new.to_bytes()] {
            // In place, as `cp` and `dd` write.
            std::fs::write(&model, bytes).unwrap();
            assert_eq!(computed(), before);
        }
        assert!(kept().contains("x-hapa-cache: miss"));
        assert!(kept().contains("x-hapa-cache: hit-l1"));
        until("it is unloaded", || {
            std::thread::sleep(Duration::from_millis(1_500));
            !server.ask("GET /stats", "").contains("\"digest\":\"")
        });
        assert_ne!(computed(), before, "the new file counts");
        assert!(
            kept().contains("x-hapa-cache: miss"),
            "the old model's answer is not the new one's"
        );
        signal(server.child(), "TERM");
        assert_eq!(server.end().0, Some(0));
    }
}

/// As careful programs write: beside it, then in its place.
fn replace(path: &Path, bytes: &[u8]) {
    let beside = path.with_extension("new");
    std::fs::write(&beside, bytes).unwrap();
    std::fs::rename(beside, path).unwrap();
}

//! Every example runs and says what it should: those that need a model with a tiny random one.
//!
//! Cargo builds examples with the tests of their package, unless a single test target is asked for.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on should stop")]

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

use hapa_model::testing::TinyModel;
use tempfile::TempDir;

/// An example, as cargo built it: `<target>/<profile>/examples/NAME`, beside the `deps` of this test.
fn example(name: &str) -> Command {
    let test = std::env::current_exe().unwrap();
    let profile = test.ancestors().nth(2).unwrap();
    let file = format!("{name}{}", std::env::consts::EXE_SUFFIX);
    let program = profile.join("examples").join(file);
    assert!(
        program.is_file(),
        "{} is not there; `cargo build -p hapa-examples --examples` makes it",
        program.display()
    );
    Command::new(program)
}

/// A folder with a tiny model, and the example set up to use it.
fn with_model(name: &str) -> (Command, TempDir) {
    let folder = tempfile::tempdir().unwrap();
    let model = folder.path().join("tiny.gguf");
    TinyModel::qwen2().write(&model).unwrap();
    let mut command = example(name);
    command.env("HAPA_MODEL", model).env("HAPA_HOME", folder.path());
    (command, folder)
}

fn run(command: &mut Command) -> (String, String) {
    let Output { status, stdout, stderr } = command.stdin(Stdio::null()).output().unwrap();
    let (stdout, stderr) = (String::from_utf8_lossy(&stdout), String::from_utf8_lossy(&stderr));
    assert!(status.success(), "{status}\n{stdout}\n{stderr}");
    (stdout.into_owned(), stderr.into_owned())
}

#[test]
fn answer() {
    let (mut command, _folder) = with_model("answer");
    let (stdout, stderr) = run(command.arg("add two numbers"));
    assert!(!stdout.trim().is_empty());
    assert!(stderr.contains("cache: miss"), "{stderr}");
}

#[test]
fn stream() {
    let (mut command, _folder) = with_model("stream");
    let (stdout, stderr) = run(&mut command);
    assert!(!stdout.trim().is_empty());
    assert!(stderr.contains(" tokens in "), "{stderr}");
}

#[test]
fn complete_at_cursor() {
    let (mut command, folder) = with_model("complete_at_cursor");
    let file = folder.path().join("app.py");
    std::fs::write(&file, "def add(a, b):\n    \n").unwrap();
    let (stdout, _) = run(command.arg(&file).args(["2", "5"]));
    assert!(!stdout.trim().is_empty());
}

#[test]
fn a_cursor_behind_the_end_is_refused() {
    let (mut command, folder) = with_model("complete_at_cursor");
    let file = folder.path().join("app.py");
    std::fs::write(&file, "x = 1\n").unwrap();
    let output = command.arg(&file).args(["1", "7"]).output().unwrap();
    assert!(!output.status.success());
    assert!(String::from_utf8_lossy(&output.stderr).contains("the file ends before that"));
}

#[test]
fn lazy_model() {
    let (mut command, _folder) = with_model("lazy_model");
    let (_, stderr) = run(&mut command);
    for wanted in ["unloaded", "loading: ", "ready", "unload: Done, now unloaded"] {
        assert!(stderr.contains(wanted), "no {wanted:?} in\n{stderr}");
    }
}

#[test]
fn cache_anything() {
    let (stdout, _) = run(&mut example("cache_anything"));
    assert!(stdout.starts_with("100 callers: 3 runs in "), "{stdout}");
    assert!(stdout.contains("once more: RED in "), "{stdout}");
    assert!(stdout.contains("refused: ") && stdout.contains("nothing to look up"), "{stdout}");
    assert!(stdout.contains("3 entries, "), "{stdout}");
}

#[test]
fn profile_scopes() {
    let folder = tempfile::tempdir().unwrap();
    let page = folder.path().join("report.html");
    let (stdout, _) = run(example("profile_scopes").arg(&page));
    assert!(stdout.contains("8 different words"), "{stdout}");
    for scope in ["fetch", "count", "words", "sort"] {
        assert!(stdout.contains(scope), "{stdout}");
    }
    assert!(std::fs::read_to_string(page).unwrap().contains("words"));
}

/// A program that is ended when the test is, whichever way.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Starts a server and reads its address off its first line.
fn start(mut command: Command) -> (Running, String) {
    let mut child = command.arg("127.0.0.1:0").stdout(Stdio::piped()).spawn().unwrap();
    let mut line = String::new();
    let mut stdout = BufReader::new(child.stdout.take().unwrap());
    stdout.read_line(&mut line).unwrap();
    child.stdout = Some(stdout.into_inner());
    let address = line.trim().strip_prefix("http://").unwrap();
    (Running(child), address.split('/').next().unwrap().to_owned())
}

fn get(address: &str, path: &str) -> String {
    let mut stream = TcpStream::connect(address).unwrap();
    let head = format!("GET {path} HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n\r\n");
    stream.write_all(head.as_bytes()).unwrap();
    let mut reply = String::new();
    stream.read_to_string(&mut reply).unwrap();
    reply
}

#[test]
fn metrics_endpoint() {
    let (_program, address) = start(example("metrics_endpoint"));
    get(&address, "/metrics");
    let page = get(&address, "/metrics");
    assert!(page.starts_with("HTTP/1.1 200 OK"), "{page}");
    let counted = r#"api_requests_total{endpoint="/metrics",method="GET",status="200"} 1"#;
    assert!(page.contains(counted), "{page}");
}

#[test]
#[cfg(unix)]
fn serve_inside_until_it_is_interrupted() {
    let (command, _folder) = with_model("serve_inside");
    let (mut program, address) = start(command);
    let health = get(&address, "/health");
    assert!(health.starts_with("HTTP/1.1 200"), "{health}");
    let id = program.0.id().to_string();
    assert!(Command::new("kill").args(["-INT", &id]).status().unwrap().success());
    let mut rest = String::new();
    program.0.stdout.take().unwrap().read_to_string(&mut rest).unwrap();
    assert!(program.0.wait().unwrap().success());
    assert!(rest.contains("model unloaded"), "{rest}");
}

#[test]
fn every_example_is_in_the_table() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR"));
    let table = std::fs::read_to_string(folder.join("README.md")).unwrap();
    let files = std::fs::read_dir(folder.join("examples")).unwrap();
    let names: Vec<PathBuf> = files.map(|file| file.unwrap().path()).collect();
    assert!(!names.is_empty());
    for path in names {
        let name = path.file_stem().unwrap().to_string_lossy().into_owned();
        assert!(table.contains(&format!("| `{name}` |")), "README.md does not list {name}");
    }
}

//! The official clients of OpenAI (Python and Node) and Anthropic (Python), unmodified, LangChain's, and what the editor
//! plug-in sends, against a server with a tiny random model. `cargo xtask test` installs them into the target folder; where that is not possible the tests say so and pass.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on should stop")]
#![allow(clippy::print_stdout, reason = "a test that is skipped says so")]

mod common;

use std::path::{Path, PathBuf};

use common::{TestServer, start_with};
use hapa_model::testing::TinyModel;
use hapa_server::{KeyFile, NewKey, Scope};
use hapa_service::ModelRef;

/// ChatML with a place for tools.
const TEMPLATE: &str = "{% if tools %}{{ tools | tojson }}\n{% endif %}{% for message in messages %}{{ '<|im_start|>' + message['role'] \
     + '\n' + message['content'] + '<|im_end|>' + '\n' }}{% endfor %}{{ '<|im_start|>assistant\n' }}";

async fn server(folder: &Path, keys: Option<KeyFile>) -> TestServer {
    let path = folder.join("tools.gguf");
    TinyModel::qwen2().template(Some(TEMPLATE)).context_length(1024).write(&path).unwrap();
    start_with(|options| options.keys = keys, |options| options.model = ModelRef::Path(path)).await
}

/// Where `cargo xtask test` puts the clients: in the target folder that this program is in.
fn installed() -> PathBuf {
    let program = std::env::current_exe().unwrap();
    let target = program.ancestors().find(|folder| folder.join("CACHEDIR.TAG").is_file());
    target.map(|target| target.join("test-clients")).unwrap_or_default()
}

/// Runs a script of Python, if the clients are there.
async fn python(name: &str, arguments: &[&str]) {
    let program = installed().join("bin/python");
    if !program.is_file() {
        println!("skipped: {} is missing; `cargo xtask test` makes it", program.display());
        return;
    }
    run(program, name, arguments).await;
}

/// Runs a script of Node, if the clients are there, whose folder it gets as its last argument.
async fn node(name: &str, arguments: &[&str]) {
    let clients = installed();
    let folder = clients.display().to_string();
    if !clients.join("node_modules").is_dir() {
        println!("skipped: clients for Node are missing; `cargo xtask test` installs them");
        return;
    }
    run("node".into(), name, &[arguments, &[&folder]].concat()).await;
}

async fn run(program: PathBuf, script: &str, arguments: &[&str]) {
    let mut command = std::process::Command::new(program);
    command.arg(format!("{}/tests/clients/{script}", env!("CARGO_MANIFEST_DIR"))).args(arguments);
    let output = tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    assert!(output.status.success(), "{}{}", text(&output.stdout), text(&output.stderr));
    println!("{}", text(&output.stdout));
}

#[tokio::test(flavor = "multi_thread")]
async fn openai_and_anthropic_for_python() {
    let folder = tempfile::tempdir().unwrap();
    let server = server(folder.path(), None).await;
    python("clients.py", &[&format!("http://{}", server.address)]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn langchain() {
    let folder = tempfile::tempdir().unwrap();
    let server = server(folder.path(), None).await;
    python("chains.py", &[&format!("http://{}", server.address)]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn openai_for_node() {
    let folder = tempfile::tempdir().unwrap();
    let server = server(folder.path(), None).await;
    node("clients.mjs", &[&format!("http://{}", server.address)]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_editor_plug_in() {
    let folder = tempfile::tempdir().unwrap();
    let keys = KeyFile::at(folder.path().join("keys.json"));
    let new = NewKey::new("plug-in", [Scope::CodeGeneration, Scope::CodeCompletion]);
    let key = keys.create(new).unwrap().0;
    let server = server(folder.path(), Some(keys)).await;
    let base = format!("http://{}", server.address);
    python("plugin.py", &[&base, key.reveal()]).await;
    node("plugin.mjs", &[&base, key.reveal()]).await;
}

//! The official clients of OpenAI (Python and Node) and Anthropic (Python), unmodified, against a server with a tiny random
//! model. `cargo xtask test` installs them into the target folder; where that is not possible the tests say so and pass.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on should stop")]
#![allow(clippy::print_stdout, reason = "a test that is skipped says so")]

mod common;

use std::path::{Path, PathBuf};

use common::{TestServer, start_with};
use hapa_model::testing::TinyModel;
use hapa_service::ModelRef;

/// ChatML with a place for tools.
const TEMPLATE: &str = "{% if tools %}{{ tools | tojson }}\n{% endif %}{% for message in messages %}{{ '<|im_start|>' + message['role'] \
     + '\n' + message['content'] + '<|im_end|>' + '\n' }}{% endfor %}{{ '<|im_start|>assistant\n' }}";

async fn server(folder: &Path) -> TestServer {
    let path = folder.join("tools.gguf");
    TinyModel::qwen2().template(Some(TEMPLATE)).context_length(1024).write(&path).unwrap();
    start_with(|_| {}, |options| options.model = ModelRef::Path(path)).await
}

/// Where `cargo xtask test` puts the clients: in the target folder that this program is in.
fn installed() -> Option<PathBuf> {
    let program = std::env::current_exe().unwrap();
    let target = program.ancestors().find(|folder| folder.join("CACHEDIR.TAG").is_file())?;
    Some(target.join("test-clients"))
}

async fn run(program: PathBuf, arguments: Vec<String>) {
    let output = tokio::task::spawn_blocking(move || {
        std::process::Command::new(program).args(arguments).output().unwrap()
    });
    let output = output.await.unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    assert!(output.status.success(), "{}{}", text(&output.stdout), text(&output.stderr));
    println!("{}", text(&output.stdout));
}

fn script(name: &str) -> String {
    format!("{}/tests/clients/{name}", env!("CARGO_MANIFEST_DIR"))
}

#[tokio::test(flavor = "multi_thread")]
async fn openai_and_anthropic_for_python() {
    let python = installed().unwrap_or_default().join("bin/python");
    if !python.is_file() {
        println!("skipped: {} is missing; `cargo xtask test` makes it", python.display());
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let server = server(folder.path()).await;
    let base = format!("http://{}", server.address);
    run(python, vec![script("clients.py"), base]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn openai_for_node() {
    let clients = installed().unwrap_or_default();
    if !clients.join("node_modules/openai").is_dir() {
        println!("skipped: openai for Node is missing; `cargo xtask test` installs it");
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let server = server(folder.path()).await;
    let base = format!("http://{}", server.address);
    run("node".into(), vec![script("clients.mjs"), base, clients.display().to_string()]).await;
}

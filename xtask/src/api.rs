//! The API against its own description: Schemathesis makes requests out of `/openapi.json`, good ones and bad ones, and
//! holds the answers of a real server to it.

use crate::tools::{cargo, check, check_python, install_python_packages, root_of_targets};
use anyhow::{Context, Result, bail};
use std::io::{BufRead, BufReader, Read};
use std::process::{Child, Command, Stdio};

/// Its own folder, below the repository's root.
const TESTS: &str = "crates/hapa-server/tests/api";

/// Installs what is missing and runs the test; `arguments` go to Schemathesis, such as `--max-examples 1000`.
pub(crate) fn run(arguments: &[&str]) -> Result<()> {
    check_python();
    test(arguments)
}

/// As [`run`], where Python is known to be there.
pub(crate) fn test(arguments: &[&str]) -> Result<()> {
    let target = root_of_targets()?;
    let packages = target.join("test-tools/api");
    install_python_packages(&format!("{TESTS}/requirements.txt"), &packages)?;
    // Together, since an example's features are those of the tests: nothing is built twice.
    check(cargo(&["build", "--workspace", "--bins", "--example", "tiny_model"]))?;
    let home = target.join("test-tools/api-home");
    let model = home.join("tiny.gguf");
    std::fs::create_dir_all(&home).with_context(|| format!("could not make {}", home.display()))?;
    let mut make_model = Command::new(target.join("debug/examples/tiny_model"));
    make_model.arg(&model);
    check(make_model)?;
    let mut serve = Command::new(target.join("debug/hapa"));
    serve.args(["serve", "--port", "0", "--model"]).arg(&model).env("HAPA_HOME", &home);
    // Answers end early, so that a second has room for many requests.
    serve.env("HAPA_ENGINE_CONTEXT_TOKENS", "256").env("HAPA_CACHE_DISK", "0");
    let mut server = Server::start(serve)?;
    let mut schemathesis = Command::new("python3");
    schemathesis
        .args(["-m", "schemathesis.cli", "--config-file"])
        .arg(crate::root().join(TESTS).join("schemathesis.toml"))
        .arg("run")
        .arg(format!("{}/openapi.json", server.url))
        .args(arguments)
        .current_dir(&home)
        .env("PYTHONPATH", &packages)
        .env("PYTHONDONTWRITEBYTECODE", "1")
        .stdin(Stdio::null());
    let outcome = check(schemathesis);
    server.end()?;
    outcome
}

/// A server that is gone when this is.
struct Server {
    process: Child,
    url: String,
}

impl Server {
    fn start(mut command: Command) -> Result<Self> {
        let mut process = command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .context("could not start the server")?;
        let stderr = process.stderr.take().context("the server has no standard error")?;
        let mut stderr = BufReader::new(stderr);
        let mut line = String::new();
        stderr.read_line(&mut line)?;
        let Some((_, url)) = line.trim().split_once(" at ") else {
            let _ = process.kill();
            stderr.read_to_string(&mut line)?;
            bail!("the server did not start: {line}");
        };
        let url = url.to_owned();
        // What it says further is shown; a full pipe would stop it.
        std::thread::spawn(move || std::io::copy(&mut stderr, &mut std::io::stderr()));
        Ok(Self { process, url })
    }

    /// Ends it; an error if it did not live until now.
    fn end(&mut self) -> Result<()> {
        let ended = self.process.try_wait()?;
        self.process.kill()?;
        self.process.wait()?;
        match ended {
            Some(status) => bail!("the server ended by itself ({status})"),
            None => Ok(()),
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.process.kill();
    }
}

//! HAPA's own programs, in release.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};
use serde_json::Value;

use super::http::Server;
use crate::tools::{cargo, check, output, show};

/// The `hapa` binary.
pub(super) struct Hapa {
    program: PathBuf,
    avx2: bool,
}

/// What `hapa bench engine` measures, in tokens a second.
pub(super) struct EngineFigures {
    pub(super) prefill: f64,
    pub(super) decode: f64,
    pub(super) batch: Option<f64>,
    /// What the machine allowed at that moment.
    pub(super) limits: Option<Limits>,
}

/// What this machine allows for the model at most, as `hapa bench engine` measures it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Limits {
    pub(super) read_bytes_per_second: f64,
    pub(super) byte_macs_per_second: f64,
    pub(super) weight_bytes: f64,
    pub(super) token_macs: f64,
    pub(super) logits_macs: f64,
    /// Parts of the limits that the run's prefill and decode were.
    pub(super) reached: [f64; 2],
}

impl Limits {
    fn from_json(limits: &Value) -> Option<Self> {
        let number = |name: &str| limits[name].as_f64();
        Some(Self {
            read_bytes_per_second: number("read_bytes_per_second")?,
            byte_macs_per_second: number("byte_macs_per_second")?,
            weight_bytes: number("weight_bytes")?,
            token_macs: number("token_macs")?,
            logits_macs: number("logits_macs")?,
            reached: [
                limits["reached"]["prefill"].as_f64()?,
                limits["reached"]["decode"].as_f64()?,
            ],
        })
    }
}

impl Hapa {
    pub(super) fn build(avx2: bool) -> Result<Self> {
        check(cargo(&["build", "--release", "--package", "hapa-cli"]))?;
        let target = std::env::var_os("CARGO_TARGET_DIR")
            .map_or_else(|| crate::root().join("target"), |folder| crate::root().join(folder));
        Ok(Self { program: target.join("release/hapa"), avx2 })
    }

    fn command(&self) -> Command {
        let mut command = Command::new(&self.program);
        if self.avx2 {
            command.env("HAPA_ISA", "avx2");
        }
        command
    }

    pub(super) fn json(&self, arguments: &[&str]) -> Result<Value> {
        let mut command = self.command();
        command.args(arguments).arg("--json");
        let shown = show(&command);
        let text = output(command)?;
        serde_json::from_str(&text).with_context(|| format!("{shown} gave {text}"))
    }

    /// The file of a catalogue model, fetched when it is missing.
    pub(super) fn model_file(&self, name: &str) -> Result<PathBuf> {
        let pulled = self.json(&["model", "pull", name])?;
        let path = pulled.pointer("/models/0/path").and_then(Value::as_str);
        Ok(path.with_context(|| format!("`hapa model pull` gave {pulled}"))?.into())
    }

    pub(super) fn bench_engine(
        &self,
        model: &Path,
        threads: usize,
        (prompt, generate): (usize, usize),
        batch: Option<usize>,
    ) -> Result<EngineFigures> {
        let (threads, batch) = (threads.to_string(), batch.map(|n| n.to_string()));
        let (prompt, generate) = (prompt.to_string(), generate.to_string());
        let model = model.to_string_lossy();
        let mut arguments = vec!["bench", "engine", "--model", &model, "--threads", &threads];
        arguments.extend(["--prompt-tokens", &prompt, "--gen-tokens", &generate, "--runs", "1"]);
        if let Some(batch) = &batch {
            arguments.extend(["--batch", batch]);
        }
        let figures = self.json(&arguments)?;
        let rate = |name: &str| figures[name].as_f64();
        Ok(EngineFigures {
            prefill: rate("prefill_tokens_per_second").context("no prefill figure")?,
            decode: rate("decode_tokens_per_second").context("no decode figure")?,
            batch: rate("batch_decode_tokens_per_second"),
            limits: Limits::from_json(&figures["limits"]),
        })
    }

    /// A running `hapa serve`; the model loads with the first request.
    pub(super) fn serve(&self, model: &Path, threads: usize) -> Result<Server> {
        let mut command = self.command();
        command.args(["serve", "--host", "127.0.0.1", "--threads", &threads.to_string()]);
        command.arg("--model").arg(model);
        // No server finds the answers of the one before.
        command.env("HAPA_CACHE_DISK", "0");
        Server::start(command)
    }

    /// 64 of HumanEval's prompts, 96 tokens each at most, against a server: output tokens a second, and median and 99% of the time to first token.
    pub(super) fn load(&self, server: &Server, clients: usize) -> Result<Vec<f64>> {
        let (url, clients) = (format!("http://{}", server.address()), clients.to_string());
        server.time_to_first_token("warm up")?;
        let report = self.json(&[
            "bench",
            "serve",
            &url,
            "--api",
            "openai-completions",
            "--humaneval",
            "--concurrency",
            &clients,
            "--requests",
            "64",
            "--max-tokens",
            "96",
            "--warmup",
            "0",
            "--no-cold",
        ])?;
        let figure = |path| load_figure(&report, path);
        Ok(vec![
            figure("/throughput/output_tokens_per_second")?,
            figure("/latency/time_to_first_token/p50")?,
            figure("/latency/time_to_first_token/p99")?,
        ])
    }

    /// All of HumanEval, greedy, asked of a server: seconds, and problems that were solved.
    pub(super) fn humaneval(&self, server: &Server, clients: usize) -> Result<Vec<f64>> {
        let (url, clients) = (format!("http://{}", server.address()), clients.to_string());
        server.time_to_first_token("warm up")?;
        let arguments = ["eval", "humaneval", "--url", &url, "--concurrency", &clients];
        let figures = self.json(&arguments)?;
        let figure = |name: &str| {
            figures[name].as_f64().with_context(|| format!("`hapa eval humaneval` gave no {name}"))
        };
        Ok(vec![figure("seconds")?, figure("passed")?])
    }
}

/// A figure of a report of `hapa bench serve`.
pub(super) fn load_figure(report: &Value, path: &str) -> Result<f64> {
    let value = report.pointer(path).and_then(Value::as_f64);
    value.with_context(|| format!("`hapa bench serve` gave no {path}"))
}

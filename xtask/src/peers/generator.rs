//! `cargo xtask peers generator`: two load generators, `hapa bench serve` and guidellm, in turn at the same server with the same
//! requests. Where both measure rightly, each figure that both give is the same. The server is guidellm's own mock, whose delays do not
//! depend on the machine's moods, or HAPA with a model. Requests are sent at a fixed rate: clients that wait for their answers would
//! follow each generator's own pauses, and with them the server's batches.

use std::fmt::{self, Write as _};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};

use super::hapa::{Hapa, load_figure};
use super::http::Server;
use super::{Scratch, home, pip_install, record};
use crate::tools::{check, output};

const USAGE: &str = "\
Usage: cargo xtask peers generator [--model NAME] [--rounds N] [--rate R] [--requests N]

Without --model the server is guidellm's mock: first token after 150 ms, 63 more after 10 ms each.
Installs guidellm with pip into `$XTASK_PEERS-guidellm` or `target/peers-guidellm`.
";

/// The release that is compared with.
const PACKAGE: &str = "guidellm==0.8.1";
/// Tokens of each answer at most.
const MAX_TOKENS: usize = 64;

/// A figure that both give: name, where it is in HAPA's report, and in guidellm's metrics, which has it so many times larger.
struct Shared(&'static str, &'static str, &'static str, f64);

/// What guidellm calls inter-token latency is an answer's mean of it: HAPA's time per output token.
const FIGURES: [Shared; 12] = [
    Shared("answers", "/requests/succeeded", "/request_totals/successful", 1.0),
    Shared(
        "requests a second",
        "/throughput/requests_per_second",
        "/requests_per_second/successful/mean",
        1.0,
    ),
    Shared(
        "output tokens a second",
        "/throughput/output_tokens_per_second",
        "/output_tokens_per_second/successful/mean",
        1.0,
    ),
    Shared(
        "first token, mean, s",
        "/latency/time_to_first_token/mean",
        "/time_to_first_token_ms/successful/mean",
        1e3,
    ),
    Shared(
        "first token, median, s",
        "/latency/time_to_first_token/p50",
        "/time_to_first_token_ms/successful/median",
        1e3,
    ),
    Shared(
        "first token, 95%, s",
        "/latency/time_to_first_token/p95",
        "/time_to_first_token_ms/successful/percentiles/p95",
        1e3,
    ),
    Shared(
        "time per output token, mean, s",
        "/latency/time_per_output_token/mean",
        "/inter_token_latency_ms/successful/mean",
        1e3,
    ),
    Shared(
        "time per output token, median, s",
        "/latency/time_per_output_token/p50",
        "/inter_token_latency_ms/successful/median",
        1e3,
    ),
    Shared(
        "time per output token, 95%, s",
        "/latency/time_per_output_token/p95",
        "/inter_token_latency_ms/successful/percentiles/p95",
        1e3,
    ),
    Shared(
        "end to end, mean, s",
        "/latency/end_to_end/mean",
        "/request_latency/successful/mean",
        1.0,
    ),
    Shared(
        "end to end, median, s",
        "/latency/end_to_end/p50",
        "/request_latency/successful/median",
        1.0,
    ),
    Shared(
        "end to end, 95%, s",
        "/latency/end_to_end/p95",
        "/request_latency/successful/percentiles/p95",
        1.0,
    ),
];

/// Measures, prints and records.
pub(super) fn run(arguments: &[&str]) -> Result<()> {
    let (mut model, mut rounds, mut rate, mut requests) = (None, 3usize, 4.0f64, 160usize);
    let mut words = arguments.iter();
    while let Some(&word) = words.next() {
        let mut value = || words.next().with_context(|| format!("{word} needs a value\n{USAGE}"));
        match word {
            "--model" => model = Some(*value()?),
            "--rounds" => rounds = value()?.parse().context("--rounds")?,
            "--rate" => rate = value()?.parse().context("--rate")?,
            "--requests" => requests = value()?.parse().context("--requests")?,
            _ => bail!("unknown argument {word}\n{USAGE}"),
        }
    }
    ensure!(rounds > 0 && rate > 0.0, "--rounds and --rate are above 0\n{USAGE}");
    let guidellm = install()?;
    let hapa = Hapa::build(false)?;
    let subject = match model {
        Some(name) => Subject::Hapa(hapa.model_file(name)?),
        None => Subject::Mock,
    };
    let scratch = Scratch::new()?;
    let prompts = scratch.path().join("prompts.jsonl");
    std::fs::write(&prompts, prompts_of(requests))?;
    let (rate, requests) = (rate.to_string(), requests.to_string());
    let run = Run { folder: scratch.path(), prompts: &prompts, rate: &rate, requests: &requests };

    let mut pairs = vec![Vec::new(); FIGURES.len()];
    for round in 1..=rounds {
        eprintln!("    round {round} of {rounds}");
        let server = subject.start(&hapa, &guidellm)?;
        let ours = run.hapa(&hapa, &format!("http://{}", server.address()))?;
        drop(server);
        let server = subject.start(&hapa, &guidellm)?;
        let theirs = run.guidellm(&guidellm, &format!("http://{}", server.address()))?;
        drop(server);
        for (Shared(name, here, there, times), pairs) in FIGURES.iter().zip(&mut pairs) {
            let their = theirs.pointer(there).and_then(Value::as_f64);
            let their = their.with_context(|| format!("guidellm gave no {there} ({name})"))?;
            pairs.push((load_figure(&ours, here)?, their / times));
        }
    }
    let shown = format!("cargo xtask peers generator {}", arguments.join(" "));
    let path = write(shown.trim(), &subject.to_string(), &pairs)?;
    eprintln!("recorded in {}", path.strip_prefix(crate::root()).unwrap_or(&path).display());
    Ok(())
}

/// The program, installed once.
fn install() -> Result<PathBuf> {
    let home = home("-guidellm");
    let program = home.join("bin/guidellm");
    if !program.exists() {
        eprintln!("xtask: installing {PACKAGE} in {}", home.display());
        let mut install = pip_install(&home)?;
        install.args(["--quiet", PACKAGE]);
        check(install)?;
    }
    Ok(program)
}

/// Requests that differ from the first words on, for both readers.
fn prompts_of(requests: usize) -> String {
    let mut lines = String::new();
    for number in 0..requests {
        let line = json!({
            "prompt": format!("# {number}. A function that returns the {number} largest values of a list, with tests\ndef "),
            "max_tokens": MAX_TOKENS,
            "output_tokens_count": MAX_TOKENS,
        });
        let _ = writeln!(lines, "{line}");
    }
    lines
}

/// What is asked: started anew for each turn, so that none finds what the other's requests left in a cache.
enum Subject {
    Mock,
    Hapa(PathBuf),
}

impl Subject {
    fn start(&self, hapa: &Hapa, guidellm: &Path) -> Result<Server> {
        let server = match self {
            Self::Mock => {
                let mut command = Command::new(guidellm);
                command.args(["mock-server", "--ttft-ms", "150", "--itl-ms", "10"]);
                command.args(["--output-tokens", &MAX_TOKENS.to_string(), "--model", "hapa"]);
                Server::start(command)?
            }
            // One compute thread, so that there is a core for the generator.
            Self::Hapa(file) => hapa.serve(file, 1)?,
        };
        server.time_to_first_token("warm up")?;
        Ok(server)
    }
}

impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Mock => f.write_str(
                "guidellm's mock server, first token after 150 ms, then one every 10 ms",
            ),
            Self::Hapa(file) => {
                let name = file.file_name().unwrap_or_default();
                write!(f, "`hapa serve --threads 1`, {}", name.display())
            }
        }
    }
}

/// What both send.
struct Run<'a> {
    folder: &'a Path,
    prompts: &'a Path,
    rate: &'a str,
    requests: &'a str,
}

impl Run<'_> {
    fn hapa(&self, hapa: &Hapa, url: &str) -> Result<Value> {
        let prompts = self.prompts.to_string_lossy();
        let load = ["--rate", self.rate, "--arrivals", "constant", "--requests", self.requests];
        let mut arguments = vec!["bench", "serve", url, "--api", "openai-completions"];
        arguments.extend(["--request-model", "hapa"]);
        arguments.extend(["--prompts", &prompts]);
        arguments.extend(load);
        arguments.extend(["--warmup", "0", "--no-cold"]);
        hapa.json(&arguments)
    }

    fn guidellm(&self, program: &Path, url: &str) -> Result<Value> {
        let file = self.folder.join("guidellm.json");
        let extras = json!({"body": {"temperature": 0}});
        let backend = format!(
            "kind=openai_http,target={url},model=hapa,request_format=/v1/completions,extras={extras}"
        );
        let mut command = Command::new(program);
        command.args(["run", "--disable-console", "--backend", &backend]);
        command.args(["--profile", &format!("kind=constant,rate={}", self.rate)]);
        command.args(["--constraint", &format!("kind=max_requests,count={}", self.requests)]);
        command.args(["--data", &format!("kind=json_file,path={}", self.prompts.display())]);
        command.args(["--output", &format!("kind=json,path={}", file.display())]);
        output(command)?;
        let report: Value = serde_json::from_str(&std::fs::read_to_string(&file)?)?;
        let metrics =
            report.pointer("/benchmarks/0/metrics").context("guidellm wrote no metrics")?;
        Ok(metrics.clone())
    }
}

fn write(command: &str, server: &str, pairs: &[Vec<(f64, f64)>]) -> Result<PathBuf> {
    let mut text = String::from(
        "| figure | hapa bench serve | guidellm | ratio | each round |\n| --- | ---: | ---: | ---: | ---: |\n",
    );
    let mut values = Vec::new();
    for (Shared(name, ..), pairs) in FIGURES.iter().zip(pairs) {
        let middle =
            |pick: fn(&(f64, f64)) -> f64| record::median(pairs.iter().map(pick).collect());
        let mut ratios: Vec<f64> = pairs.iter().map(|(ours, theirs)| ours / theirs).collect();
        ratios.sort_by(f64::total_cmp);
        let line = format!(
            "| {name} | {:.4} | {:.4} | {:.3} | {:.3} to {:.3} |",
            middle(|pair| pair.0),
            middle(|pair| pair.1),
            record::median(ratios.clone()),
            ratios.first().copied().unwrap_or(f64::NAN),
            ratios.last().copied().unwrap_or(f64::NAN),
        );
        eprintln!("{line}");
        let _ = writeln!(text, "{line}");
        values.push(json!({"figure": name, "pairs": pairs}));
    }
    let head = format!(
        "Two load generators in turn at the same server: `hapa bench serve` and {PACKAGE}\n\n\
         - command: `{command}`\n- server: {server}; one that was just started for each turn\n\
         - guidellm's inter-token latency is an answer's mean, which is HAPA's time per output token\n"
    );
    let value = json!({"command": command, "server": server, "generators": values});
    crate::record::write("generators", (&head, &text), value)
}

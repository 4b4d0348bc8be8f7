//! `cargo xtask peers cached`: a cached answer of HAPA over HTTP beside nginx with one worker, which sends a static body of the
//! same size, asked in turn by wrk over 16 connections. The load generator of `hapa bench serve` asks nginx too, for its own limits.

use std::fmt::Write as _;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};

use super::hapa::{Hapa, load_figure};
use super::http::Server;
use super::{Scratch, record};
use crate::tools::{install_programs, output};

const USAGE: &str = "\
Usage: cargo xtask peers cached [--model NAME] [--rounds N] [--seconds N]

Needs nginx and wrk (Debian: nginx-light, wrk), and installs them where it may.
";

/// Connections of each client.
const CONNECTIONS: &str = "16";
const ROUTE: &str = "/api/v1/code/generate";

/// Figures of one run, times in milliseconds.
#[derive(Debug, Clone, Copy)]
struct Figures {
    rate: f64,
    p50: f64,
    p99: f64,
}

/// Who asked whom, with the figures of each round.
type Rounds = Vec<(&'static str, Vec<Figures>)>;

/// Measures, prints and records.
pub(super) fn run(arguments: &[&str]) -> Result<()> {
    let (mut model, mut rounds, mut seconds) = ("smollm2-135m", 3usize, 10u64);
    let mut words = arguments.iter();
    while let Some(&word) = words.next() {
        let mut value = || words.next().with_context(|| format!("{word} needs a value\n{USAGE}"));
        match word {
            "--model" => model = value()?,
            "--rounds" => rounds = value()?.parse().context("--rounds")?,
            "--seconds" => seconds = value()?.parse().context("--seconds")?,
            _ => bail!("unknown argument {word}\n{USAGE}"),
        }
    }
    ensure!(rounds > 0 && seconds > 0, "--rounds and --seconds are at least 1\n{USAGE}");
    install_programs(&[("nginx", "nginx-light"), ("wrk", "wrk")]);
    let hapa = Hapa::build(false)?;
    let file = hapa.model_file(model)?;
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let ours = hapa.serve(&file, threads)?;
    ours.time_to_first_token("warm up")?;

    let scratch = Scratch::new()?;
    let folder = scratch.path();
    let question = json!({"user_question": "write a function that merges two sorted lists", "max_tokens": 600});
    let script = folder.join("ask.lua");
    std::fs::write(&script, ask_script(&question))?;
    let page_script = folder.join("page.lua");
    std::fs::write(&page_script, DONE)?;
    post(ours.address(), &question)?;
    let body = post(ours.address(), &question)?;
    let answer: Value = serde_json::from_str(&body).with_context(|| format!("HAPA gave {body}"))?;
    ensure!(answer["cache"]["outcome"] == "hit-l1", "the answer is not in the cache: {body}");
    std::fs::write(folder.join("page"), &body)?;
    let theirs = nginx(folder)?;
    let page = format!("http://{}/page", theirs.address());
    let cached = format!("http://{}{ROUTE}", ours.address());

    let mut figures: Rounds = vec![
        ("nginx, static body, by wrk", Vec::new()),
        ("HAPA, cached answer, by wrk", Vec::new()),
        ("nginx, static body, by hapa bench serve", Vec::new()),
    ];
    for round in 1..=rounds {
        eprintln!("    round {round} of {rounds}");
        figures[0].1.push(wrk(&page, &page_script, seconds)?);
        figures[1].1.push(wrk(&cached, &script, seconds)?);
        figures[2].1.push(generator(&hapa, &page, seconds)?);
    }
    let shown = format!("cargo xtask peers cached {}", arguments.join(" "));
    let path = write(shown.trim(), model, body.len(), &figures)?;
    eprintln!("recorded in {}", path.strip_prefix(crate::root()).unwrap_or(&path).display());
    Ok(())
}

/// What wrk prints at the end, for us.
const DONE: &str = "function done(summary, latency)
  local e = summary.errors
  local bad = e.connect + e.read + e.write + e.status + e.timeout
  io.write(string.format('figures %d %d %d %d %d\\n', summary.requests, summary.duration,
    latency:percentile(50), latency:percentile(99), bad))
end
";

fn ask_script(question: &Value) -> String {
    format!(
        "wrk.method = 'POST'\nwrk.headers['content-type'] = 'application/json'\nwrk.body = [[{question}]]\n{DONE}"
    )
}

/// nginx with one worker, on files of the folder.
fn nginx(folder: &Path) -> Result<Server> {
    let at = folder.display();
    let settings = |port: u16| {
        format!(
            "daemon off; worker_processes 1; pid {at}/nginx.pid; error_log {at}/error.log;\n\
             events {{ worker_connections 512; }}\n\
             http {{ access_log off; sendfile on; tcp_nopush on; keepalive_requests 1000000000;\n\
             open_file_cache max=10; default_type application/json; client_body_temp_path {at}/body;\n\
             proxy_temp_path {at}/proxy; fastcgi_temp_path {at}/fastcgi; uwsgi_temp_path {at}/uwsgi;\n\
             scgi_temp_path {at}/scgi;\n\
             server {{ listen 127.0.0.1:{port}; root {at}; }} }}\n"
        )
    };
    let config = folder.join("nginx.conf");
    let server = Server::start_with(|port| {
        std::fs::write(&config, settings(port))?;
        let mut command = Command::new("nginx");
        command.arg("-p").arg(folder).arg("-e").arg(folder.join("error.log"));
        command.arg("-c").arg(&config);
        Ok(command)
    })?;
    for _ in 0..500 {
        if TcpStream::connect(server.address()).is_ok() {
            return Ok(server);
        }
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
    let log = std::fs::read_to_string(folder.join("error.log")).unwrap_or_default();
    bail!("nginx did not start: {log}")
}

/// Asks and gives the body of the answer.
fn post(address: &str, body: &Value) -> Result<String> {
    let body = body.to_string();
    let mut stream = TcpStream::connect(address)?;
    write!(
        stream,
        "POST {ROUTE} HTTP/1.1\r\nhost: {address}\r\ncontent-type: application/json\r\n\
         connection: close\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    )?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let (head, body) =
        answer.split_once("\r\n\r\n").context("the answer has no end of its head")?;
    ensure!(head.starts_with("HTTP/1.1 200"), "HAPA said {head}\n{body}");
    Ok(body.to_owned())
}

fn wrk(url: &str, script: &Path, seconds: u64) -> Result<Figures> {
    let mut command = Command::new("wrk");
    let duration = format!("{seconds}s");
    command.args(["--threads", "1", "--connections", CONNECTIONS, "--duration", &duration]);
    command.arg("--script").arg(script).arg(url);
    figures(&output(command)?)
}

/// Out of the line that [`DONE`] prints: requests, microseconds of the run, of the median, of the 99th percentile, errors.
fn figures(said: &str) -> Result<Figures> {
    let line = said.lines().find_map(|line| line.strip_prefix("figures "));
    let line = line.with_context(|| format!("wrk printed no figures:\n{said}"))?;
    let numbers: Vec<f64> = line.split(' ').map(str::parse).collect::<Result<_, _>>()?;
    let [requests, duration, p50, p99, bad] = numbers[..] else { bail!("wrk printed {line}") };
    ensure!(bad == 0.0, "wrk saw {bad} errors:\n{said}");
    Ok(Figures { rate: requests / (duration / 1e6), p50: p50 / 1e3, p99: p99 / 1e3 })
}

fn generator(hapa: &Hapa, page: &str, seconds: u64) -> Result<Figures> {
    let duration = format!("{seconds}s");
    let report = hapa.json(&[
        "bench",
        "serve",
        page,
        "--api",
        "plain",
        "--concurrency",
        CONNECTIONS,
        "--duration",
        &duration,
        "--warmup",
        "0",
        "--no-cold",
    ])?;
    let figure = |path| load_figure(&report, path);
    Ok(Figures {
        rate: figure("/throughput/requests_per_second")?,
        p50: figure("/latency/end_to_end/p50")? * 1e3,
        p99: figure("/latency/end_to_end/p99")? * 1e3,
    })
}

fn write(command: &str, model: &str, bytes: usize, figures: &Rounds) -> Result<PathBuf> {
    let middle = |all: &[Figures], pick: fn(&Figures) -> f64| {
        record::median(all.iter().map(pick).collect::<Vec<_>>())
    };
    let rates: Vec<f64> = figures.iter().map(|(_, all)| middle(all, |f| f.rate)).collect();
    let mut text = String::from(
        "| who, 16 connections | requests/s | of nginx | median | 99% |\n| --- | ---: | ---: | ---: | ---: |\n",
    );
    for ((name, all), rate) in figures.iter().zip(&rates) {
        let line = format!(
            "| {name} | {rate:.0} | {:.2} | {:.3} ms | {:.3} ms |",
            rate / rates[0],
            middle(all, |f| f.p50),
            middle(all, |f| f.p99),
        );
        eprintln!("{line}");
        let _ = writeln!(text, "{line}");
    }
    let head = format!(
        "A cached answer of `{ROUTE}` ({bytes} bytes) beside nginx with one worker and the same bytes\n\n\
         - command: `{command}`\n- model: {model}\n"
    );
    let rounds: Vec<Value> = figures
        .iter()
        .map(|(name, all)| {
            let pick = |of: fn(&Figures) -> f64| all.iter().map(of).collect::<Vec<f64>>();
            json!({"who": name, "requests_per_second": pick(|f| f.rate), "p50_ms": pick(|f| f.p50), "p99_ms": pick(|f| f.p99)})
        })
        .collect();
    let value = json!({"command": command, "model": model, "bytes": bytes, "cached": rounds});
    crate::record::write("cached", (&head, &text), value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wrks_figures() {
        let read = figures("Running\nfigures 500000 10000000 250 1500 0\n").unwrap();
        assert_eq!((read.rate, read.p50, read.p99), (50_000.0, 0.25, 1.5));
        assert!(figures("figures 5 10 1 1 3\n").unwrap_err().to_string().contains("3 errors"));
        assert!(figures("Running\n").is_err());
    }
}

//! `cargo xtask peers`: HAPA and llama.cpp in turn, on the same file, threads and prompts.
//!
//! Each part runs both `--rounds` times, one after the other, and gives the ratio of each pair: a shared machine changes
//! its speed from minute to minute, the ratio much less. The record goes to `benches/records/`.

mod cached;
mod generator;
mod hapa;
mod http;
mod llama;
mod record;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::str::FromStr;

use anyhow::{Context, Result, bail};

use self::hapa::{Hapa, Limits};
use self::http::Server;
use self::llama::Llama;
use self::record::{Pair, Row};
use crate::tools::check;

const USAGE: &str = "\
Usage: cargo xtask peers [--model NAME] [--threads N] [--rounds N] [--clients N,...] [--avx2] [PART ...]

--clients says how many ask at once in the server part (1,4,8,16).
--avx2 leaves what is newer than AVX2 out on both sides.

Parts (all without one): engine, batch, prefix, start, memory, server, humaneval
Other comparisons: cargo xtask peers cached (with nginx), cargo xtask peers generator (with guidellm)
";

/// What is measured, and how often.
pub(crate) struct Options {
    /// Name in HAPA's catalogue.
    pub(crate) model: String,
    pub(crate) threads: usize,
    pub(crate) rounds: usize,
    /// How many ask a server at once, in turn.
    pub(crate) clients: Vec<usize>,
    /// Neither side uses what is newer than AVX2.
    pub(crate) avx2: bool,
}

/// A part of the comparison.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Part {
    /// A prompt of 512 tokens, and 128 tokens of one sequence.
    Engine,
    /// Several sequences at once.
    Batch,
    /// A prompt whose first 2,048 tokens were sent before.
    Prefix,
    /// From the start of the program to the first token.
    Start,
    /// Memory while eight long sequences run.
    Memory,
    /// HumanEval prompts from several clients.
    Server,
    /// All of HumanEval, to the end of each answer, and how many are solved.
    HumanEval,
}

impl Part {
    const ALL: [Self; 7] = [
        Self::Engine,
        Self::Batch,
        Self::Prefix,
        Self::Start,
        Self::Memory,
        Self::Server,
        Self::HumanEval,
    ];
}

impl FromStr for Part {
    type Err = anyhow::Error;

    fn from_str(name: &str) -> Result<Self> {
        let found = Self::ALL.into_iter().find(|p| format!("{p:?}").eq_ignore_ascii_case(name));
        found.with_context(|| format!("`{name}` is no part\n{USAGE}"))
    }
}

/// Runs the parts that are named, or all, and writes a record.
pub(crate) fn run(arguments: &[&str]) -> Result<()> {
    match arguments {
        ["cached", rest @ ..] => return cached::run(rest),
        ["generator", rest @ ..] => return generator::run(rest),
        _ => {}
    }
    let mut options = Options {
        model: "qwen2.5-coder-0.5b".to_owned(),
        threads: std::thread::available_parallelism().map_or(1, usize::from),
        rounds: 3,
        clients: vec![1, 4, 8, 16],
        avx2: false,
    };
    let mut parts = Vec::new();
    let mut words = arguments.iter();
    while let Some(&word) = words.next() {
        let mut value = || words.next().with_context(|| format!("{word} needs a value\n{USAGE}"));
        match word {
            "--model" => options.model = (*value()?).to_owned(),
            "--threads" => options.threads = value()?.parse().context("--threads")?,
            "--rounds" => options.rounds = value()?.parse().context("--rounds")?,
            "--clients" => {
                let counts = value()?.split(',').map(str::parse);
                options.clients = counts.collect::<Result<_, _>>().context("--clients")?;
            }
            "--avx2" => options.avx2 = true,
            flag if flag.starts_with('-') => bail!("unknown flag {flag}\n{USAGE}"),
            part => parts.push(part.parse::<Part>()?),
        }
    }
    if options.rounds == 0 || options.threads == 0 || options.clients.contains(&0) {
        bail!("--rounds, --threads and --clients are at least 1\n{USAGE}");
    }
    let shown = format!("cargo xtask peers {}", arguments.join(" "));
    let all = Part::ALL.to_vec();
    let parts = if parts.is_empty() { all } else { parts };
    let llama = Llama::install(options.avx2)?;
    let hapa = Hapa::build(options.avx2)?;
    let model = hapa.model_file(&options.model)?;
    let (mut rows, mut limits) = (Vec::new(), Vec::new());
    for part in parts {
        eprintln!("==> {part:?}");
        let measured = match part {
            Part::Engine => engine(&hapa, &llama, &model, &options, &mut limits),
            Part::Batch => batch(&hapa, &llama, &model, &options),
            Part::Prefix => prefix(&hapa, &llama, &model, &options),
            Part::Start => start(&hapa, &llama, &model, &options),
            Part::Memory => memory(&hapa, &llama, &model, &options),
            Part::Server => server(&hapa, &llama, &model, &options),
            Part::HumanEval => humaneval(&hapa, &llama, &model, &options),
        };
        // A part that fails must not lose the others' figures.
        match measured {
            Ok(measured) => {
                measured.iter().for_each(|row| eprintln!("{row}"));
                rows.extend(measured);
            }
            Err(error) => eprintln!("xtask: {part:?}: {error:#}"),
        }
    }
    let path = record::write(shown.trim(), &options, &rows, &limits)?;
    eprintln!("recorded in {}", path.strip_prefix(crate::root()).unwrap_or(&path).display());
    Ok(())
}

/// Where a peer is installed: `$XTASK_PEERS` or `target/peers`, with what tells it from others after the name.
fn home(suffix: &str) -> PathBuf {
    let mut home = std::env::var_os("XTASK_PEERS")
        .unwrap_or_else(|| crate::root().join("target/peers").into_os_string());
    home.push(suffix);
    home.into()
}

/// A Python environment in a folder, and a `pip install` in it, to which the packages are to be added.
fn pip_install(home: &Path) -> Result<Command> {
    let mut venv = Command::new("python3");
    venv.args(["-m", "venv"]).arg(home);
    check(venv)?;
    let mut install = Command::new(home.join("bin/pip"));
    install.arg("install");
    Ok(install)
}

/// A folder that goes when this does.
struct Scratch(PathBuf);

impl Scratch {
    fn new() -> Result<Self> {
        let folder = std::env::temp_dir().join(format!("xtask-peers-{}", std::process::id()));
        std::fs::create_dir_all(&folder)?;
        Ok(Self(folder))
    }

    fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// Runs `measure` for HAPA and for llama.cpp in turn; `measure` gives figures by the rows' order.
fn in_turn(
    rows: &mut [Row],
    rounds: usize,
    mut hapa: impl FnMut() -> Result<Vec<f64>>,
    mut llama: impl FnMut() -> Result<Vec<f64>>,
) -> Result<()> {
    for round in 1..=rounds {
        eprintln!("    round {round} of {rounds}");
        let (ours, theirs) = (hapa()?, llama()?);
        for (row, (ours, theirs)) in rows.iter_mut().zip(ours.into_iter().zip(theirs)) {
            row.pairs.push(Pair { hapa: ours, llama: theirs });
        }
    }
    Ok(())
}

fn engine(
    hapa: &Hapa,
    llama: &Llama,
    model: &Path,
    options: &Options,
    limits: &mut Vec<Limits>,
) -> Result<Vec<Row>> {
    let mut rows = vec![
        Row::more("prefill, 512 tokens", "tokens/s"),
        Row::more("decode, one sequence, 128 tokens", "tokens/s"),
    ];
    in_turn(
        &mut rows,
        options.rounds,
        || {
            let figures = hapa.bench_engine(model, options.threads, (512, 128), None)?;
            limits.extend(figures.limits);
            Ok(vec![figures.prefill, figures.decode])
        },
        || {
            let [prefill, decode] = llama.bench(model, options.threads, (512, 128))?;
            Ok(vec![prefill, decode])
        },
    )?;
    Ok(rows)
}

fn batch(hapa: &Hapa, llama: &Llama, model: &Path, options: &Options) -> Result<Vec<Row>> {
    const BATCHES: [usize; 5] = [2, 4, 8, 16, 32];
    let mut rows: Vec<_> = BATCHES
        .iter()
        .map(|n| Row::more(&format!("decode, {n} sequences, 64 tokens after 128"), "tokens/s"))
        .collect();
    in_turn(
        &mut rows,
        options.rounds,
        || {
            let one = |n: &usize| {
                let figures = hapa.bench_engine(model, options.threads, (128, 64), Some(*n))?;
                figures.batch.context("`hapa bench engine` gave no batch figure")
            };
            BATCHES.iter().map(one).collect()
        },
        || llama.batched_bench(model, options.threads, (128, 64), &BATCHES),
    )?;
    Ok(rows)
}

/// About 2,048 tokens of Python, different for each `number` from the first line on.
fn long_prompt(number: usize) -> String {
    let mut text = format!("# file {number}\n");
    for line in 0..80 {
        text.push_str(&format!("def f_{number}_{line}(a, b):\n    return a * {line} + b\n"));
    }
    text
}

fn prefix(hapa: &Hapa, llama: &Llama, model: &Path, options: &Options) -> Result<Vec<Row>> {
    let mut rows = vec![
        Row::less("first token of a long prompt", "s"),
        Row::less("first token of the same prompt with another end", "s"),
    ];
    let ours = hapa.serve(model, options.threads)?;
    let theirs = llama.serve(model, options.threads, 1, 8192)?;
    let mut number = 0;
    let mut ask = |server: &http::Server| -> Result<Vec<f64>> {
        number += 1;
        let prompt = long_prompt(number);
        let first = server.time_to_first_token(&format!("{prompt}# one\n"))?;
        let second = server.time_to_first_token(&format!("{prompt}# two\n"))?;
        Ok(vec![first.as_secs_f64(), second.as_secs_f64()])
    };
    for server in [&ours, &theirs] {
        server.time_to_first_token("warm up")?;
    }
    for round in 1..=options.rounds {
        eprintln!("    round {round} of {}", options.rounds);
        let (a, b) = (ask(&ours)?, ask(&theirs)?);
        for (row, (hapa, llama)) in rows.iter_mut().zip(a.into_iter().zip(b)) {
            row.pairs.push(Pair { hapa, llama });
        }
    }
    Ok(rows)
}

fn start(hapa: &Hapa, llama: &Llama, model: &Path, options: &Options) -> Result<Vec<Row>> {
    let mut rows = vec![
        Row::less("start to first token, files in the page cache", "s"),
        Row::less("start to first token, page cache empty", "s"),
    ];
    let cold = http::drop_page_cache();
    // What is in the page cache is the other's after its turn: an unmeasured start brings one's own files back, and the first
    // one leaves HAPA's packed file behind, as any first use does.
    let figures = |serve: &dyn Fn() -> Result<Server>| -> Result<Vec<f64>> {
        http::from_start(serve)?;
        let mut figures = vec![http::from_start(serve)?];
        if cold {
            http::drop_page_cache();
            figures.push(http::from_start(serve)?);
        }
        Ok(figures)
    };
    in_turn(
        &mut rows,
        options.rounds,
        || figures(&|| hapa.serve(model, options.threads)),
        || figures(&|| llama.serve(model, options.threads, 1, 4096)),
    )?;
    rows.retain(|row| !row.pairs.is_empty());
    Ok(rows)
}

fn memory(hapa: &Hapa, llama: &Llama, model: &Path, options: &Options) -> Result<Vec<Row>> {
    const SEQUENCES: usize = 8;
    let mut rows = vec![Row::less("peak resident memory, 8 sequences of about 2,048 tokens", "MB")];
    in_turn(
        &mut rows,
        1,
        || Ok(vec![hapa.serve(model, options.threads)?.peak_of_long_prompts(SEQUENCES)?]),
        || {
            let server = llama.serve(model, options.threads, SEQUENCES, SEQUENCES * 4096)?;
            Ok(vec![server.peak_of_long_prompts(SEQUENCES)?])
        },
    )?;
    Ok(rows)
}

fn server(hapa: &Hapa, llama: &Llama, model: &Path, options: &Options) -> Result<Vec<Row>> {
    let mut all = Vec::new();
    for &clients in &options.clients {
        let name = |what: &str| format!("HumanEval prompts, {clients} clients: {what}");
        let mut rows = vec![
            Row::more(&name("output"), "tokens/s"),
            Row::less(&name("time to first token, median"), "s"),
            Row::less(&name("time to first token, 99%"), "s"),
        ];
        in_turn(
            &mut rows,
            options.rounds,
            || {
                let server = hapa.serve(model, options.threads)?;
                hapa.load(&server, clients)
            },
            || {
                let server = llama.serve(model, options.threads, clients, clients * 2048)?;
                hapa.load(&server, clients)
            },
        )?;
        all.extend(rows);
    }
    Ok(all)
}

fn humaneval(hapa: &Hapa, llama: &Llama, model: &Path, options: &Options) -> Result<Vec<Row>> {
    const CLIENTS: usize = 16;
    let mut rows = vec![
        Row::less("HumanEval, all 164, 16 clients", "s"),
        Row::more("HumanEval, solved at the first try", "problems"),
    ];
    in_turn(
        &mut rows,
        options.rounds,
        || hapa.humaneval(&hapa.serve(model, options.threads)?, CLIENTS),
        || {
            let server = llama.serve(model, options.threads, CLIENTS, CLIENTS * 2048)?;
            hapa.humaneval(&server, CLIENTS)
        },
    )?;
    Ok(rows)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_have_names() {
        for part in Part::ALL {
            assert_eq!(format!("{part:?}").to_lowercase().parse::<Part>().unwrap(), part);
        }
        assert!("speed".parse::<Part>().unwrap_err().to_string().contains("engine, batch"));
    }

    #[test]
    fn long_prompts_differ_from_the_first_line_on() {
        assert_ne!(long_prompt(1).lines().next(), long_prompt(2).lines().next());
    }
}

//! `hapa bench engine`: the engine alone, without cache, prompts' templates or HTTP.

use std::sync::Mutex;
use std::time::Instant;

use clap::Args;
use hapa_kernels::{Kernels, MachineLimits, Team};
use hapa_model::{ForwardCost, LoadEvent, Model, ModelError, ProgressSink};
use hapa_profiler::MemoryTracker;
use serde::Serialize;

use super::measure::{Prompts, batch, median, single};
use crate::console::{print, print_json};
use crate::error::{CliError, Result};
use crate::progress::ShownLoad;
use crate::session::{ModelArgs, Session};
use crate::settings::Flags;
use crate::text::{bytes, table};

/// Speed of the engine: prefill, decode, and decode of a batch
///
/// Each run has prompts of its own, so that the prefix cache cannot help. Figures are medians over the runs, after one
/// run that does not count. The machine's limits are measured before and after each run, since they change from second to
/// second on a machine that is shared; what part of them is reached is a median over the runs, too.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  hapa bench engine
  hapa bench engine --model smollm2-135m --prompt-tokens 512 --gen-tokens 128 --batch 8 --json

--json prints {prefill_tokens_per_second, decode_tokens_per_second, batch_decode_tokens_per_second,
load_seconds, peak_resident_bytes, limits, ...}. The load is one of packed weights, as every start after the first. The limits
are those of reading all weights for each token, and of multiplying with all operands in registers; limits.reached has the
part of them that each figure is.")]
pub(crate) struct EngineBench {
    /// Tokens of each prompt
    #[arg(long, value_name = "N", default_value_t = 512)]
    prompt_tokens: usize,
    /// Tokens of each answer
    #[arg(long, value_name = "N", default_value_t = 128)]
    gen_tokens: usize,
    /// Sequences at once for the batch figure
    #[arg(long, value_name = "N", default_value_t = 8)]
    batch: usize,
    /// Runs to take the medians of
    #[arg(long, value_name = "N", default_value_t = 3)]
    runs: usize,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    model: ModelArgs,
}

#[derive(Debug, Serialize)]
struct Figures {
    prefill_tokens_per_second: f64,
    decode_tokens_per_second: f64,
    batch_decode_tokens_per_second: f64,
    load_seconds: f64,
    peak_resident_bytes: u64,
    model: String,
    backend: &'static str,
    isa: &'static str,
    threads: usize,
    prompt_tokens: usize,
    gen_tokens: usize,
    batch: usize,
    runs: usize,
    limits: Option<LimitsReached>,
}

/// What this machine allows for the model at most: all weights read for each token, or all products made with operands
/// in registers.
#[derive(Debug, Serialize)]
struct Limits {
    read_bytes_per_second: f64,
    byte_macs_per_second: f64,
    weight_bytes: u64,
    token_macs: u64,
    logits_macs: u64,
    prefill_tokens_per_second: f64,
    decode_tokens_per_second: f64,
    batch_decode_tokens_per_second: f64,
}

/// The limits over all runs, and the parts of them that the runs reached, all medians.
#[derive(Debug, Serialize)]
struct LimitsReached {
    #[serde(flatten)]
    limits: Limits,
    reached: Reached,
}

/// Parts of a limit, 0 to 1.
#[derive(Debug, Serialize)]
struct Reached {
    prefill: f64,
    decode: f64,
    batch_decode: f64,
}

/// The figures of some runs, in tokens a second, and the limit of each.
struct Runs {
    figures: Vec<f64>,
    limits: Vec<f64>,
}

impl Runs {
    const fn new() -> Self {
        Self { figures: Vec::new(), limits: Vec::new() }
    }

    /// Notes a run between two looks at the limits.
    fn note(&mut self, figure: f64, around: [Option<&Limits>; 2], of: fn(&Limits) -> f64) {
        self.figures.push(figure);
        if let [Some(before), Some(after)] = around {
            self.limits.push(f64::midpoint(of(before), of(after)));
        }
    }

    fn limit(&self) -> f64 {
        median(self.limits.clone())
    }

    fn reached(&self) -> f64 {
        median(
            self.figures.iter().zip(&self.limits).map(|(figure, limit)| figure / limit).collect(),
        )
    }
}

impl Limits {
    fn new(cost: ForwardCost, machine: MachineLimits, batch: usize) -> Self {
        let read_seconds = cost.weight_bytes as f64 / machine.read_bytes_per_second;
        let seconds_per_mac = machine.byte_macs_per_second.recip();
        let decode = |rows: usize| {
            let macs = (cost.token_macs + cost.logits_macs) as f64 * rows as f64;
            rows as f64 / read_seconds.max(macs * seconds_per_mac)
        };
        Self {
            read_bytes_per_second: machine.read_bytes_per_second,
            byte_macs_per_second: machine.byte_macs_per_second,
            weight_bytes: cost.weight_bytes,
            token_macs: cost.token_macs,
            logits_macs: cost.logits_macs,
            prefill_tokens_per_second: (cost.token_macs as f64 * seconds_per_mac).recip(),
            decode_tokens_per_second: decode(1),
            batch_decode_tokens_per_second: decode(batch),
        }
    }
}

impl LimitsReached {
    fn new(looks: &[Limits], [prefill, decode, batch]: [&Runs; 3]) -> Option<Self> {
        let first = looks.first()?;
        let typical = |of: fn(&Limits) -> f64| median(looks.iter().map(of).collect());
        let limits = Limits {
            read_bytes_per_second: typical(|l| l.read_bytes_per_second),
            byte_macs_per_second: typical(|l| l.byte_macs_per_second),
            prefill_tokens_per_second: prefill.limit(),
            decode_tokens_per_second: decode.limit(),
            batch_decode_tokens_per_second: batch.limit(),
            ..*first
        };
        let reached = Reached {
            prefill: prefill.reached(),
            decode: decode.reached(),
            batch_decode: batch.reached(),
        };
        Some(Self { limits, reached })
    }
}

impl EngineBench {
    pub(crate) fn flags(&self, flags: &mut Flags) {
        self.model.flags(flags);
    }

    pub(crate) fn run(self, session: &Session) -> Result<()> {
        for (flag, value, least, most) in [
            ("--prompt-tokens", self.prompt_tokens, 1, 1 << 20),
            ("--gen-tokens", self.gen_tokens, 2, 1 << 20),
            ("--batch", self.batch, 1, 1024),
            ("--runs", self.runs, 1, 1000),
        ] {
            if !(least..=most).contains(&value) {
                return Err(CliError::usage(format!(
                    "{flag} is {value}; {least} to {most} is allowed"
                )));
            }
        }
        let json = self.json;
        let (store, name) = (session.store()?, session.model()?);
        let mut options = session.load_options();
        options.max_sequences = options.max_sequences.max(self.batch);
        options.queue_limit = options.queue_limit.max(self.batch);
        // A figure for what a step costs, not for how much a model repeats itself.
        options.speculation = false;
        let figures = session.run_shown(move |progress| {
            let resolved = store.resolve(&name, progress)?;
            let load = || timed_load(|sink| Model::load(&resolved, &options, sink), progress);
            let mut loaded = load()?;
            if loaded.packed {
                drop(loaded);
                loaded = load()?;
            }
            self.measure(&loaded, options.threads)
        })?;
        if json {
            return print_json(&figures);
        }
        let per_second = |value: f64, reached: fn(&Reached) -> f64| match &figures.limits {
            Some(limits) => {
                let percent = reached(&limits.reached) * 100.0;
                format!("{value:.1} tokens/s, {percent:.0}% of this machine's limit")
            }
            None => format!("{value:.1} tokens/s"),
        };
        print(&table(&[
            vec![
                "model".to_owned(),
                format!(
                    "{} ({} backend, {}, {} threads)",
                    figures.model, figures.backend, figures.isa, figures.threads
                ),
            ],
            vec![
                format!("prefill, {} tokens", figures.prompt_tokens),
                per_second(figures.prefill_tokens_per_second, |r| r.prefill),
            ],
            vec![
                format!("decode, {} tokens", figures.gen_tokens),
                per_second(figures.decode_tokens_per_second, |r| r.decode),
            ],
            vec![
                format!("decode, batch of {}", figures.batch),
                per_second(figures.batch_decode_tokens_per_second, |r| r.batch_decode),
            ],
            vec!["load".to_owned(), format!("{:.3} s", figures.load_seconds)],
            vec!["peak resident memory".to_owned(), bytes(figures.peak_resident_bytes)],
        ]))
    }

    fn measure(&self, loaded: &Loaded, threads: usize) -> Result<Figures> {
        let model = &loaded.model;
        let prompts = Prompts::new(model, self.prompt_tokens);
        let mut number = 0;
        let mut next = || {
            number += 1;
            prompts.make(number)
        };
        let together = |next: &mut dyn FnMut() -> Vec<u32>| {
            batch(model, (0..self.batch).map(|_| next()).collect(), self.gen_tokens)
        };
        single(model, next(), self.gen_tokens)?;
        together(&mut next)?;
        // Before memory is taken to measure the machine's limits.
        let peak_resident_bytes = MemoryTracker::new().sample().peak_resident_bytes;
        let isa = hapa_kernels::Isa::from_env().map_err(|e| CliError::usage(e.to_string()))?;
        let cores = hapa_kernels::physical_cores();
        let threads = if threads == 0 { cores } else { threads };
        let mut machine = Kernels::new(Team::new(threads), isa).ok();
        let mut look = || {
            let cost = model.info().forward_cost?;
            Some(Limits::new(cost, machine.as_mut()?.machine_limits()?, self.batch))
        };
        let mut looks: Vec<Limits> = look().into_iter().collect();
        let [mut prefill, mut decode, mut batches] = [const { Runs::new() }; 3];
        for _ in 0..self.runs {
            let run = single(model, next(), self.gen_tokens)?;
            let after = look();
            let around = [looks.last(), after.as_ref()];
            prefill.note(run.prefill_tokens_per_second, around, |l| l.prefill_tokens_per_second);
            decode.note(run.decode_tokens_per_second, around, |l| l.decode_tokens_per_second);
            looks.extend(after);
        }
        for _ in 0..self.runs {
            let figure = together(&mut next)?;
            let after = look();
            let around = [looks.last(), after.as_ref()];
            batches.note(figure, around, |l| l.batch_decode_tokens_per_second);
            looks.extend(after);
        }
        Ok(Figures {
            limits: LimitsReached::new(&looks, [&prefill, &decode, &batches]),
            prefill_tokens_per_second: median(prefill.figures),
            decode_tokens_per_second: median(decode.figures),
            batch_decode_tokens_per_second: median(batches.figures),
            load_seconds: loaded.seconds,
            peak_resident_bytes,
            model: model.info().name.clone(),
            backend: model.info().backend,
            isa: isa.name(),
            threads,
            prompt_tokens: self.prompt_tokens,
            gen_tokens: self.gen_tokens,
            batch: self.batch,
            runs: self.runs,
        })
    }
}

struct Loaded {
    model: Model,
    seconds: f64,
    /// The weights were packed, which later loads need not do.
    packed: bool,
}

fn timed_load(
    load: impl FnOnce(&dyn ProgressSink) -> Result<Model, ModelError>,
    progress: &ShownLoad,
) -> Result<Loaded> {
    let sink = NotesPacking { shown: progress, packed: Mutex::new(false) };
    let began = Instant::now();
    let model = load(&sink)?;
    let seconds = began.elapsed().as_secs_f64();
    let packed = sink.packed.into_inner().unwrap_or(false);
    Ok(Loaded { model, seconds, packed })
}

/// Passes events on and notes whether one was about packing.
struct NotesPacking<'a> {
    shown: &'a ShownLoad,
    packed: Mutex<bool>,
}

impl ProgressSink for NotesPacking<'_> {
    fn event(&self, event: &LoadEvent) {
        if matches!(event, LoadEvent::Packing { .. })
            && let Ok(mut packed) = self.packed.lock()
        {
            *packed = true;
        }
        self.shown.event(event);
    }

    fn is_cancelled(&self) -> bool {
        self.shown.is_cancelled()
    }
}

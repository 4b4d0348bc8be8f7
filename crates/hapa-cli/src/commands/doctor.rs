//! `hapa doctor`: what this machine can do, and what is missing.

use clap::Args;
use hapa_kernels::{Isa, physical_cores};
use hapa_model::backend::cpu::packed_path;
use hapa_model::catalog::catalog;
use hapa_model::store::StoreReport;
use hapa_model::{Model, ModelRef, Origin, Store};
use serde::Serialize;
use sysinfo::System;

use crate::console::{print, print_json};
use crate::error::{CliError, Result};
use crate::session::Session;
use crate::settings::Flags;
use crate::text::{bytes, duration, table};

/// Show what this machine can do, and what is missing
///
/// Looks at the processor, memory, the store, the ways to models, and the model that the settings name. Takes some
/// seconds at most and fetches nothing, unless --fix lets it. Exit code 1 when something stands in the way of an answer.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  hapa doctor
  hapa doctor --json | jq .problems
  hapa doctor --fix               # clear up, fetch the model, pack its weights

HAPA_ISA, set to one of the available instruction sets, takes that instead of the best.")]
pub(crate) struct Doctor {
    /// The model to look for
    #[arg(long, short, value_name = "MODEL")]
    model: Option<String>,
    /// Ask nothing of the network
    #[arg(long)]
    offline: bool,
    /// Mend what can be: remove what interrupted downloads left, fetch the model, pack its weights
    #[arg(long)]
    fix: bool,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Serialize)]
struct Report {
    version: &'static str,
    machine: Machine,
    store: StoreFacts,
    hub: Hub,
    /// What pip says about itself.
    pip: Option<String>,
    model: ModelFacts,
    /// What `--fix` did.
    fixed: Vec<String>,
    /// What stands in the way of an answer; empty when nothing does.
    problems: Vec<String>,
}

#[derive(Debug, Serialize)]
struct Machine {
    system: String,
    processor: String,
    logical_cores: usize,
    physical_cores: usize,
    threads: usize,
    /// The instruction set that is used; `None` when `HAPA_ISA` names none that there is.
    isa: Option<&'static str>,
    isa_available: Vec<&'static str>,
    hapa_isa: Option<String>,
    memory_bytes: u64,
    memory_available_bytes: u64,
}

#[derive(Debug, Serialize)]
struct StoreFacts {
    home: std::path::PathBuf,
    writable: bool,
    available_bytes: Option<u64>,
    models: Vec<String>,
    leftover_bytes: u64,
}

#[derive(Debug, Serialize)]
struct Hub {
    endpoint: String,
    token: bool,
    offline: bool,
    /// An answer of any kind came.
    reachable: bool,
    status: Option<u16>,
    seconds: Option<f64>,
    error: Option<String>,
}

#[derive(Debug, Serialize)]
struct ModelFacts {
    name: String,
    /// It can be loaded without fetching.
    present: bool,
    /// What fetching it takes; `None` when not known before.
    fetch_bytes: Option<u64>,
}

impl Doctor {
    pub(crate) fn flags(&self, flags: &mut Flags) {
        flags.set("model", self.model.as_deref(), "--model").set(
            "offline",
            self.offline.then_some(true),
            "--offline",
        );
    }

    /// # Errors
    /// [`CliError::Failed`] when something stands in the way of an answer.
    pub(crate) fn run(self, session: &Session) -> Result<()> {
        let store = session.store()?;
        let fixed = if self.fix { mend(session, &store) } else { Vec::new() };
        let asked = store.clone();
        let looked = session.run_shown(move |progress| Ok(asked.doctor(progress)))?;
        let report = Report { fixed, ..report(session, &store, looked) };
        if self.json {
            print_json(&report)?;
        } else {
            print(&describe(&report))?;
        }
        match report.problems.len() {
            0 => Ok(()),
            _ if self.json => {
                Err(CliError::Failed("something stands in the way of an answer".to_owned()))
            }
            _ => Err(CliError::Failed(report.problems.join("\n       "))),
        }
    }
}

fn report(session: &Session, store: &Store, looked: StoreReport) -> Report {
    let mut problems = Vec::new();
    let machine = machine(session.settings.engine.threads, &mut problems);
    let hub = Hub {
        endpoint: looked.hub.endpoint,
        token: looked.hub.token,
        offline: looked.offline,
        reachable: matches!(looked.hub.answer, Some(Ok(_))),
        status: looked.hub.answer.as_ref().and_then(|a| a.as_ref().ok()).map(|(status, _)| *status),
        seconds: looked
            .hub
            .answer
            .as_ref()
            .and_then(|a| a.as_ref().ok())
            .map(|(_, t)| t.as_secs_f64()),
        error: looked.hub.answer.and_then(Result::err),
    };
    let model = model_facts(session, store, &mut problems);
    let is_path = matches!(model.name.parse(), Ok(ModelRef::Path(_)));
    if is_path && !model.present {
        problems.push(format!("there is no model at {}", model.name));
    } else if !model.present {
        let by_index = looked.pip.is_some() && catalog().iter().any(|m| m.id == model.name);
        if hub.offline {
            problems.push(format!(
                "{} is not here and fetching is off; `hapa model pull {}` while online",
                model.name, model.name
            ));
        } else if !hub.reachable && !by_index {
            problems.push(format!(
                "{} is not here, the hub cannot be reached, and there is no python3 with pip to use the Python package index",
                model.name
            ));
        }
        if !looked.writable {
            problems.push(format!(
                "{} is not here and {} cannot be written; set HAPA_HOME to a folder that can",
                model.name,
                looked.home.display()
            ));
        }
        if let (Some(needed), Some(free)) = (model.fetch_bytes, looked.available_bytes)
            && free < needed
        {
            problems.push(format!(
                "{} needs {}, {} has {} free; free some space or set HAPA_HOME to another disk",
                model.name,
                bytes(needed),
                looked.home.display(),
                bytes(free)
            ));
        }
    }
    Report {
        version: env!("CARGO_PKG_VERSION"),
        machine,
        store: StoreFacts {
            home: looked.home,
            writable: looked.writable,
            available_bytes: looked.available_bytes,
            models: looked.models.into_iter().map(|model| model.name).collect(),
            leftover_bytes: looked.leftovers.iter().map(|leftover| leftover.bytes).sum(),
        },
        hub,
        pip: looked.pip,
        model,
        fixed: Vec::new(),
        problems,
    }
}

/// Mends what can be mended and says what that was. What cannot be is warned of, and the report tells the rest.
fn mend(session: &Session, store: &Store) -> Vec<String> {
    let mut done = Vec::new();
    match store.clean() {
        Ok(0) => {}
        Ok(freed) => done.push(format!("removed {} of interrupted downloads", bytes(freed))),
        Err(error) => session.console.warn(&CliError::from(error).report()),
    }
    match make_ready(session, store) {
        Ok(made) => done.extend(made),
        Err(error) => session.console.warn(&error.report()),
    }
    for line in &done {
        session.console.note(line);
    }
    done
}

/// Fetches the model and packs its weights, as far as that is missing.
fn make_ready(session: &Session, store: &Store) -> Result<Vec<String>> {
    let (store, name, options) = (store.clone(), session.model()?, session.load_options());
    session.run_shown(move |progress| {
        let mut made = Vec::new();
        let resolved = store.resolve(&name, progress)?;
        if matches!(resolved.origin, Origin::Fetched(_)) {
            made.push(format!("fetched {name}"));
        }
        let packed = packed_path(&resolved.path);
        if !packed.exists() {
            drop(Model::load(&resolved, &options, progress)?);
            if packed.exists() {
                made.push(format!("packed the weights of {name}"));
            }
        }
        Ok(made)
    })
}

fn machine(threads: usize, problems: &mut Vec<String>) -> Machine {
    let mut system = System::new();
    system.refresh_memory();
    system.refresh_cpu_list(sysinfo::CpuRefreshKind::nothing());
    let limits = system.cgroup_limits();
    let isa = Isa::from_env();
    if let Err(error) = &isa {
        problems.push(format!("HAPA_ISA: {error}"));
    }
    let name = |text: Option<String>| text.unwrap_or_else(|| "unknown".to_owned());
    Machine {
        system: format!("{} ({})", name(System::long_os_version()), System::cpu_arch()),
        processor: system.cpus().first().map_or("unknown", |cpu| cpu.brand().trim()).to_owned(),
        logical_cores: std::thread::available_parallelism().map_or(1, usize::from),
        physical_cores: physical_cores(),
        threads: if threads == 0 { physical_cores() } else { threads },
        isa: isa.ok().map(Isa::name),
        isa_available: Isa::ALL
            .into_iter()
            .filter(|isa| isa.is_supported())
            .map(Isa::name)
            .collect(),
        hapa_isa: std::env::var("HAPA_ISA").ok().filter(|name| !name.is_empty()),
        memory_bytes: limits.as_ref().map_or(system.total_memory(), |limits| limits.total_memory),
        memory_available_bytes: limits
            .map_or(system.available_memory(), |limits| limits.free_memory),
    }
}

fn model_facts(session: &Session, store: &Store, problems: &mut Vec<String>) -> ModelFacts {
    let name = session.settings.model.clone();
    let (present, fetch_bytes) = match name.parse::<ModelRef>() {
        Err(error) => {
            problems.push(error.to_string());
            (false, None)
        }
        Ok(ModelRef::Path(path)) => (path.exists(), None),
        Ok(ModelRef::Catalog(entry)) => {
            let listed = store.list().iter().any(|stored| stored.name == entry.id);
            (listed, (!listed).then_some(entry.bytes))
        }
        Ok(hub) => {
            let shown = hub.to_string();
            (store.list().iter().any(|stored| stored.name.starts_with(&shown)), None)
        }
    };
    ModelFacts { name, present, fetch_bytes }
}

fn describe(report: &Report) -> String {
    let Report { machine, store, hub, model, .. } = report;
    let isa = match (machine.isa, &machine.hapa_isa) {
        (Some(isa), None) => format!("{isa} (available: {})", machine.isa_available.join(", ")),
        (Some(isa), Some(_)) => {
            format!("{isa}, by HAPA_ISA (available: {})", machine.isa_available.join(", "))
        }
        (None, _) => format!("none (available: {})", machine.isa_available.join(", ")),
    };
    let free = store
        .available_bytes
        .map_or("free space unknown".to_owned(), |free| format!("{} free", bytes(free)));
    let writable = if store.writable { "writable" } else { "not writable" };
    let hub_state = match (hub.offline, hub.status, hub.seconds) {
        (true, ..) => "not asked: offline".to_owned(),
        (_, Some(status), Some(seconds)) => {
            format!(
                "answered {status} in {}",
                duration(std::time::Duration::from_secs_f64(seconds))
            )
        }
        _ => format!("not reached: {}", hub.error.as_deref().unwrap_or("no answer")),
    };
    let model_state = match (model.present, model.fetch_bytes) {
        (true, _) => "here".to_owned(),
        (false, Some(size)) => format!("not here; the first use fetches {}", bytes(size)),
        (false, None) => "not here".to_owned(),
    };
    let row = |name: &str, value: String| vec![name.to_owned(), value];
    table(&[
        row("hapa", report.version.to_owned()),
        row("system", machine.system.clone()),
        row("processor", machine.processor.clone()),
        row(
            "cores",
            format!(
                "{} physical, {} logical; {} compute threads",
                machine.physical_cores, machine.logical_cores, machine.threads
            ),
        ),
        row("instructions", isa),
        row(
            "memory",
            format!(
                "{}, {} available",
                bytes(machine.memory_bytes),
                bytes(machine.memory_available_bytes)
            ),
        ),
        row("store", format!("{} ({writable}, {free})", store.home.display())),
        row(
            "models",
            if store.models.is_empty() { "none".to_owned() } else { store.models.join(", ") },
        ),
        row(
            "leftovers",
            if store.leftover_bytes == 0 {
                "none".to_owned()
            } else {
                format!("{} of interrupted downloads", bytes(store.leftover_bytes))
            },
        ),
        row(
            "hub",
            format!(
                "{} {hub_state}{}",
                hub.endpoint,
                if hub.token { ", with a token" } else { "" }
            ),
        ),
        row("pip", report.pip.clone().unwrap_or_else(|| "not found".to_owned())),
        row("model", format!("{}: {model_state}", model.name)),
        row(
            "verdict",
            if report.problems.is_empty() { "ready".to_owned() } else { "not ready".to_owned() },
        ),
    ])
}

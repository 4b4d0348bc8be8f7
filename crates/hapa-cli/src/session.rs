//! What commands share: the settings in force, and from them the store, the model and the service.

use std::future::Future;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use futures_util::FutureExt;
use hapa_loadtest::Control;
use hapa_model::{
    LazyModel, LazyOptions, LoadOptions, LoadState, ModelError, ModelRef, Store, StoreOptions,
};
use hapa_server::KeyFile;
use hapa_service::{
    AdmissionOptions, DiskOptions, DiskTier, MemoryOptions, Service, ServiceOptions, Tier,
};
use tokio::sync::oneshot;

use crate::console::Console;
use crate::error::{CliError, Result};
use crate::interrupt::{self, Signal};
use crate::progress::ShownLoad;
use crate::settings::{ByteSize, Flags, Given, Layers, Settings, gather};

/// How long the end of a command waits for its answers to be stored.
pub(crate) const KEEPING: Duration = Duration::from_secs(5);

/// Fewer tokens around a cursor say nothing.
const LEAST_WINDOW: usize = 64;

/// Which model, and how it is run.
#[derive(Debug, Clone, Default, Args)]
#[command(next_help_heading = "Model")]
pub(crate) struct ModelArgs {
    /// A name of `hapa model list`, a Hugging Face repository, or a path
    #[arg(long, short, value_name = "MODEL")]
    model: Option<String>,
    /// Compute threads; 0 is one a physical core
    #[arg(long, value_name = "N")]
    threads: Option<u16>,
    /// Longest prompt and answer together, in tokens
    #[arg(long, value_name = "N")]
    context_tokens: Option<u32>,
    /// `cpu`, `reference` or `auto`
    #[arg(long, value_name = "NAME")]
    backend: Option<String>,
    /// Fetch nothing
    #[arg(long)]
    offline: bool,
}

impl ModelArgs {
    pub(crate) fn flags(&self, flags: &mut Flags) {
        flags
            .set("model", self.model.as_deref(), "--model")
            .set("engine.threads", self.threads.map(i64::from), "--threads")
            .set("engine.context_tokens", self.context_tokens.map(i64::from), "--context-tokens")
            .set("engine.backend", self.backend.as_deref(), "--backend")
            .set("offline", self.offline.then_some(true), "--offline");
    }
}

/// The settings in force and the terminal.
#[derive(Clone)]
pub(crate) struct Session {
    pub(crate) settings: Settings,
    pub(crate) console: Console,
    /// What the settings are made from.
    pub(crate) layers: Layers,
    /// Where those came from.
    pub(crate) given: Given,
}

impl Session {
    /// The same with the settings as their sources have them now; what should be warned of is written.
    ///
    /// # Errors
    /// [`CliError::Usage`] as at the start.
    pub(crate) fn reread(&self) -> Result<Self> {
        let (layers, warnings) = gather(self.given.clone())?;
        for warning in warnings {
            self.console.warn(&warning);
        }
        Ok(Self { settings: layers.settings()?, layers, ..self.clone() })
    }

    /// The model that is asked for.
    ///
    /// # Errors
    /// [`CliError::Model`] for a name that is none.
    pub(crate) fn model(&self) -> Result<ModelRef> {
        Ok(self.settings.model.parse()?)
    }

    pub(crate) fn store_options(&self) -> StoreOptions {
        StoreOptions {
            home: (!self.settings.home.is_empty()).then(|| expand_home(&self.settings.home)),
            offline: self.settings.offline,
            ..StoreOptions::default()
        }
    }

    pub(crate) fn store(&self) -> Result<Store> {
        Ok(Store::open(self.store_options())?)
    }

    pub(crate) fn load_options(&self) -> LoadOptions {
        let engine = &self.settings.engine;
        let bytes = |size: ByteSize| usize::try_from(size.0).unwrap_or(usize::MAX);
        LoadOptions {
            backend: engine.backend,
            threads: engine.threads,
            context_tokens: Some(engine.context_tokens).filter(|tokens| *tokens > 0),
            max_sequences: engine.max_sequences,
            kv_budget_bytes: engine.kv_memory.0.map(bytes),
            kv_precision: engine.kv_precision,
            queue_limit: engine.queue_limit,
            speculation: engine.speculation,
            ..LoadOptions::default()
        }
    }

    /// The pipeline that the settings describe. Loads nothing.
    ///
    /// # Errors
    /// [`CliError::Model`] for a model's name that is none, [`CliError::Usage`] for cache settings that bound nothing.
    pub(crate) fn service(&self) -> Result<Service> {
        Ok(Service::new(self.service_options()?)?)
    }

    /// The pipeline that the settings describe, for many who may ask more than the machine can answer.
    ///
    /// # Errors
    /// As [`service`](Self::service).
    pub(crate) fn shared_service(&self) -> Result<Service> {
        let mut options = self.service_options()?;
        let engine = &self.settings.engine;
        let first_token = engine.first_token_limit.duration();
        if first_token.is_some_and(|limit| limit.is_zero()) {
            return Err(CliError::usage(
                "the setting engine.first_token_limit is 0, which no answer can keep; `never` is no limit",
            ));
        }
        options.admission = AdmissionOptions { queue_tokens: engine.queue_tokens, first_token };
        let further = self.settings.models.0.iter().map(|name| name.parse());
        options.models = further.collect::<Result<_, ModelError>>()?;
        options.memory_budget = Some(engine.memory_budget.0).filter(|budget| *budget > 0);
        Ok(Service::new(options)?)
    }

    fn service_options(&self) -> Result<ServiceOptions> {
        let mut options = self.fresh_service_options()?;
        if self.settings.cache.enabled {
            let disk = self.disk_tier()?.map(|disk| Arc::new(disk) as Arc<dyn Tier>);
            options.tiers.extend(disk);
            options.tiers.extend(self.redis_tier()?);
        }
        Ok(options)
    }

    /// The pipeline that knows no answer yet: its cache is in memory alone.
    ///
    /// # Errors
    /// [`CliError::Model`] for a model's name that is none.
    pub(crate) fn fresh_service_options(&self) -> Result<ServiceOptions> {
        let cache = &self.settings.cache;
        let memory = || MemoryOptions::new().max_bytes(cache.memory.0).ttl(cache.ttl.duration());
        let options = self.bare_service_options()?;
        Ok(ServiceOptions { cache: cache.enabled.then(memory), ..options })
    }

    /// The pipeline without a cache.
    ///
    /// # Errors
    /// [`CliError::Model`] for a model's name that is none, [`CliError::Usage`] for settings that leave no room.
    pub(crate) fn bare_service_options(&self) -> Result<ServiceOptions> {
        let mut options = ServiceOptions::new(self.model()?);
        options.lazy = LazyOptions {
            store: self.store_options(),
            load: self.load_options(),
            keep_alive: self.settings.engine.keep_alive.0,
        };
        options.cache = None;
        let window = self.settings.engine.completion_window;
        if window < LEAST_WINDOW {
            return Err(CliError::usage(format!(
                "the setting engine.completion_window is {window}; {LEAST_WINDOW} at least"
            )));
        }
        options.limits.completion_window = window;
        // Whoever asks is alone, and knows how much that is.
        options.admission.queue_tokens = usize::MAX;
        Ok(options)
    }

    /// The file of answers; `None` where the settings turn it off. Opens nothing.
    ///
    /// # Errors
    /// [`CliError::Usage`] for a size that is too small.
    pub(crate) fn disk_tier(&self) -> Result<Option<DiskTier>> {
        let cache = &self.settings.cache;
        if cache.disk.0 == 0 {
            return Ok(None);
        }
        let path = match cache.disk_file.as_str() {
            "" => self.store()?.home().join("cache").join("answers.redb"),
            file => expand_home(file),
        };
        let disk = DiskOptions::new(path).max_bytes(cache.disk.0).build();
        disk.map(Some).map_err(|error| CliError::usage(format!("the setting cache.disk: {error}")))
    }

    /// The file of API keys; `None` where the settings turn it off. Opens nothing.
    ///
    /// # Errors
    /// When there is no folder for it.
    pub(crate) fn key_file(&self) -> Result<Option<KeyFile>> {
        Ok(match self.settings.server.key_file.trim() {
            "none" => None,
            "" => Some(KeyFile::at(self.store()?.home().join("keys.json"))),
            file => Some(KeyFile::at(expand_home(file))),
        })
    }

    #[cfg(feature = "redis")]
    fn redis_tier(&self) -> Result<Option<Arc<dyn Tier>>> {
        use hapa_service::RedisOptions;
        let nodes: Vec<&str> = self.settings.cache.redis.split(',').map(str::trim).collect();
        let options = match nodes[..] {
            [""] => return Ok(None),
            [server] => RedisOptions::new(server),
            _ => RedisOptions::cluster(nodes),
        };
        match options.build() {
            Ok(tier) => Ok(Some(Arc::new(tier))),
            Err(error) => Err(CliError::usage(format!("the setting cache.redis: {error}"))),
        }
    }

    #[cfg(not(feature = "redis"))]
    fn redis_tier(&self) -> Result<Option<Arc<dyn Tier>>> {
        if self.settings.cache.redis.trim().is_empty() {
            return Ok(None);
        }
        Err(CliError::usage(
            "the setting cache.redis needs a `hapa` built with `cargo build --features redis`",
        ))
    }

    /// Runs work that uses a service; Ctrl-C cancels it and waits until a load has put things in order.
    ///
    /// # Errors
    /// Those of the work; [`CliError::Stopped`].
    pub(crate) fn run<T>(
        &self,
        model: &LazyModel,
        work: impl Future<Output = Result<T>>,
    ) -> Result<T> {
        let mut state = model.subscribe();
        let wind_down = async move {
            let _ = state.wait_for(|state| !matches!(state, LoadState::Loading { .. })).await;
        };
        interrupt::run(&self.console, work, wind_down)
    }

    /// Runs a load test, which blocks. Ctrl-C breaks it off, and what it found until then is given all the same, with
    /// the signal.
    ///
    /// # Errors
    /// Those of the work.
    pub(crate) fn run_kept<T: Send + 'static>(
        &self,
        control: &Control,
        work: impl FnOnce(&Control) -> Result<T> + Send + 'static,
    ) -> Result<(T, Option<Signal>)> {
        let worker = control.clone();
        let thread = std::thread::Builder::new().name("hapa-load".to_owned());
        let (ended, has_ended) = oneshot::channel::<()>();
        let body = move || {
            let _ended = ended;
            work(&worker)
        };
        let thread = thread
            .spawn(body)
            .map_err(|e| CliError::Failed(format!("could not start a thread: {e}")))?;
        let gone = async {
            let _ = has_ended.await;
        }
        .shared();
        let waiting = gone.clone();
        let work = async move {
            waiting.await;
            Ok(())
        };
        let wind_down = async {
            control.stop();
            gone.await;
        };
        let stopped = match interrupt::run(&self.console, work, wind_down) {
            Ok(()) => None,
            Err(CliError::Stopped(signal)) => Some(signal),
            Err(error) => return Err(error),
        };
        let died = |_| CliError::Failed("the thread that did the work died".to_owned());
        Ok((thread.join().map_err(died)??, stopped))
    }

    /// [`run`](Self::run), and what was answered is on disk when it returns.
    ///
    /// # Errors
    /// As [`run`](Self::run).
    pub(crate) fn run_and_keep<T>(
        &self,
        service: &Service,
        work: impl Future<Output = Result<T>>,
    ) -> Result<T> {
        self.run(service.model(), async {
            let outcome = work.await;
            // Results are printed by now. A tier that hangs must not hold the program.
            let _ = tokio::time::timeout(KEEPING, service.flush_cache()).await;
            outcome
        })
    }

    /// Runs blocking work that reports to a sink; Ctrl-C tells it to stop and waits until it has.
    ///
    /// # Errors
    /// Those of the work; [`CliError::Stopped`].
    pub(crate) fn run_shown<T: Send + 'static>(
        &self,
        work: impl FnOnce(&ShownLoad) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let (sink, cancel) = ShownLoad::new(&self.console);
        let (done, ended) = oneshot::channel();
        let (gone, is_gone) = oneshot::channel::<()>();
        let thread = std::thread::Builder::new().name("hapa-work".to_owned());
        let body = move || {
            let result = work(&sink);
            // The bar goes before anything else is written.
            drop(sink);
            let _ = done.send(result);
            drop(gone);
        };
        thread
            .spawn(body)
            .map_err(|e| CliError::Failed(format!("could not start a thread: {e}")))?;
        let work = async move {
            let _cancel = cancel;
            let died = |_| CliError::Failed("the thread that did the work died".to_owned());
            ended.await.map_err(died)?
        };
        let wind_down = async move {
            let _ = is_gone.await;
        };
        interrupt::run(&self.console, work, wind_down)
    }
}

/// `~/x` below the user's home.
pub(crate) fn expand_home(path: &str) -> PathBuf {
    match (path.strip_prefix("~/"), std::env::home_dir()) {
        (Some(rest), Some(home)) => home.join(rest),
        _ => PathBuf::from(path),
    }
}

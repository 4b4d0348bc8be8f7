//! The workers: threads with a runtime each, which keep their connections from phase to phase.

use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::sync::mpsc as results;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use tokio::sync::mpsc as jobs;
use tokio::task::LocalSet;

use super::control::Control;
use super::cpu;
use super::phase::{Goal, Phase};
use super::plan::Settings;
use super::slots::{Bench, Seat};
use crate::client::Pool;
use crate::error::LoadError;
use crate::load::{Limit, Load};
use crate::measure::Recorder;
use crate::report::Objectives;

/// Time for all workers to hear of a phase before it begins.
const LEAD: Duration = Duration::from_millis(2);

pub(super) struct Fleet {
    workers: Vec<(jobs::UnboundedSender<Arc<Phase>>, JoinHandle<()>)>,
    recorders: results::Receiver<Recorder>,
    settings: Settings,
    control: Control,
    next_request: u64,
}

/// A phase in few words.
pub(super) struct Stretch {
    pub(super) name: String,
    pub(super) goal: Arc<Goal>,
    pub(super) load: Load,
    pub(super) limit: Limit,
    pub(super) objectives: Objectives,
}

impl Fleet {
    pub(super) fn start(settings: &Settings, control: &Control) -> Result<Self, LoadError> {
        let (finished, recorders) = results::channel();
        let count = settings.workers.max(1);
        let mut workers = Vec::with_capacity(count);
        for worker in 0..count {
            let (job, phases) = jobs::unbounded_channel();
            let finished = finished.clone();
            let seat = Seat { worker, workers: count };
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .map_err(LoadError::Start)?;
            let thread = std::thread::Builder::new()
                .name(format!("hapa-load-{worker}"))
                .spawn(move || {
                    let local = LocalSet::new();
                    local.block_on(&runtime, work(seat, phases, finished));
                })
                .map_err(LoadError::Start)?;
            workers.push((job, thread));
        }
        let (settings, control) = (settings.clone(), control.clone());
        Ok(Self { workers, recorders, settings, control, next_request: 0 })
    }

    /// Runs a phase on all workers, and gives what they noted.
    pub(super) fn run(&mut self, stretch: Stretch) -> Result<Recorder, LoadError> {
        // A recorded request asks what was recorded for it.
        let first = if stretch.load.is_trace() { 0 } else { self.next_request };
        let (recorder, begun) = self.run_from(stretch, first)?;
        self.next_request = first + begun;
        Ok(recorder)
    }

    /// The same with the prompts from a stated number on; how many requests were begun is given too.
    pub(super) fn run_from(
        &mut self,
        stretch: Stretch,
        first_request: u64,
    ) -> Result<(Recorder, u64), LoadError> {
        let Stretch { name, goal, load, limit, objectives } = stretch;
        load.check()?;
        self.control.begin(name, limit);
        let start = Instant::now() + LEAD;
        let phase = Arc::new(Phase {
            goal,
            load,
            limit,
            timeout: self.settings.timeout,
            objectives,
            give_up_after: self.settings.give_up_after,
            control: self.control.clone(),
            start,
            first_request,
            begun: AtomicU64::new(0),
        });
        for (job, _) in &self.workers {
            job.send(phase.clone()).map_err(|_| LoadError::WorkerLost)?;
        }
        let mut all = Recorder::new(start, objectives);
        for _ in &self.workers {
            all.add(&self.recorders.recv().map_err(|_| LoadError::WorkerLost)?);
        }
        Ok((all, phase.begun.load(std::sync::atomic::Ordering::Relaxed)))
    }
}

impl Drop for Fleet {
    fn drop(&mut self) {
        for (job, thread) in self.workers.drain(..) {
            drop(job);
            let _ = thread.join();
        }
    }
}

async fn work(
    seat: Seat,
    mut phases: jobs::UnboundedReceiver<Arc<Phase>>,
    finished: results::Sender<Recorder>,
) {
    let mut pools: HashMap<usize, Rc<Pool>> = HashMap::new();
    while let Some(phase) = phases.recv().await {
        let pool = pools.entry(phase.goal.id).or_default().clone();
        let (opened, cpu) = (pool.opened(), cpu::thread_seconds());
        let bench = Bench::new(phase, pool);
        bench.work(seat).await;
        let mut recorder = bench.recorder.borrow_mut();
        recorder.connections = bench.pool.opened() - opened;
        recorder.cpu_seconds = match (cpu, cpu::thread_seconds()) {
            (Some(before), Some(after)) => Some(after - before),
            _ => None,
        };
        let fresh = Recorder::new(Instant::now(), Objectives::default());
        if finished.send(std::mem::replace(&mut *recorder, fresh)).is_err() {
            return;
        }
    }
}

//! The embedded engine: llama.cpp on one thread of its own, which owns model and context.
//! INVARIANT: only this thread touches the context; others see its vocabulary, which never changes.
//! llama.cpp may abort the process; that is why this is a process of its own, with nothing durable in it.

mod embed;
mod generate;
mod live;
mod load;
mod native;
mod wardrobe;

use std::path::PathBuf;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Instant;

use tokio::sync::{mpsc, oneshot};

pub(crate) use load::backends;
pub(crate) use native::{Quantization, quantize};

use crate::gguf::Header;
use crate::job::Job;
use crate::loaded::{Loaded, Task};
use crate::metrics::Metrics;
use crate::refusal::Refusal;

/// What to load, and how large.
#[derive(Debug, Clone)]
pub(crate) struct Settings {
    pub model: PathBuf,
    /// Tokens per sequence.
    pub context: usize,
    pub sequences: usize,
    pub threads: usize,
    pub task: Task,
    pub baseline: Baseline,
}

/// Whether a processor without wide vector instructions is accepted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Baseline {
    Refuse,
    Accept,
}

/// The engine thread.
#[derive(Debug)]
pub(crate) struct Engine {
    thread: JoinHandle<()>,
}

impl Engine {
    /// Starts the thread; `ready` is told when the first token has been computed, or why that is not possible.
    pub(crate) fn start(
        settings: Settings,
        header: Header,
        jobs: mpsc::Receiver<Job>,
        metrics: Arc<Metrics>,
        ready: oneshot::Sender<Result<Loaded, Refusal>>,
    ) -> std::io::Result<Self> {
        let thread = std::thread::Builder::new().name("engine".into()).spawn(move || {
            run(&settings, &header, jobs, metrics, ready);
        })?;
        Ok(Self { thread })
    }

    /// Waits for the thread, which ends after `Job::Stop`. False when it panicked.
    pub(crate) fn join(self) -> bool {
        self.thread.join().is_ok()
    }
}

fn run(
    settings: &Settings,
    header: &Header,
    jobs: mpsc::Receiver<Job>,
    metrics: Arc<Metrics>,
    ready: oneshot::Sender<Result<Loaded, Refusal>>,
) {
    let started = Instant::now();
    let opened = match load::open(settings) {
        Ok(opened) => opened,
        Err(refusal) => return tell(ready, Err(refusal)),
    };
    let context = match load::context(&opened, settings) {
        Ok(context) => context,
        Err(refusal) => return tell(ready, Err(refusal)),
    };
    let loaded = |load_ms| load::describe(&opened, settings, header, load_ms);
    let load_ms = || u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX);
    match settings.task {
        Task::Generate => {
            let mut generator = generate::Generator::new(&opened.model, context, settings, jobs, metrics);
            match generator.warm_up().and_then(|()| loaded(load_ms())) {
                Ok(loaded) => tell(ready, Ok(loaded)),
                Err(refusal) => return tell(ready, Err(refusal)),
            }
            native::announce_ready();
            generator.run();
        }
        Task::Embed => {
            let mut embedder = embed::Embedder::new(context, settings, jobs, metrics);
            match embedder.warm_up().and_then(|()| loaded(load_ms())) {
                Ok(loaded) => tell(ready, Ok(loaded)),
                Err(refusal) => return tell(ready, Err(refusal)),
            }
            native::announce_ready();
            embedder.run();
        }
    }
}

fn tell(ready: oneshot::Sender<Result<Loaded, Refusal>>, what: Result<Loaded, Refusal>) {
    if ready.send(what).is_err() {
        tracing::warn!("nobody waits for the engine any more");
    }
}

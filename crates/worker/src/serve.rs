//! A worker's life: check, plan, load, open the door, serve, drain.
//! Whoever starts it reads one JSON line on stdout: ready with the address, or refused with code, message and hint.
//! It ends when its standard input ends, so it never outlives its parent.

use std::io::Read as _;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use axum::serve::ListenerExt as _;
use serde_json::json;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;

use crate::engine::{Baseline, Engine, Settings};
use crate::gguf::{self, Header};
use crate::http::{App, router};
use crate::job::Queue;
use crate::limits;
use crate::loaded::{Loaded, Task};
use crate::machine;
use crate::memory::Plan;
use crate::metrics::Metrics;
use crate::refusal::Refusal;

/// What to serve, as typed.
#[derive(Debug, Clone)]
pub struct Options {
    pub model: PathBuf,
    pub name: String,
    /// Tokens per sequence; the default is `DEFAULT_CONTEXT` or what the model was trained for, whichever is less.
    pub context: Option<usize>,
    pub sequences: usize,
    pub threads: Option<usize>,
    pub listen: SocketAddr,
    /// Requests that may wait.
    pub queue: usize,
    pub embeddings: bool,
    pub allow_baseline: bool,
    /// Where the files of adapters lie; without it none are taken.
    pub adapters: Option<PathBuf>,
}

const DEFAULT_CONTEXT: usize = 4096;

/// How a worker ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// As asked.
    Asked,
    /// The engine died under it.
    EngineDied,
}

/// What is served, after the checks.
#[derive(Debug)]
struct Planned {
    options: Options,
    header: Header,
    context: usize,
    threads: usize,
    task: Task,
    memory: Plan,
}

/// Serves until told to stop.
pub fn serve(options: Options) -> Result<Ended, Refusal> {
    let planned = plan(options)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(|e| {
        Refusal::new(
            "engine_runtime",
            format!("the worker's runtime cannot be started: {e}"),
            "check the process limits",
        )
    })?;
    runtime.block_on(supervise(planned))
}

fn plan(options: Options) -> Result<Planned, Refusal> {
    let header = gguf::inspect(&options.model).map_err(|problem| problem.refusal(&options.model))?;
    let trained = usize::try_from(header.context_length).unwrap_or(usize::MAX).max(1);
    let context = options.context.unwrap_or_else(|| DEFAULT_CONTEXT.min(trained));
    if context == 0 || context > trained {
        return Err(Refusal::new(
            "engine_context",
            format!("a context of {context} tokens was asked for; the model was trained for {trained}"),
            format!("use --context with 1 to {trained}"),
        ));
    }
    if options.sequences == 0 || options.sequences > limits::SEQUENCES {
        return Err(Refusal::new(
            "engine_sequences",
            format!("{} sequences were asked for", options.sequences),
            format!("use --sequences with 1 to {}", limits::SEQUENCES),
        ));
    }
    let cores = machine::cores();
    let threads = machine::threads(options.threads, cores);
    if options.threads.is_some_and(|asked| asked != threads) {
        tracing::warn!(asked = options.threads, threads, cores, "compute threads cut to the cores available");
    }
    let task = if options.embeddings { Task::Embed } else { Task::Generate };
    let sequences = options.sequences as u64;
    let memory = match task {
        Task::Generate => Plan::new(&header, context as u64, sequences, limits::STEP_TOKENS as u64),
        // One step, one context long, nothing kept.
        Task::Embed => Plan::new(&header, context as u64, 1, context as u64),
    };
    if let Some(available) = machine::available_memory() {
        memory.check(available)?;
    }
    Ok(Planned { options, header, context, threads, task, memory })
}

async fn supervise(planned: Planned) -> Result<Ended, Refusal> {
    let listener = listen(planned.options.listen).await?;
    let metrics = Arc::new(Metrics::default());
    let (queue, jobs) = Queue::new(planned.options.queue, Arc::clone(&metrics));
    let folder = planned.options.adapters.clone();
    let app = Arc::new(
        App::new(planned.options.name.clone(), planned.task, queue.clone(), Arc::clone(&metrics)).with_adapters(folder),
    );
    let settings = Settings {
        model: planned.options.model.clone(),
        context: planned.context,
        sequences: planned.options.sequences,
        threads: planned.threads,
        task: planned.task,
        baseline: if planned.options.allow_baseline { Baseline::Accept } else { Baseline::Refuse },
    };
    let (ready, loading) = oneshot::channel();
    let engine = Engine::start(settings, planned.header.clone(), jobs, metrics, ready).map_err(|e| {
        Refusal::new(
            "engine_runtime",
            format!("the engine's thread cannot be started: {e}"),
            "check the process limits",
        )
    })?;
    let ended = attend(&planned, listener, &app, loading).await;
    queue.stop();
    let sound = tokio::task::spawn_blocking(move || engine.join()).await.unwrap_or(false);
    if !sound {
        tracing::error!("the engine thread panicked");
        return ended.and(Ok(Ended::EngineDied));
    }
    ended
}

/// Binds the port.
async fn listen(address: SocketAddr) -> Result<TcpListener, Refusal> {
    TcpListener::bind(address).await.map_err(|e| match e.kind() {
        std::io::ErrorKind::AddrInUse => Refusal::new(
            "port_in_use",
            format!("another process listens on {address}"),
            "choose another port with --listen, or 0 for any free one",
        ),
        _ => Refusal::new(
            "listen_failed",
            format!("cannot listen on {address}: {e}"),
            "choose another address with --listen",
        ),
    })
}

/// Serves HTTP while the model loads (with 503) and after, until something ends it; then drains.
async fn attend(
    planned: &Planned,
    listener: TcpListener,
    app: &Arc<App>,
    loading: oneshot::Receiver<Result<Loaded, Refusal>>,
) -> Result<Ended, Refusal> {
    let address = listener.local_addr().ok();
    let door = CancellationToken::new();
    let listener = listener.tap_io(|stream| {
        // Small writes must not wait for acknowledgements: 44 ms per token otherwise.
        if let Err(e) = stream.set_nodelay(true) {
            tracing::debug!(error = %e, "a connection keeps Nagle's algorithm");
        }
    });
    let server = axum::serve(listener, router(Arc::clone(app))).with_graceful_shutdown(door.clone().cancelled_owned());
    let mut server = std::pin::pin!(server.into_future());
    let mut ends = Ends::watch()?;
    let loaded = tokio::select! {
        loaded = loading => loaded.unwrap_or_else(|_| Err(Refusal::new(
            "engine_load", "the engine ended while it loaded the model", "the log on stderr has the reason"))),
        _ = &mut server => return Ok(Ended::EngineDied),
        _ = ends.next() => return Ok(Ended::Asked),
    };
    announce(planned, address, app.set_loaded(loaded?));
    let patience = tokio::select! {
        patience = ends.next() => patience,
        () = app.queue.closed() => {
            tracing::error!("the engine has ended unexpectedly");
            return Ok(Ended::EngineDied);
        }
        _ = &mut server => return Ok(Ended::EngineDied),
    };
    tracing::info!(running = app.metrics.running.get(), "stopping");
    app.drain();
    door.cancel();
    if tokio::time::timeout(patience, server).await.is_err() {
        tracing::warn!(running = app.metrics.running.get(), "stopped before all requests were answered");
    }
    Ok(Ended::Asked)
}

fn announce(planned: &Planned, address: Option<SocketAddr>, loaded: &Loaded) {
    let resident = machine::resident_memory().unwrap_or(0);
    let facts = json!({
        "ready": true,
        "addr": address.map(|address| address.to_string()),
        "backend": loaded.backend,
        "context": loaded.context,
        "sequences": planned.options.sequences,
        "abilities": { "fills_gaps": loaded.fills_gaps(), "calls_functions": loaded.calls_functions() },
        "threads": planned.threads,
        "model_bytes": planned.header.file_bytes,
        "memory_bytes": planned.memory.total(),
        "resident_bytes": resident,
        "load_ms": loaded.load_ms,
    });
    tracing::info!(%facts, "ready");
    say(&facts);
}

/// One line on stdout for the process that started this one.
pub fn say(line: &serde_json::Value) {
    use std::io::Write as _;
    let mut out = std::io::stdout().lock();
    if writeln!(out, "{line}").and_then(|()| out.flush()).is_err() {
        tracing::warn!("nobody reads standard output");
    }
}

/// What ends a worker.
struct Ends {
    terminate: tokio::signal::unix::Signal,
    interrupt: tokio::signal::unix::Signal,
    orphaned: CancellationToken,
}

impl Ends {
    fn watch() -> Result<Self, Refusal> {
        let refusal = |e: std::io::Error| {
            Refusal::new("engine_runtime", format!("signals cannot be watched: {e}"), "check the process limits")
        };
        let orphaned = CancellationToken::new();
        let told = orphaned.clone();
        // Reading blocks without end: a thread of its own, which dies with the process.
        std::thread::Builder::new()
            .name("stdin".into())
            .spawn(move || {
                let mut sink = [0; 256];
                let mut input = std::io::stdin().lock();
                while input.read(&mut sink).is_ok_and(|n| n > 0) {}
                told.cancel();
            })
            .map_err(refusal)?;
        Ok(Self {
            terminate: signal(SignalKind::terminate()).map_err(refusal)?,
            interrupt: signal(SignalKind::interrupt()).map_err(refusal)?,
            orphaned,
        })
    }

    /// Waits for an end; says how long running requests may take.
    async fn next(&mut self) -> Duration {
        tokio::select! {
            _ = self.terminate.recv() => limits::DRAIN,
            _ = self.interrupt.recv() => limits::DRAIN,
            () = self.orphaned.cancelled() => {
                tracing::info!("standard input has ended: the parent is gone");
                Duration::ZERO
            }
        }
    }
}

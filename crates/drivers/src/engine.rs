//! Worker processes: started, watched, stopped; and the health of any engine that speaks OpenAI's HTTP.
//!
//! The standard input of a worker is a pipe that we hold: when this process ends in any way, the worker reads its end
//! and goes too. INVARIANT: a worker is running exactly while `RunningReplica::exited` shows nothing.
//! Deliberately absent: when to start or restart one (`control` decides), and what the engine computes.

mod exit;
mod log_file;
mod probe;
mod quantise;
mod replica;

use std::path::PathBuf;
use std::time::Duration;

use galerne_model::inference::Abilities;

pub use exit::Exit;
pub use probe::{Health, ProbeTarget, Prober};
pub use quantise::quantise;
pub use replica::RunningReplica;

/// What to start.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WorkerSpec {
    /// The `galerne-worker` executable.
    pub program: PathBuf,
    /// The weights.
    pub model: PathBuf,
    /// Name the worker answers to.
    pub name: String,
    /// Context of one sequence in tokens; the worker's own choice when absent.
    pub context_tokens: Option<u32>,
    /// Sequences decoded together; the worker's own choice when absent.
    pub sequences: Option<u32>,
    /// Threads; the worker's own choice when absent.
    pub threads: Option<u32>,
    /// Requests that may wait inside the worker; its own choice when absent.
    pub queue: Option<u32>,
    /// What it computes.
    pub task: WorkerTask,
    /// Where its log goes; the file and one older one beside it stay bounded.
    pub log: PathBuf,
    /// Longest time from start to ready.
    pub start_deadline: Duration,
}

/// What a worker computes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WorkerTask {
    /// Text.
    Generate,
    /// Embeddings.
    Embed,
}

/// What a worker said when it was ready.
#[derive(Debug, Clone, PartialEq, Eq, serde::Deserialize)]
pub struct Ready {
    /// Its listening address.
    pub addr: std::net::SocketAddr,
    /// The compute back end it chose, in words.
    #[serde(default)]
    pub backend: String,
    /// Context of one sequence in tokens.
    #[serde(default)]
    pub context: u32,
    /// Sequences decoded together.
    #[serde(default)]
    pub sequences: u32,
    /// What its model can; absent with a worker that does not say.
    #[serde(default)]
    pub abilities: Option<Abilities>,
    /// Bytes of the weights.
    #[serde(default)]
    pub model_bytes: u64,
    /// Memory it planned for.
    #[serde(default)]
    pub memory_bytes: u64,
    /// Time it took to load.
    #[serde(default)]
    pub load_ms: u64,
}

impl Ready {
    /// Base URL before `/v1`.
    pub fn url(&self) -> String {
        format!("http://{}", self.addr)
    }
}

/// Why an engine did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// The executable is not there or not executable.
    #[error("the worker program `{}` could not be started", .program.display())]
    Spawn {
        /// The program.
        program: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// Its log cannot be written.
    #[error("the log file `{}` could not be opened", .path.display())]
    Log {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The worker looked at the model and said no; its words.
    #[error("{message}")]
    Refused {
        /// Its stable code.
        code: String,
        /// What and why.
        message: String,
        /// What to do.
        hint: Option<String>,
    },
    /// It ended before it was ready.
    #[error("the worker ended before it was ready: {exit}")]
    Ended {
        /// How.
        exit: Exit,
    },
    /// It said something that is not the agreed line.
    #[error("the worker's first line is not what was agreed: `{line}`")]
    BadReadyLine {
        /// What it said, cut.
        line: String,
    },
    /// It took too long.
    #[error("the worker was not ready within {} s", .deadline.as_secs())]
    NotReadyInTime {
        /// The deadline.
        deadline: Duration,
        /// The end of its log.
        last_lines: Vec<String>,
    },
    /// Requantising ended without a word.
    #[error("requantising failed: {exit}")]
    Quantise {
        /// How the worker ended.
        exit: Exit,
    },
    /// Requantising took too long.
    #[error("requantising took longer than {} s", .deadline.as_secs())]
    QuantiseTimeout {
        /// The deadline.
        deadline: Duration,
    },
    /// Someone stopped it.
    #[error("it was cancelled")]
    Cancelled,
}

impl EngineError {
    /// Public error code; each has a page in `docs/errors`. The worker's own, finer code stays in `Refused`.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Spawn { .. } => "worker_missing",
            Self::Log { .. } => "data_dir_unusable",
            Self::Refused { code, .. } => public_code(code),
            Self::Ended { .. } | Self::BadReadyLine { .. } | Self::NotReadyInTime { .. } => "replica_failed",
            Self::Quantise { .. } | Self::QuantiseTimeout { .. } => "requantise_failed",
            Self::Cancelled => "wrong_state",
        }
    }

    /// The next step for a person.
    pub fn hint(&self) -> Option<&str> {
        match self {
            Self::Spawn { .. } => Some("build it with `make`, or point to it with `--worker PATH` or GALERNE_WORKER"),
            Self::Refused { hint, .. } => hint.as_deref(),
            Self::Ended { .. } | Self::NotReadyInTime { .. } => Some("the replica's log file holds what it said"),
            Self::Log { .. }
            | Self::BadReadyLine { .. }
            | Self::Quantise { .. }
            | Self::QuantiseTimeout { .. }
            | Self::Cancelled => None,
        }
    }

    /// Whether another start of the same spec can end differently. A refusal stays one until the spec or the host changes.
    pub fn is_retryable(&self) -> bool {
        !matches!(self, Self::Refused { .. } | Self::Spawn { .. } | Self::Cancelled)
    }
}

/// The public code for a worker's refusal.
fn public_code(worker_code: &str) -> &'static str {
    match worker_code {
        "engine_memory" | "engine_buffers" => "not_enough_memory",
        "engine_context" | "engine_sequences" => "invalid_value",
        "engine_baseline_cpu" => "engine_too_slow",
        "engine_absent" | "engine_backend" => "worker_missing",
        "engine_load" | "engine_abort" | "engine_warm_up" | "model_template" => "model_unsupported",
        "model_missing" | "model_unreadable" => "weights_unreadable",
        "model_invalid" => "gguf_invalid",
        "quantize_failed" => "requantise_failed",
        "port_in_use" | "listen_failed" => "address_in_use",
        // `engine_runtime` (threads, signals), `log_filter`, and what a newer worker may say.
        _ => "replica_failed",
    }
}

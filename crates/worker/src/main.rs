//! `galerne-worker`: parse arguments, start what was asked; no logic.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};
use galerne_worker::bench::{self, Mode};
use galerne_worker::complaint;
use galerne_worker::quantize::{self, Format};
use galerne_worker::refusal::Refusal;
use galerne_worker::serve::{self, Ended, Options};
use serde_json::{Value, json};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::layer::{Layer as _, SubscriberExt as _};
use tracing_subscriber::util::SubscriberInitExt as _;

/// Serves one model in one process over an OpenAI-compatible port.
#[derive(Debug, Parser)]
#[command(name = "galerne-worker", version)]
struct Arguments {
    /// What to log on stderr, as JSON lines.
    #[arg(long, global = true, env = "GALERNE_WORKER_LOG", default_value = "info,llama-cpp-2=error")]
    log: String,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Load a model and answer requests until standard input ends or SIGTERM comes.
    Serve(ServeArguments),
    /// Write a model in another format.
    Quantize(QuantizeArguments),
    /// Measure the bare engine, and a server running the same model against it.
    Bench(BenchArguments),
}

#[derive(Debug, Args)]
struct ServeArguments {
    /// The model, a GGUF file.
    #[arg(long)]
    model: PathBuf,
    /// The name requests ask for.
    #[arg(long)]
    name: String,
    /// Tokens of prompt and answer per sequence [default: 4096, or less if the model was trained for less].
    #[arg(long)]
    context: Option<usize>,
    /// Requests answered at once.
    #[arg(long, default_value_t = 4)]
    sequences: usize,
    /// Compute threads [default: the cores available but one].
    #[arg(long)]
    threads: Option<usize>,
    /// Address to listen on; port 0 takes any free one.
    #[arg(long, default_value = "127.0.0.1:0")]
    listen: SocketAddr,
    /// Requests that may wait; more are refused with 503.
    #[arg(long, default_value_t = 64)]
    queue: usize,
    /// Serve embeddings instead of answers.
    #[arg(long)]
    embeddings: bool,
    /// Accept a processor without AVX2 (or NEON with dot products), five to ten times slower.
    #[arg(long)]
    allow_baseline: bool,
    /// Folder of adapters (LoRA, GGUF): its files may be attached and detached while serving, by whoever reaches the port.
    #[arg(long, value_name = "FOLDER")]
    adapters: Option<PathBuf>,
}

#[derive(Debug, Args)]
struct QuantizeArguments {
    /// The model to read.
    input: PathBuf,
    /// The file to write; it must not exist.
    output: PathBuf,
    /// The format to write; both have kernels that Q4_1 has not.
    #[arg(long = "type", value_enum)]
    to: Format,
    /// Threads [default: the cores available].
    #[arg(long)]
    threads: Option<usize>,
}

#[derive(Debug, Args)]
struct BenchArguments {
    /// The model, a GGUF file.
    #[arg(long)]
    model: PathBuf,
    /// Prompt tokens per second, or generated tokens per second.
    #[arg(long, value_enum)]
    mode: Mode,
    /// Compute threads of the bare engine [default: the cores available but one].
    #[arg(long)]
    threads: Option<usize>,
    /// Sequences at once (generation only).
    #[arg(long, default_value_t = 1)]
    sequences: usize,
    /// Tokens of the prompt, or generated per sequence.
    #[arg(long, default_value_t = 128)]
    tokens: usize,
    /// Measured rounds; the median counts.
    #[arg(long, default_value_t = 5)]
    reps: usize,
    /// A server of the same model, measured in turn with the bare engine: http://HOST:PORT
    #[arg(long)]
    through: Option<String>,
    /// The model's name at that server.
    #[arg(long, default_value = "")]
    name: String,
    /// An API key for that server.
    #[arg(long, env = "GALERNE_API_KEY", hide_env_values = true)]
    key: Option<String>,
}

/// Exit status of a refusal to start.
const REFUSED: u8 = 3;

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let filter = match EnvFilter::builder().parse(&arguments.log) {
        Ok(filter) => filter,
        Err(e) => {
            let hint = "give levels as in `info,llama-cpp-2=warn`";
            return refuse(&Refusal::new(
                "log_filter",
                format!("`--log {}` is not a filter: {e}", arguments.log),
                hint,
            ));
        }
    };
    let log = tracing_subscriber::fmt::layer().json().with_writer(std::io::stderr).with_filter(filter);
    tracing_subscriber::registry().with(log).with(complaint::layer()).init();
    match arguments.command {
        Command::Serve(serve) => match serve::serve(serve.into()) {
            Ok(Ended::Asked) => ExitCode::SUCCESS,
            Ok(Ended::EngineDied) => ExitCode::FAILURE,
            Err(refusal) => refuse(&refusal),
        },
        Command::Quantize(a) => report(quantize::quantize(&a.input, &a.output, a.to, a.threads)),
        Command::Bench(a) => report(bench::run(&bench::Options {
            model: a.model,
            mode: a.mode,
            threads: a.threads,
            sequences: a.sequences,
            tokens: a.tokens,
            reps: a.reps,
            through: a.through.map(|url| bench::Server { url, name: a.name, key: a.key }),
        })),
    }
}

fn report(outcome: Result<Value, Refusal>) -> ExitCode {
    match outcome {
        Ok(facts) => {
            serve::say(&facts);
            ExitCode::SUCCESS
        }
        Err(refusal) => refuse(&refusal),
    }
}

fn refuse(refusal: &Refusal) -> ExitCode {
    let Refusal { code, message, hint } = refusal;
    tracing::error!(code, why = %message, %hint, "refused");
    serve::say(&json!({"ready": false, "code": code, "message": message, "hint": hint}));
    ExitCode::from(REFUSED)
}

impl From<ServeArguments> for Options {
    fn from(a: ServeArguments) -> Self {
        Self {
            model: a.model,
            name: a.name,
            context: a.context,
            sequences: a.sequences,
            threads: a.threads,
            listen: a.listen,
            queue: a.queue,
            embeddings: a.embeddings,
            allow_baseline: a.allow_baseline,
            adapters: a.adapters,
        }
    }
}

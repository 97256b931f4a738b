//! One worker process from start to end.

use std::process::Stdio;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use tokio::io::{AsyncRead, AsyncReadExt as _};
use tokio::process::{Child, ChildStdin, Command};
use tokio::sync::{mpsc, watch};
use tokio::time::timeout;
use tokio_util::task::TaskTracker;

use super::log_file::{LineSplitter, LogFile};
use super::{EngineError, Exit, Ready, WorkerSpec, WorkerTask};

/// Longest ready line: a refusal with its numbers is below 1 kB.
const READY_LINE_MAX_BYTES: u64 = 64 * 1024;
/// Time a worker has when its handle is dropped instead of stopped: something went wrong above, so it is short.
const ORPHAN_GRACE: Duration = Duration::from_secs(5);
/// Time for the kernel to end a killed process and for us to read its last words.
const KILL_PATIENCE: Duration = Duration::from_secs(10);

type SharedLog = Arc<Mutex<LogFile>>;

/// A worker that said it was ready. Dropping it ends the worker.
#[derive(Debug)]
pub struct RunningReplica {
    ready: Ready,
    pid: u32,
    stop: mpsc::Sender<Duration>,
    exited: watch::Receiver<Option<Exit>>,
}

impl RunningReplica {
    /// Starts a worker and waits until it is ready. Dropping the future kills what was started.
    pub async fn start(spec: &WorkerSpec, tasks: &TaskTracker) -> Result<Self, EngineError> {
        let log = LogFile::open(&spec.log).map_err(|source| EngineError::Log { path: spec.log.clone(), source })?;
        let log = Arc::new(Mutex::new(log));
        let mut child =
            command(spec).spawn().map_err(|source| EngineError::Spawn { program: spec.program.clone(), source })?;
        // `wait` would close standard input, which is what keeps the worker alive.
        let stdin = child.stdin.take();
        let stderr_done = child.stderr.take().map(|stderr| tasks.spawn(keep_log(stderr, Arc::clone(&log))));
        let mut stdout = child.stdout.take();
        let line = match timeout(spec.start_deadline, read_line(&mut stdout)).await {
            Ok(line) => line,
            Err(_) => {
                end_at_once(&mut child).await;
                let last_lines = last_lines(&log);
                return Err(EngineError::NotReadyInTime { deadline: spec.start_deadline, last_lines });
            }
        };
        let ready = match judge_line(&line) {
            Ok(ready) => ready,
            Err(verdict) => {
                let error = verdict.unwrap_or_else(|| EngineError::BadReadyLine { line: cut(&line) });
                if line.is_empty() {
                    return Err(EngineError::Ended { exit: reap(&mut child, stderr_done, &log).await });
                }
                end_at_once(&mut child).await;
                return Err(error);
            }
        };
        let pid = child.id().unwrap_or_default();
        let (stop, stops) = mpsc::channel(1);
        let (tell, exited) = watch::channel(None);
        let watched = Watched { child, stdin, stdout, stderr_done, log };
        tasks.spawn(watched.run(stops, tell));
        Ok(Self { ready, pid, stop, exited })
    }

    /// What it said when it was ready.
    pub fn ready(&self) -> &Ready {
        &self.ready
    }

    /// Base URL before `/v1`.
    pub fn url(&self) -> String {
        self.ready.url()
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// Shows how it ended, once it has.
    pub fn exited(&self) -> watch::Receiver<Option<Exit>> {
        self.exited.clone()
    }

    /// Asks it to finish its requests, ends it after `grace`, and tells how it went.
    pub async fn stop(&self, grace: Duration) -> Exit {
        if self.stop.try_send(grace).is_err() {
            tracing::debug!(pid = self.pid, "worker is being stopped or has ended already");
        }
        let mut exited = self.exited.clone();
        let unknown = Exit { code: None, signal: None, was_asked: true, last_lines: Vec::new() };
        match timeout(grace + 2 * KILL_PATIENCE, exited.wait_for(Option::is_some)).await {
            Ok(Ok(exit)) => exit.clone().unwrap_or(unknown),
            Ok(Err(_)) | Err(_) => unknown,
        }
    }
}

fn command(spec: &WorkerSpec) -> Command {
    let mut command = Command::new(&spec.program);
    command.arg("serve").arg("--model").arg(&spec.model).args(["--name", &spec.name]);
    let numbers = [
        ("--context", spec.context_tokens),
        ("--sequences", spec.sequences),
        ("--threads", spec.threads),
        ("--queue", spec.queue),
    ];
    for (flag, value) in numbers {
        if let Some(value) = value {
            command.args([flag, &value.to_string()]);
        }
    }
    if spec.task == WorkerTask::Embed {
        command.arg("--embeddings");
    }
    command
        // An abort's last words are its message, not the addresses of a program without symbols.
        .env("GGML_NO_BACKTRACE", "1")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        // Ctrl-C at the terminal is for us; we then drain the workers in order.
        .process_group(0)
        .kill_on_drop(true);
    command
}

/// The first line, without its end; empty when the stream ends first.
pub(super) async fn read_line(stream: &mut Option<impl AsyncRead + Unpin>) -> Vec<u8> {
    let mut line = Vec::new();
    let Some(stream) = stream else { return line };
    // One byte at a time: what follows the line stays in the pipe, and it is one short line per start.
    while let Ok(byte) = stream.read_u8().await {
        if byte == b'\n' || line.len() as u64 >= READY_LINE_MAX_BYTES {
            break;
        }
        line.push(byte);
    }
    line
}

#[derive(serde::Deserialize)]
struct FirstLine {
    ready: bool,
    #[serde(default)]
    code: String,
    #[serde(default)]
    message: String,
    hint: Option<String>,
}

/// Ready, or the worker's refusal, or nothing that was agreed.
fn judge_line(line: &[u8]) -> Result<Ready, Option<EngineError>> {
    match refusal(line) {
        Some(refused) => Err(Some(refused)),
        None => serde_json::from_slice(line).map_err(|_| None),
    }
}

/// The refusal that a worker's line states, if it is one.
pub(super) fn refusal(line: &[u8]) -> Option<EngineError> {
    let FirstLine { ready, code, message, hint } = serde_json::from_slice(line).ok()?;
    (!ready).then_some(EngineError::Refused { code, message, hint })
}

fn cut(line: &[u8]) -> String {
    String::from_utf8_lossy(line).chars().filter(|c| !c.is_control()).take(200).collect()
}

fn last_lines(log: &SharedLog) -> Vec<String> {
    log.lock().map(|log| log.last_lines()).unwrap_or_default()
}

/// Copies standard error into the log until the worker closes it. Writes go to the page cache: microseconds, so they
/// stay on this thread.
async fn keep_log(mut stderr: impl AsyncRead + Unpin, log: SharedLog) {
    let mut splitter = LineSplitter::default();
    let mut buffer = vec![0u8; 8 * 1024];
    let keep = |line: &[u8]| {
        if let Ok(mut log) = log.lock() {
            log.write(line);
        }
    };
    while let Ok(count) = stderr.read(&mut buffer).await {
        if count == 0 {
            break;
        }
        splitter.push(&buffer[..count], keep);
    }
    splitter.finish(keep);
}

async fn end_at_once(child: &mut Child) {
    if let Err(error) = timeout(KILL_PATIENCE, child.kill()).await.unwrap_or(Ok(())) {
        tracing::warn!(%error, "worker could not be killed");
    }
}

/// Waits for a process that has closed its output, and for its last words.
async fn reap(child: &mut Child, stderr_done: Option<tokio::task::JoinHandle<()>>, log: &SharedLog) -> Exit {
    let status = match timeout(KILL_PATIENCE, child.wait()).await {
        Ok(status) => status,
        Err(_) => {
            end_at_once(child).await;
            child.wait().await
        }
    };
    finish_log(stderr_done).await;
    exit_of(status, false, log)
}

/// Reads what is left in the pipe; a grandchild that still holds it is not waited for.
async fn finish_log(stderr_done: Option<tokio::task::JoinHandle<()>>) {
    if let Some(task) = stderr_done
        && timeout(Duration::from_secs(1), task).await.is_err()
    {
        tracing::debug!("the worker's log is still open after its end");
    }
}

fn exit_of(status: std::io::Result<std::process::ExitStatus>, was_asked: bool, log: &SharedLog) -> Exit {
    match status {
        Ok(status) => Exit::new(status, was_asked, last_lines(log)),
        Err(error) => Exit { code: None, signal: None, was_asked, last_lines: vec![error.to_string()] },
    }
}

/// A running worker and its pipes, owned by the task that watches it.
struct Watched {
    child: Child,
    stdin: Option<ChildStdin>,
    stdout: Option<tokio::process::ChildStdout>,
    stderr_done: Option<tokio::task::JoinHandle<()>>,
    log: SharedLog,
}

impl Watched {
    async fn run(mut self, mut stops: mpsc::Receiver<Duration>, tell: watch::Sender<Option<Exit>>) {
        let mut stdout = self.stdout.take();
        // Nothing more is expected on standard output; reading it keeps the worker from ever blocking on it.
        let drain = async {
            if let Some(stdout) = &mut stdout {
                drop(tokio::io::copy(stdout, &mut tokio::io::sink()).await);
            }
            std::future::pending::<std::convert::Infallible>().await
        };
        let ended = tokio::select! {
            status = self.child.wait() => Ok(status),
            grace = stops.recv() => Err(grace.unwrap_or(ORPHAN_GRACE)),
            never = drain => match never {},
        };
        let was_asked = ended.is_err();
        let status = match ended {
            Ok(status) => status,
            Err(grace) => self.end(grace).await,
        };
        finish_log(self.stderr_done.take()).await;
        tell.send_replace(Some(exit_of(status, was_asked, &self.log)));
    }

    /// Terminate, wait, kill.
    async fn end(&mut self, grace: Duration) -> std::io::Result<std::process::ExitStatus> {
        let pid = self.child.id().and_then(|pid| i32::try_from(pid).ok()).and_then(Pid::from_raw);
        if let Some(pid) = pid
            && let Err(error) = kill_process(pid, Signal::TERM)
        {
            tracing::debug!(%error, "worker was gone before it was told to stop");
        }
        match timeout(grace, self.child.wait()).await {
            Ok(status) => status,
            Err(_) => {
                tracing::warn!(grace_ms = grace.as_millis(), "worker did not stop in time, killing it");
                self.stdin = None;
                end_at_once(&mut self.child).await;
                self.child.wait().await
            }
        }
    }
}

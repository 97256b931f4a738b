//! Requantising weights at import, done by the worker program in a process of its own.

use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use galerne_model::inference::Quantisation;
use tokio::io::AsyncReadExt as _;
use tokio::process::Command;
use tokio_util::sync::CancellationToken;

use super::log_file::{LineSplitter, LogFile};
use super::replica::{read_line, refusal};
use super::{EngineError, Exit};

/// Reads `input`, writes `output`, which is whole only when this returns without an error.
pub async fn quantise(
    program: &Path,
    input: &Path,
    output: &Path,
    to: Quantisation,
    log: &Path,
    deadline: Duration,
    cancel: &CancellationToken,
) -> Result<(), EngineError> {
    let mut lines = LogFile::open(log).map_err(|source| EngineError::Log { path: log.to_owned(), source })?;
    let kind = match to {
        Quantisation::Q4_0 => "q4_0",
        Quantisation::Q8_0 => "q8_0",
    };
    let mut child = Command::new(program)
        .arg("quantize")
        .args([input, output])
        .args(["--type", kind])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .process_group(0)
        .kill_on_drop(true)
        .spawn()
        .map_err(|source| EngineError::Spawn { program: program.to_owned(), source })?;
    let stdin = child.stdin.take();
    let (mut stdout, stderr) = (child.stdout.take(), child.stderr.take());
    let listen = async {
        let line = read_line(&mut stdout).await;
        if let Some(mut stdout) = stdout {
            // Nothing more is expected; reading it keeps the worker from ever blocking on it.
            drop(tokio::io::copy(&mut stdout, &mut tokio::io::sink()).await);
        }
        line
    };
    let log = async {
        if let Some(mut stderr) = stderr {
            let mut splitter = LineSplitter::default();
            let mut buffer = vec![0u8; 8 * 1024];
            while let Ok(count @ 1..) = stderr.read(&mut buffer).await {
                splitter.push(&buffer[..count], |line| lines.write(line));
            }
            splitter.finish(|line| lines.write(line));
        }
    };
    let work = async {
        let (line, ()) = tokio::join!(listen, log);
        (line, child.wait().await)
    };
    let (line, status) = tokio::select! {
        done = tokio::time::timeout(deadline, work) => done.map_err(|_| EngineError::QuantiseTimeout { deadline })?,
        () = cancel.cancelled() => return Err(EngineError::Cancelled),
    };
    drop(stdin);
    if let Some(refused) = refusal(&line) {
        return Err(refused);
    }
    let last_lines = lines.last_lines();
    let exit = match status {
        Ok(status) => Exit::new(status, false, last_lines),
        Err(error) => Exit { code: None, signal: None, was_asked: false, last_lines: vec![error.to_string()] },
    };
    if exit.code == Some(0) && output.is_file() { Ok(()) } else { Err(EngineError::Quantise { exit }) }
}

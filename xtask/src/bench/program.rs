//! The programs that are measured, and those that measure.

use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::last_json;
use super::site::{Endpoint, Site};
use crate::neighbour;

/// Pairs of rounds of one figure: single ones differ by a third where other programs use the cores.
const ROUNDS: &str = "9";

/// The release programs come from `make build`, which is what people run.
pub(super) fn build(root: &Path) -> Result<()> {
    succeed(root, "make", &["build"])?;
    let ledger = ["build", "--release", "--locked", "--package", "galerne-store", "--example", "ledger_bench"];
    succeed(root, "cargo", &ledger)
}

/// Bare engine and server in turn; `work` is mode, sequences, tokens.
pub(super) fn worker_bench(root: &Path, site: &Site, endpoint: &Endpoint, work: &[&str; 3]) -> Result<Value> {
    let [mode, sequences, tokens] = work;
    let mut command = Command::new(root.join("target/release/engine/galerne-worker"));
    command.arg("bench").arg("--model").arg(&endpoint.weights);
    command.args(["--mode", mode, "--sequences", sequences, "--tokens", tokens, "--reps", ROUNDS]);
    command.args(["--through", &site.url, "--name", &endpoint.name]).env("GALERNE_API_KEY", &site.api_key);
    last_json(&output(&mut command)?)
}

/// Settling and checking ten million records, in a folder below `target`, so that the disk is the one we build on.
pub(super) fn ledger_bench(root: &Path) -> Result<Value> {
    let mut command = Command::new(root.join("target/release/examples/ledger_bench"));
    command.arg("10000000").arg(root.join("target"));
    last_json(&output(&mut command)?)
}

/// What the program wrote on its standard output, once it has ended well.
pub(super) fn output(command: &mut Command) -> Result<String> {
    let done = command.stderr(Stdio::inherit()).output().with_context(|| format!("start {command:?}"))?;
    let text = String::from_utf8(done.stdout).context("its output is UTF-8")?;
    ensure!(done.status.success(), "{command:?} ended with {}: {text}", done.status);
    Ok(text)
}

fn succeed(root: &Path, program: &str, arguments: &[&str]) -> Result<()> {
    let status = neighbour::command(program).args(arguments).current_dir(root).status().context("start the build")?;
    ensure!(status.success(), "{program} {} ended with {status}", arguments.join(" "));
    Ok(())
}

//! A Galerne of its own for a measurement: release program, fresh data directory, real model.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use super::program::output;

/// Longest start: fetching and importing the model included.
const START_LIMIT: Duration = Duration::from_secs(300);
const POLL: Duration = Duration::from_millis(100);
/// Time to settle down before memory is read.
const REST: Duration = Duration::from_secs(5);
/// Prompt and answer of the longest measurement, with room.
const CONTEXT: &str = "1024";

/// A running program.
pub(super) struct Site {
    process: Child,
    program: PathBuf,
    folder: PathBuf,
    pub(super) url: String,
    pub(super) api_key: String,
}

/// An endpoint and the file its weights are in.
pub(super) struct Endpoint {
    pub(super) name: String,
    pub(super) weights: PathBuf,
}

impl Site {
    /// Starts `galerne up` with `flags` on a new data directory below `target` and waits until it is ready.
    pub(super) fn start(root: &Path, flags: &[&str]) -> Result<Self> {
        let folder = root.join("target/bench-site");
        if folder.exists() {
            std::fs::remove_dir_all(&folder).context("remove the folder of the last measurement")?;
        }
        std::fs::create_dir_all(&folder).context("make a folder")?;
        let program = root.join("target/release/galerne");
        let ready = folder.join("ready.json");
        let log = std::fs::File::create(folder.join("log")).context("make a log")?;
        let mut command = Command::new(&program);
        command.args(["up", "--listen", "127.0.0.1:0"]).arg("--data").arg(folder.join("data"));
        command.arg("--ready-file").arg(&ready).args(flags).env("XDG_CONFIG_HOME", folder.join("config"));
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        let mut process = command.spawn().context("start galerne")?;
        let written =
            wait_for(&ready, &mut process).with_context(|| format!("see {}", folder.join("log").display()))?;
        let text = |key: &str| written[key].as_str().map(str::to_owned).with_context(|| format!("`{key}` when ready"));
        Ok(Self { url: text("url")?, api_key: text("api_key")?, process, program, folder })
    }

    /// Resident memory of the program itself; its workers are processes of their own.
    pub(super) fn resident_megabytes(&self) -> Result<f64> {
        thread::sleep(REST);
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.process.id())).context("read memory")?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("`VmRSS` in the status")?;
        let kilobytes: f64 = line.trim().trim_end_matches("kB").trim().parse().context("a number of kB")?;
        Ok(kilobytes * 1024.0 / 1e6)
    }

    /// An endpoint for this many sequences, on the model that the start has fetched.
    pub(super) fn endpoint_with(&self, sequences: u32) -> Result<Endpoint> {
        let models = self.cli(&["model", "list", "--output", "json"])?;
        let model = models["items"].as_array().and_then(|list| list.first()).context("a model is there")?;
        let field = |value: &Value| value.as_str().map(str::to_owned).context("a text");
        let (model_name, blob) = (field(&model["name"])?, field(&model["status"]["blob"])?);
        let endpoints = self.cli(&["endpoint", "list", "--output", "json"])?;
        let name = "measured".to_owned();
        let exists =
            endpoints["items"].as_array().is_some_and(|list| list.iter().any(|one| one["name"] == name.as_str()));
        if !exists {
            let count = sequences.to_string();
            let create = ["endpoint", "create", &name, "--model", &model_name, "--sequences", &count];
            self.cli(&[&create[..], &["--context", CONTEXT, "--output", "json"]].concat())?;
            self.wait_until_ready(&name)?;
        }
        Ok(Endpoint { name, weights: self.folder.join("data").join(blob) })
    }

    /// Asks it to end as Ctrl-C does, and waits.
    pub(super) fn stop(mut self) -> Result<()> {
        let id = self.process.id().to_string();
        let status = Command::new("kill").args(["-INT", &id]).status().context("run kill")?;
        ensure!(status.success(), "kill ended with {status}");
        let ended = self.process.wait().context("wait for galerne")?;
        ensure!(ended.success(), "galerne ended with {ended}");
        Ok(())
    }

    fn wait_until_ready(&self, name: &str) -> Result<()> {
        let deadline = Instant::now() + START_LIMIT;
        loop {
            let endpoint = self.cli(&["endpoint", "show", name, "--output", "json"])?;
            if endpoint["status"]["state"] == "ready" {
                return Ok(());
            }
            ensure!(Instant::now() < deadline, "`{name}` did not become ready: {}", endpoint["status"]);
            thread::sleep(POLL);
        }
    }

    fn cli(&self, arguments: &[&str]) -> Result<Value> {
        let mut command = Command::new(&self.program);
        command.args(arguments).env("GALERNE_URL", &self.url).env("GALERNE_API_KEY", &self.api_key);
        command.env("XDG_CONFIG_HOME", self.folder.join("config"));
        serde_json::from_str(&output(&mut command)?).context("its output is JSON")
    }
}

/// A measurement that broke off leaves no server behind.
impl Drop for Site {
    fn drop(&mut self) {
        // After `stop` it has ended, and both say so.
        drop(self.process.kill());
        drop(self.process.wait());
    }
}

fn wait_for(ready: &Path, process: &mut Child) -> Result<Value> {
    let deadline = Instant::now() + START_LIMIT;
    while !ready.exists() {
        if let Some(status) = process.try_wait().context("look at galerne")? {
            bail!("galerne ended with {status} before it was ready");
        }
        if Instant::now() > deadline {
            process.kill().context("end galerne")?;
            bail!("galerne was not ready within {} s", START_LIMIT.as_secs());
        }
        thread::sleep(POLL);
    }
    let text = std::fs::read_to_string(ready).context("read the ready file")?;
    serde_json::from_str(&text).context("the ready file is JSON")
}

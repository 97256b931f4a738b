//! A `galerne up` of its own for each test: own data, own configuration, a free port.

use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

/// Longest time a start without a model may take on a busy machine.
const START_DEADLINE: Duration = Duration::from_secs(60);
/// Pause between two looks for the ready file.
const LOOK_INTERVAL: Duration = Duration::from_millis(20);

/// A folder with everything that a user of this machine has.
pub(crate) struct Home {
    folder: tempfile::TempDir,
}

/// A server that runs; ended when dropped.
pub(crate) struct Server {
    child: Child,
    pub(crate) url: String,
    pub(crate) key: String,
    /// From the start of the process to the ready file.
    pub(crate) took: Duration,
    log: PathBuf,
}

/// What a command did.
#[derive(Debug)]
pub(crate) struct Outcome {
    pub(crate) exit: i32,
    pub(crate) out: String,
    pub(crate) err: String,
}

impl Home {
    pub(crate) fn new() -> Self {
        Self { folder: tempfile::tempdir().expect("a temporary folder") }
    }

    pub(crate) fn path(&self, below: &str) -> PathBuf {
        self.folder.path().join(below)
    }

    /// The binary with nothing of the machine's own environment.
    fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_galerne"));
        command.args(words).env_clear().env("HOME", self.folder.path()).stdin(Stdio::null());
        // What a script does with the ready file of the server that runs now.
        let ready = self.path("ready.json");
        if ready.exists() {
            let value: Value = serde_json::from_str(&read(&ready)).expect("the ready file is whole");
            for (name, field) in [("GALERNE_URL", "url"), ("GALERNE_API_KEY", "api_key")] {
                command.env(name, value[field].as_str().expect("a text"));
            }
        }
        command
    }

    /// Starts a command whose stdout is read while it runs.
    pub(crate) fn spawn(&self, words: &[&str]) -> Child {
        self.command(words).stdout(Stdio::piped()).spawn().expect("the binary runs")
    }

    /// Runs a command to its end.
    pub(crate) fn galerne(&self, words: &[&str]) -> Outcome {
        let output = self.command(words).output().expect("the binary runs");
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("output is UTF-8");
        Outcome { exit: output.status.code().unwrap_or(-1), out: text(output.stdout), err: text(output.stderr) }
    }

    /// Runs a command that must succeed, and reads its JSON.
    pub(crate) fn json(&self, words: &[&str]) -> Value {
        let words: Vec<&str> = words.iter().chain(&["-o", "json"]).copied().collect();
        let outcome = self.galerne(&words);
        assert_eq!(outcome.exit, 0, "{words:?}: {}", outcome.err);
        serde_json::from_str(&outcome.out).expect("stdout is one JSON document")
    }

    /// Starts a server and waits for its ready file.
    pub(crate) fn up(&self, words: &[&str]) -> Server {
        let (ready, log) = (self.path("ready.json"), self.path("up.log"));
        if ready.exists() {
            std::fs::remove_file(&ready).expect("the last start's file goes");
        }
        let begun = Instant::now();
        let out = File::create(&log).expect("a log file");
        let ready_text = ready.display().to_string();
        let address: &[&str] = if words.contains(&"--listen") { &[] } else { &["--listen", "127.0.0.1:0"] };
        let all: Vec<&str> =
            ["up", "--no-model", "--ready-file", &ready_text].iter().chain(address).chain(words).copied().collect();
        let mut child = self
            .command(&all)
            .stdout(out.try_clone().expect("a second handle"))
            .stderr(out)
            .spawn()
            .expect("the binary runs");
        while !ready.exists() {
            if let Some(status) = child.try_wait().expect("it is our child") {
                panic!("the server ended with {status}:\n{}", read(&log));
            }
            assert!(begun.elapsed() < START_DEADLINE, "no ready file in time:\n{}", read(&log));
            std::thread::sleep(LOOK_INTERVAL);
        }
        let took = begun.elapsed();
        let value: Value = serde_json::from_str(&read(&ready)).expect("the ready file is whole");
        let text = |name: &str| value[name].as_str().expect("a text").to_owned();
        Server { child, url: text("url"), key: text("api_key"), took, log }
    }
}

impl Server {
    /// What it said so far.
    pub(crate) fn log(&self) -> String {
        read(&self.log)
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Asks it to stop, as a service manager does, and waits.
    pub(crate) fn stop(self) -> (ExitStatus, String) {
        signal(self.pid(), "TERM");
        self.finished()
    }

    /// Waits for an end that was asked for already.
    pub(crate) fn finished(mut self) -> (ExitStatus, String) {
        let status = self.child.wait().expect("it is our child");
        (status, self.log())
    }

    /// Ends it as a power cut does.
    pub(crate) fn kill(mut self) {
        self.child.kill().expect("it is our child");
        self.child.wait().expect("it is our child");
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // A test that failed must not leave a server behind; one that stopped it already has nothing to kill.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

pub(crate) fn signal(pid: u32, name: &str) {
    let status = Command::new("kill").args([format!("-{name}"), pid.to_string()]).status().expect("kill runs");
    assert!(status.success(), "no process {pid}");
}

fn read(path: &Path) -> String {
    let mut text = String::new();
    File::open(path).and_then(|mut file| file.read_to_string(&mut text)).expect("the file can be read");
    text
}

/// First line of a reader, then the reader is closed: what `head -1` does.
pub(crate) fn first_line(reader: impl Read) -> String {
    let mut line = String::new();
    BufReader::new(reader).read_line(&mut line).expect("a line");
    line
}

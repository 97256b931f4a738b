//! Starting workers and talking to them over plain sockets.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpStream;
use std::path::PathBuf;
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

/// Longest wait for anything a worker does in a test.
const PATIENCE: Duration = Duration::from_secs(60);

pub(crate) struct Worker {
    child: Child,
    stdin: Option<ChildStdin>,
    pub(crate) line: Value,
}

impl Worker {
    /// Starts `serve` and reads its one line.
    pub(crate) fn start(arguments: &[&str]) -> Self {
        let mut child = Command::new(executable())
            .args(["serve", "--name", "small"])
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("the executable starts");
        let stdin = child.stdin.take();
        let mut line = String::new();
        BufReader::new(child.stdout.take().expect("piped")).read_line(&mut line).expect("a line");
        let line = serde_json::from_str(&line).unwrap_or_else(|e| panic!("no line of JSON: {line:?}: {e}"));
        Self { child, stdin, line }
    }

    /// A ready one serving the model under test.
    pub(crate) fn ready(model: &str, arguments: &[&str]) -> Self {
        let common = ["--model", model, "--context", "512", "--sequences", "4", "--threads", "1"];
        let worker = Self::start(&[&common, arguments].concat());
        assert_eq!(worker.line["ready"], true, "{}", worker.line);
        worker
    }

    pub(crate) fn address(&self) -> String {
        self.line["addr"].as_str().expect("an address").to_owned()
    }

    pub(crate) fn post(&self, path: &str, body: &Value) -> (u16, Value) {
        let (status, text) = self.post_text(path, body);
        (status, serde_json::from_str(&text).unwrap_or_else(|e| panic!("no JSON: {text}: {e}")))
    }

    pub(crate) fn post_text(&self, path: &str, body: &Value) -> (u16, String) {
        read_reply(self.send(path, body))
    }

    /// With more lines in the head.
    pub(crate) fn post_with(&self, path: &str, head: &str, body: &Value) -> (u16, Value) {
        let (status, text) = read_reply(self.send_with(path, head, body));
        (status, serde_json::from_str(&text).unwrap_or_else(|e| panic!("no JSON: {text}: {e}")))
    }

    /// Sends a request and leaves its answer in the socket.
    pub(crate) fn send(&self, path: &str, body: &Value) -> TcpStream {
        self.send_with(path, "", body)
    }

    fn send_with(&self, path: &str, more: &str, body: &Value) -> TcpStream {
        let body = body.to_string();
        let mut stream = TcpStream::connect(self.address()).expect("connects");
        stream.set_read_timeout(Some(PATIENCE)).expect("set");
        let head = format!(
            "POST {path} HTTP/1.1\r\nhost: t\r\nconnection: close\r\n{more}content-length: {}\r\n\r\n",
            body.len()
        );
        stream.write_all((head + &body).as_bytes()).expect("sent");
        stream
    }

    fn get_text(&self, path: &str) -> String {
        let mut stream = TcpStream::connect(self.address()).expect("connects");
        stream.set_read_timeout(Some(PATIENCE)).expect("set");
        let request = format!("GET {path} HTTP/1.1\r\nhost: t\r\nconnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).expect("sent");
        read_reply(stream).1
    }

    pub(crate) fn get(&self, path: &str) -> Value {
        serde_json::from_str(&self.get_text(path)).expect("JSON")
    }

    /// The value of a metric.
    pub(crate) fn metric(&self, name: &str) -> f64 {
        let text = self.get_text("/metrics");
        let line = text.lines().find(|line| line.starts_with(&format!("{name}{{"))).expect("the metric");
        line.rsplit(' ').next().and_then(|value| value.parse().ok()).expect("a number")
    }

    /// Looks until it is so.
    pub(crate) fn wait_for(&self, what: &str, is_so: impl Fn(&Self) -> bool) {
        let end = Instant::now() + PATIENCE;
        while !is_so(self) {
            assert!(Instant::now() < end, "never {what}");
            std::thread::yield_now();
        }
    }

    pub(crate) fn terminate(&self) {
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).expect("signalled");
    }

    pub(crate) fn close_stdin(&mut self) {
        drop(self.stdin.take());
    }

    pub(crate) fn wait(&mut self) -> ExitStatus {
        let end = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = self.child.try_wait().expect("waited for") {
                return status;
            }
            assert!(Instant::now() < end, "the worker does not end");
            std::thread::yield_now();
        }
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

fn read_reply(mut stream: TcpStream) -> (u16, String) {
    let mut reply = String::new();
    stream.read_to_string(&mut reply).expect("a reply");
    let (head, body) = reply.split_once("\r\n\r\n").expect("a head");
    let status = head.split(' ').nth(1).and_then(|code| code.parse().ok()).expect("a status");
    (status, body.to_owned())
}

/// The executable under test.
#[expect(clippy::disallowed_methods, reason = "a test's configuration is its environment")]
pub(crate) fn executable() -> PathBuf {
    std::env::var_os("GALERNE_TEST_WORKER").map_or_else(|| env!("CARGO_BIN_EXE_galerne-worker").into(), PathBuf::from)
}

/// The chat model under test, or `None` after saying why nothing is tested.
pub(crate) fn model() -> Option<String> {
    named_by("GALERNE_TEST_MODEL", "a GGUF chat model")
}

/// The sentence encoder under test, or `None` after saying why nothing is tested.
pub(crate) fn encoder() -> Option<String> {
    named_by("GALERNE_TEST_ENCODER", "the GGUF of all-MiniLM-L6-v2")
}

#[expect(clippy::disallowed_methods, clippy::print_stdout, reason = "a test's configuration is its environment")]
fn named_by(variable: &str, what: &str) -> Option<String> {
    let model = std::env::var(variable).ok();
    if model.is_none() {
        println!("skipped: {variable} does not name {what}");
        return None;
    }
    if !cfg!(feature = "llama") && std::env::var_os("GALERNE_TEST_WORKER").is_none() {
        println!("skipped: this build has no engine and GALERNE_TEST_WORKER names no executable");
        return None;
    }
    model
}

//! Commands as a user sees them: exit code, stdout, stderr. The server is canned; the real one is in the binary's tests.

mod canned;
mod failures;
mod first_steps;
mod help;
mod tables;

use std::io::{self, Write};
use std::path::Path;
use std::sync::{Arc, Mutex};

use clap::Parser;
use galerne_cli::{Arguments, Output};

/// A key whose check characters fit; no server knows it.
const KEY: &str = "galerne_0000000000000000000000000000002C8GjS";

/// What a command did.
struct Outcome {
    exit: u8,
    out: String,
    err: String,
}

impl Outcome {
    fn text(&self) -> String {
        format!("exit {}\n--- stdout\n{}--- stderr\n{}", self.exit, self.out, self.err)
    }
}

/// Runs a command against the server at `url`, as at a terminal of `width` columns if one is given.
async fn galerne(url: &str, width: Option<u16>, words: &[&str]) -> Outcome {
    // Another test of this process may have installed it already.
    drop(rustls::crypto::ring::default_provider().install_default());
    let words: Vec<&str> = ["galerne"].iter().chain(words).chain(&["--url", url, "--key", KEY]).copied().collect();
    let arguments = match Arguments::try_parse_from(words) {
        Ok(arguments) => arguments,
        Err(error) => {
            let exit = u8::try_from(error.exit_code()).expect("clap exits with 0 or 2");
            return Outcome { exit, out: String::new(), err: error.render().to_string() };
        }
    };
    let (out, err) = (Buffer::default(), Buffer::default());
    let output = Output::to(arguments.global.output, width, out.writer(), err.writer());
    // No profile is there: nothing of the machine that runs the tests is read.
    let exit = galerne_cli::run(arguments.command, &arguments.global, output, Path::new("/nonexistent")).await;
    Outcome { exit, out: out.text(), err: err.text() }
}

#[derive(Clone, Default)]
struct Buffer(Arc<Mutex<Vec<u8>>>);

impl Buffer {
    fn writer(&self) -> Box<dyn Write + Send> {
        Box::new(anstream::StripStream::new(Box::new(self.clone()) as Box<dyn Write + Send>))
    }

    fn text(&self) -> String {
        String::from_utf8(self.0.lock().expect("no writer panicked").clone()).expect("output is UTF-8")
    }
}

impl Write for Buffer {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().expect("no writer panicked").extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

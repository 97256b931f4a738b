//! Failures as a user sees them: what failed, why, what to type, and a code that `galerne explain` knows.
//!
//! The exit code follows from the error code, by the one table in `galerne_api::error`.

use std::error::Error;
use std::fmt::Write as _;
use std::io;

use galerne_api::error::{Code, Problem};
use owo_colors::OwoColorize;
use serde_json::json;

/// The table of exit codes, as `galerne --help` prints it.
pub(crate) const EXIT_CODES_HELP: &str = "\
Exit codes:
  0  done                          5  conflict: changed meanwhile, in use, or name taken
  1  failed                        6  a value given is wrong
  2  wrong command line            7  not now: limit, budget, overload, unreachable
  3  not found                     8  this machine or its configuration is in the way
  4  refused: no key, a bad key, or not enough rights";

/// Why a command ended without doing what it was asked.
#[derive(Debug, Clone)]
pub struct Failure {
    code: Code,
    text: String,
    because: Vec<String>,
    hints: Vec<String>,
    request_id: Option<String>,
    /// The reader of stdout has gone: nothing is said and nothing has failed.
    silent: bool,
}

impl Failure {
    /// A failure with its stable code and one sentence.
    pub fn new(code: Code, text: impl Into<String>) -> Self {
        let (because, hints) = (Vec::new(), Vec::new());
        Self { code, text: text.into(), because, hints, request_id: None, silent: false }
    }

    /// Adds why it failed.
    #[must_use]
    pub fn because(mut self, why: impl Into<String>) -> Self {
        self.because.push(why.into());
        self
    }

    /// Adds every layer below as a why.
    #[must_use]
    pub fn because_of(mut self, error: &dyn Error) -> Self {
        let mut layer = Some(error);
        while let Some(error) = layer {
            let text = error.to_string();
            // Some errors repeat their source in their own text.
            if !self.because.last().is_some_and(|above| above.contains(&text)) {
                self.because.push(text);
            }
            layer = error.source();
        }
        self
    }

    /// Adds what to do.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hints.push(hint.into());
        self
    }

    /// Adds the request it belongs to.
    #[must_use]
    pub fn request(mut self, id: Option<String>) -> Self {
        self.request_id = id;
        self
    }

    /// The command line is well formed for the parser but means nothing.
    pub fn usage(text: impl Into<String>) -> Self {
        Self::new(Code::UsageInvalid, text)
    }

    /// Something broke that is neither the caller's nor a neighbour's doing.
    pub fn internal(text: &str, error: &dyn Error) -> Self {
        Self::new(Code::Internal, text).because_of(error)
    }

    /// Stdout could not be written. A reader that has gone is no failure.
    pub(crate) fn stdout(error: &io::Error) -> Self {
        let gone = error.kind() == io::ErrorKind::BrokenPipe;
        Self { silent: gone, ..Self::internal("the output could not be written", error) }
    }

    /// What the server said.
    pub(crate) fn problem(problem: Problem) -> Self {
        // On `/v1` clients show one text, so the hint is part of it.
        let (text, inner) = match problem.detail.split_once("; hint: ") {
            Some((text, hint)) => (text.to_owned(), Some(hint.to_owned())),
            None => (problem.detail, None),
        };
        let mut failure = Self::new(problem.code, text).request(problem.request_id);
        // A single problem of a body is what the text says already; of several it says the first at most.
        let is_said = problem.errors.len() == 1 && failure.text.contains(&problem.errors[0].detail);
        if !is_said {
            failure.because.extend(problem.errors.iter().map(|error| format!("`{}` {}", error.path, error.detail)));
        }
        if let Some(current) = problem.current_generation {
            failure = failure.because(format!("its generation is now {current}"));
        }
        failure.hints.extend(inner.into_iter().chain(problem.hint));
        failure
    }

    /// Its code.
    pub fn code(&self) -> Code {
        self.code
    }

    /// Whether the caller was not let in.
    pub(crate) fn is_refusal(&self) -> bool {
        self.code.exit() == galerne_api::error::Exit::Refused
    }

    /// How the process ends.
    pub fn exit(&self) -> u8 {
        if self.silent { 0 } else { self.code.exit().number() }
    }

    /// Whether a why has this word in it.
    pub(crate) fn speaks_of(&self, word: &str) -> bool {
        self.because.iter().any(|why| why.contains(word))
    }

    /// Whether nothing is to be said.
    pub(crate) fn is_silent(&self) -> bool {
        self.silent
    }

    /// For people.
    pub fn render(&self) -> String {
        let code = format!("[{}]", self.code);
        let mut text = format!("{} {} {}", "error:".red().bold(), self.text, code.dimmed());
        for why in &self.because {
            let _infallible = write!(text, "\n  because {why}");
        }
        for hint in &self.hints {
            let _infallible = write!(text, "\n  {} {hint}", "hint:".cyan());
        }
        if let Some(id) = &self.request_id {
            let id = format!("request {id}");
            let _infallible = write!(text, "\n  {}", id.dimmed());
        }
        text
    }

    /// For programs: the same on one line of JSON.
    pub(crate) fn render_json(&self) -> String {
        json!({"error": {
            "code": self.code,
            "message": self.text,
            "because": self.because,
            "hints": self.hints,
            "request_id": self.request_id,
            "exit_code": self.exit(),
        }})
        .to_string()
    }
}

//! How a process ended, in words.

use std::fmt;
use std::os::unix::process::ExitStatusExt as _;
use std::process::ExitStatus;

/// How a worker ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Exit {
    /// Exit code, if it ended by itself.
    pub code: Option<i32>,
    /// Signal, if one ended it.
    pub signal: Option<i32>,
    /// Whether we had asked for it.
    pub was_asked: bool,
    /// The end of what it logged.
    pub last_lines: Vec<String>,
}

impl Exit {
    pub(super) fn new(status: ExitStatus, was_asked: bool, last_lines: Vec<String>) -> Self {
        Self { code: status.code(), signal: status.signal(), was_asked, last_lines }
    }
}

impl fmt::Display for Exit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.code, self.signal) {
            (Some(0), _) => write!(f, "it ended by itself")?,
            (Some(code), _) => write!(f, "it ended with exit code {code}")?,
            (None, Some(signal)) => write!(f, "signal {signal} ({}) ended it", signal_name(signal))?,
            (None, None) => write!(f, "it ended for an unknown reason")?,
        }
        self.last_lines.last().map_or(Ok(()), |line| write!(f, "; its last words: {line}"))
    }
}

/// The signals that end engines.
fn signal_name(signal: i32) -> &'static str {
    match signal {
        4 => "illegal instruction: the engine was built for another CPU",
        6 => "abort: the engine found an error of its own",
        7 => "bus error",
        8 => "arithmetic error",
        9 => "killed: by a person, or by the kernel for lack of memory",
        11 => "segmentation fault",
        15 => "terminated",
        _ => "unexpected",
    }
}

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
        let last_words = self.last_lines.iter().rev().find_map(|line| telling(line));
        last_words.map_or(Ok(()), |words| write!(f, "; its last words: {words}"))
    }
}

/// What a line of a log tells a person: the message of a warning or error, a line that is not ours as it is, nothing
/// of what merely went well.
fn telling(line: &str) -> Option<String> {
    let Ok(entry) = serde_json::from_str::<LogLine>(line) else { return Some(line.to_owned()) };
    match entry.level.as_str() {
        "WARN" | "ERROR" => {
            let LogFields { message, why } = entry.fields;
            Some(match why {
                Some(why) => format!("{message}: {why}"),
                None => message,
            })
        }
        _ => None,
    }
}

#[derive(serde::Deserialize)]
struct LogLine {
    level: String,
    fields: LogFields,
}

#[derive(serde::Deserialize)]
struct LogFields {
    message: String,
    #[serde(alias = "error")]
    why: Option<String>,
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_words_are_those_that_tell_something() {
        let line = |level: &str, message: &str| {
            format!(r#"{{"timestamp":"t","level":"{level}","fields":{{"message":"{message}"}},"target":"x"}}"#)
        };
        let exit =
            |last_lines: Vec<String>| Exit { code: None, signal: Some(9), was_asked: false, last_lines }.to_string();
        let killed = "signal 9 (killed: by a person, or by the kernel for lack of memory) ended it";
        assert_eq!(exit(vec![line("INFO", "ready")]), killed);
        assert_eq!(
            exit(vec![line("ERROR", "no batch"), line("INFO", "ready")]),
            format!("{killed}; its last words: no batch")
        );
        let abort = r#"{"level":"ERROR","fields":{"message":"it gives up","why":"a.cpp:1: no"}}"#;
        assert_eq!(exit(vec![abort.into()]), format!("{killed}; its last words: it gives up: a.cpp:1: no"));
        assert_eq!(
            exit(vec![line("INFO", "ready"), "GGML_ASSERT".into()]),
            format!("{killed}; its last words: GGML_ASSERT")
        );
    }
}

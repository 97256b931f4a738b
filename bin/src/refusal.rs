//! What the server refuses, in the words of the command line.

use std::error::Error;

use galerne_cli::Failure;
use galerne_server::StartError;
use galerne_server::config::BadConfig;

/// Every problem of a configuration at once.
pub(crate) fn configuration(bad: &BadConfig) -> Failure {
    if let [only] = bad.problems.as_slice() {
        let text = format!("`{}` ({}): {}", only.key, only.origin, only.detail);
        return Failure::new(only.code, text).hint(&only.hint);
    }
    let text = format!("the configuration has {} problems", bad.problems.len());
    bad.problems.iter().fold(Failure::new(bad.code(), text), |failure, problem| {
        failure
            .because(format!("`{}` ({}): {}", problem.key, problem.origin, problem.detail))
            .hint(format!("`{}`: {}", problem.key, problem.hint))
    })
}

/// A start that did not come about.
pub(crate) fn start(error: &StartError) -> Failure {
    let failure = Failure::new(error.code(), error.to_string());
    let failure = match error.source() {
        Some(source) => failure.because_of(source),
        None => failure,
    };
    match error.hint() {
        Some(hint) => failure.hint(hint),
        None => failure,
    }
}

//! Why a call failed.

use crate::error::{Code, Problem};

/// Why a call failed.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// The server said so.
    #[error("{0}")]
    Problem(Box<Problem>),
    /// No answer, or a broken one.
    #[error("`{url}` does not answer")]
    Http {
        /// The server's address.
        url: String,
        /// What HTTP said.
        #[source]
        source: reqwest::Error,
    },
    /// Somebody is there and says nothing.
    #[error("`{url}` has said nothing for {} s", after.as_secs())]
    Silent {
        /// The server's address.
        url: String,
        /// How long was waited.
        after: std::time::Duration,
    },
    /// Not an address.
    #[error("`{address}` is not an address of a Galerne server")]
    BadAddress {
        /// What was given.
        address: String,
    },
    /// The key holds characters that cannot be sent.
    #[error("the API key contains characters that cannot be sent")]
    BadKey,
    /// The body is not what was expected.
    #[error("the server's answer (status {status}) cannot be understood")]
    Answer {
        /// HTTP status.
        status: u16,
        /// Where it differs.
        #[source]
        source: serde_json::Error,
    },
    /// Not a Galerne error body.
    #[error("something that is not Galerne answered with status {status}: {start}")]
    NotOurs {
        /// HTTP status.
        status: u16,
        /// How the body begins.
        start: String,
    },
    /// The answer was longer than what is kept in memory.
    #[error("the answer is longer than {limit} bytes")]
    TooLong {
        /// The limit.
        limit: usize,
    },
    /// The answer could not be written where the caller wanted it.
    #[error("the answer could not be written")]
    Write {
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
}

impl Failure {
    /// The stable code, which also gives the exit code.
    pub fn code(&self) -> Code {
        match self {
            Self::Problem(problem) => problem.code,
            Self::Http { .. } | Self::Silent { .. } => Code::ServerUnreachable,
            Self::BadAddress { .. } => Code::UsageInvalid,
            Self::BadKey => Code::InvalidKey,
            Self::Answer { .. } | Self::NotOurs { .. } | Self::TooLong { .. } => Code::AnswerInvalid,
            Self::Write { .. } => Code::Internal,
        }
    }

    /// What to do.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Problem(problem) => problem.hint.clone(),
            Self::Http { .. } | Self::Silent { .. } => {
                Some("is it running? start it with `galerne up`, or give its address with `--url`".to_owned())
            }
            Self::BadAddress { .. } => Some("write it as `http://HOST:PORT` or `https://HOST`".to_owned()),
            Self::BadKey | Self::Answer { .. } | Self::NotOurs { .. } | Self::TooLong { .. } | Self::Write { .. } => {
                None
            }
        }
    }

    /// An answer that broke off may come whole the next time; a server that is not there is told at once.
    pub(super) fn is_worth_repeating(&self) -> bool {
        match self {
            Self::Http { source, .. } => !source.is_connect() && !source.is_timeout() && !source.is_builder(),
            Self::Problem(_)
            | Self::Silent { .. }
            | Self::BadAddress { .. }
            | Self::BadKey
            | Self::Answer { .. }
            | Self::NotOurs { .. }
            | Self::TooLong { .. }
            | Self::Write { .. } => false,
        }
    }
}

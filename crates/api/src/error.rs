//! Errors as the outside sees them: a stable code, one table of what each code implies, and the body.
//!
//! INVARIANT: a code is never renamed or given another meaning. Each has a page in `docs/errors`, compiled in.

use serde::{Deserialize, Serialize};

mod codes;
mod problem;

pub use codes::{Code, explain};
pub use problem::{FieldError, Problem};

/// Whether the same call may succeed later without anything being changed by the caller.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Retry {
    /// It will fail again.
    Never,
    /// After a pause; `Retry-After` says how long when it is known.
    Later,
}

/// How an error is logged where it is handled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Severity {
    /// The caller's doing: DEBUG.
    Caller,
    /// Unexpected, handled: WARN.
    Unexpected,
    /// A person must look: ERROR.
    Broken,
}

/// Exit code of a command that ends with an error.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[repr(u8)]
pub enum Exit {
    /// Something failed that has no better code.
    Failed = 1,
    /// The command line was wrong.
    Usage = 2,
    /// What was named does not exist, or may not be seen.
    NotFound = 3,
    /// No key, a bad key, or not enough rights.
    Refused = 4,
    /// Somebody else changed it, or it is in use, or it exists already.
    Conflict = 5,
    /// The values given are wrong.
    Invalid = 6,
    /// Not now: limits, budgets, overload, an unreachable neighbour. Trying again may help.
    Unavailable = 7,
    /// This machine, its configuration or its data directory stand in the way.
    Local = 8,
}

impl Exit {
    /// The number given to the shell.
    pub const fn number(self) -> u8 {
        self as u8
    }
}

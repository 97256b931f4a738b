//! Why the worker does not start: one code, one message, one hint; printed as one JSON line for whoever started it.

use serde::Serialize;

/// A refusal to start. `drivers::engine` maps its codes to public ones; a code is never renamed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, thiserror::Error)]
#[error("{message}")]
pub struct Refusal {
    pub code: &'static str,
    pub message: String,
    pub hint: String,
}

impl Refusal {
    pub fn new(code: &'static str, message: impl Into<String>, hint: impl Into<String>) -> Self {
        Self { code, message: message.into(), hint: hint.into() }
    }

    /// This build has no engine in it.
    #[must_use]
    pub fn engine_absent() -> Self {
        Self::new(
            "engine_absent",
            "this galerne-worker was built without the inference engine",
            "build it with: make, or cargo build --release -p galerne-worker --features llama",
        )
    }
}

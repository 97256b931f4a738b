//! The embedded inference engine: one model, one process, an OpenAI-speaking port.
//! Read in this order: `serve` wires it; a request passes `http` → `request`, `template` → `job` → `engine`, where `schedule`,
//! `prefix`, `sample`, `text` and `share` decide. Before a model is loaded, `gguf` and `memory` say whether it can be.
//! Everything but `engine`, `bench::bare` and quantising builds without the C++ engine (feature `llama`).
//! Deliberately absent: tenants, money, durable state.

pub mod limits;
pub mod refusal;
pub mod serve;

pub mod http;
mod request;
mod template;

mod job;
mod loaded;
mod metrics;
mod vocabulary;

#[cfg(feature = "llama")]
pub mod engine;
mod prefix;
mod sample;
mod schedule;
mod share;
mod text;

pub mod gguf;
pub mod machine;
mod memory;

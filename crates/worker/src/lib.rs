//! The embedded inference engine: one model, one process, an OpenAI-speaking port.
//! Read in this order: `serve` wires it; a request passes `http` → `request`, `markup`, `template` → `job` → `engine`, where `schedule`,
//! `turn`, `prefix`, `sample`, `text` and `share` decide. Before a model is loaded, `gguf` and `memory` say whether it can be.
//! Without the feature `llama` all of it builds and is tested but the engine itself; the worker then refuses to serve.
//! Deliberately absent: tenants, money, durable state.
#![cfg_attr(not(feature = "llama"), allow(dead_code, reason = "what the engine uses is tested without it"))]

pub mod bench;
pub mod complaint;
pub mod quantize;
pub mod refusal;
pub mod serve;

mod http;
mod markup;
mod request;
mod template;

mod account;
mod adapter;
mod constraint;
mod fingerprint;
mod grammar;
mod job;
mod loaded;
mod manner;
mod metrics;
mod reader;
mod tool_message;
mod vocabulary;

#[cfg(feature = "llama")]
mod engine;
#[cfg(not(feature = "llama"))]
#[path = "engine/absent.rs"]
mod engine;

mod output;
mod prefix;
mod sample;
mod schedule;
mod score;
mod share;
mod text;
mod turn;

mod gguf;
mod limits;
mod machine;
mod memory;

//! The outside world, one module per neighbour: model sources, model files, the catalogue, engines, the grid,
//! objects, receivers of events.
//!
//! Deliberately absent: SQL, decisions, and the environment (`std::env` is read by whoever owns the configuration).

pub mod catalogue;
pub mod engine;
pub mod fetch;
pub mod gguf;
pub mod grid;
pub mod objects;
pub mod power;
mod tls;
pub mod webhook;

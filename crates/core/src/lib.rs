//! The decisions of Galerne: pure functions over the words of `galerne_model`.
//!
//! Deliberately absent: clocks, chance, I/O, threads, `async`, floats. `now` is an argument, new ids are
//! passed in, and effects are returned as values for `control`, `gateway` and `server` to perform.
#![warn(clippy::wildcard_enum_match_arm, clippy::iter_over_hash_type, clippy::float_arithmetic)]

pub mod authorize;

pub mod admission;
pub mod batch;
pub mod budget;
pub mod line;
pub mod rating;
pub mod routing;
pub mod share;

pub mod energy;
pub mod focus;

pub mod endpoint;
pub mod why;

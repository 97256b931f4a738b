//! Placement: which GPUs, when, and why. Integers in, a plan and its reasons out.
//!
//! Deliberately absent: names of people and machines, money, the clock, chance, I/O, threads, floats.
//! Everything is named by the numbers its caller gave it; `now` is an argument; the same fleet, events and `now`
//! give the same plan, bit for bit. The algorithm is explained in docs/planner.md.
#![warn(clippy::wildcard_enum_match_arm, clippy::iter_over_hash_type, clippy::float_arithmetic)]

pub mod units;

pub mod fleet;
pub mod request;

pub mod refusal;
pub mod validate;

pub mod fair;

pub mod pack;
mod state;

pub mod power;
pub mod reliability;

pub mod shift;

pub mod event;
mod explain;
pub mod plan;
pub mod reason;
pub mod words;

mod gang;
pub mod preempt;
mod reserve;
mod shapes;

pub mod defrag;

pub mod planner;

pub mod check;

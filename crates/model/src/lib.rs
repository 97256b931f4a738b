//! The words of Galerne: ids, units, resources, events, limits.
//!
//! Everything here is a plain value. Deliberately absent: clocks, randomness, I/O, decisions.
//! The same types are what the API speaks and what the store keeps (docs/decisions/0003).

pub mod ids;
pub mod limits;
pub mod units;

pub mod token;

pub mod identity;
pub mod inference;
pub mod money;
pub mod node;
pub mod power;
pub mod resource;

pub mod batch;
pub mod file;

pub mod event;
pub mod ledger;
pub mod reason;
pub mod share;
pub mod snapshot;

//! The whole server, on SQLite where nothing else is said, over a real socket. Every answer of every test is checked against the committed document.

mod document;
mod files;
mod site;

#[path = "../../../store/tests/it/postgres.rs"]
#[allow(dead_code, reason = "the tests of the store use more of it")]
mod postgres;

mod bad_input;
mod batches;
mod batches_in_trouble;
mod changes;
mod denials;
mod exports;
mod gateways;
mod identity;
mod lease;
mod lifecycle;
mod matrix;
mod metered;
mod shares;

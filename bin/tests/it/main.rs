//! The real binary with a real server, without a model: what a user types and sees, from the first start to the last.

mod commands;
mod refusals;
mod server;
mod starts;

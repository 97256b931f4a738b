//! The planner from outside: what it refuses, what it must keep, how good it is on cases small enough to search.
#![allow(
    clippy::unwrap_used,
    clippy::cast_possible_truncation,
    clippy::needless_pass_by_value,
    clippy::print_stdout,
    clippy::type_complexity,
    clippy::drop_non_drop,
    dropping_copy_types,
    reason = "helpers of tests: a panic is how they fail, numbers are small, and figures are shown"
)]

mod events;
mod fixture;
mod oracle;
mod properties;
mod refusals;
mod tampering;

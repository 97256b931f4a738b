//! The planner from outside: what it refuses, what it must keep, how good it is on cases small enough to search.

mod events;
mod fixture;
mod oracle;
mod refusals;
mod tampering;

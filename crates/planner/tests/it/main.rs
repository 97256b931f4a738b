//! The planner from outside: what it refuses, what it must keep, how good it is on cases small enough to search.

mod fixture;
mod refusals;
mod tampering;

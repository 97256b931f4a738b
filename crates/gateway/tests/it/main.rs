//! The gateway from outside: a real router on a real socket, a small engine that behaves and misbehaves on request, and a
//! ledger that settles batches. The engine stands in for process-level behaviour (stalls, lies, broken connections) only.

mod engine;
mod site;

mod answers;
mod budgets;
mod crash;
mod errands;
mod failures;
mod leaving;
mod lies;
mod limits;
mod refusals;
mod routing;
mod tiers;
mod time;
mod view;
mod waking;

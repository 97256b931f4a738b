//! The worker as a process. Refusals need no engine; the rest runs where `GALERNE_TEST_MODEL` names a small chat model and the
//! executable has the engine (built with `--features llama`, or named by `GALERNE_TEST_WORKER`), and says so otherwise.

mod adapters;
mod choices;
mod life;
mod process;
mod real;
mod refusals;
mod structured;

//! The inference data plane: authenticate, admit, route, stream, count, settle.
//!
//! A request, in the order of the modules: the key is looked up in a snapshot; the body is read and checked; rates and
//! budgets admit it and a hold is written to the spool; a sleeping endpoint is woken; a replica is chosen and asked, once
//! more when it fails before the first byte; the answer is passed on while tokens are counted; what was used is written to
//! the spool before the answer's last byte.
//!
//! INVARIANT: no SQL and no call to the control plane on the path of a request: a snapshot comes in, the spool goes out.
//! INVARIANT: every admitted request ends in exactly one usage record, whatever ends it.
//! Deliberately absent: policy (it is `galerne_core`'s), tokenisation (the engine counts), what the dialects have and what
//! becomes of it (`galerne_api::surface` has that as data).

mod activity;
mod board;
mod buckets;
mod config;
mod digest;

mod beside;
mod errand;
mod routes;

mod authenticate;
mod body;
mod request;
mod segments;

mod admit;
mod line;
mod rates;
mod residency;
mod shares;
mod ticket;
mod wake;

mod route;
mod upstream;

mod meter;
mod responses;
mod voice;

mod plain;
mod sse;
mod stream;

mod spool;

mod link;

mod denial;
mod live;
mod metrics;
mod models;
mod refusal;

#[cfg(feature = "fuzz")]
pub mod fuzz;

pub use activity::EndpointActivity;
pub use beside::Visitor;
pub use config::{Bounds, Clock, Closed, Gateway, GatewayConfig, GatewayError, MayAdmit, Wake};
pub use denial::COUNTED_BY;
pub use digest::digest;
pub use errand::{Done, Errand, Unsettled};
pub use link::{ALONE_MAX, ControlLink, LinkConfig, LinkEnds, LinkError, LinkSeen};
pub use live::{LiveEndpoint, LiveRates, LiveReplica};
pub use refusal::Refusal;
pub use route::RouteView;
pub use routes::{Asking, Door};
pub use spool::{Hold, Recovered, Spool, SpoolError, SpoolFull, SpoolLimits, UsageBatch};

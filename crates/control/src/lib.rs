//! Where decisions meet the store and the neighbours: load → decide → record → act.
//!
//! [`start`] runs three loops until it is cancelled: the publisher (the gateway's view of the store), the endpoint
//! loop (replicas), the pull loop (downloads); beside them last uses of keys are written. Usage and energy come in
//! through [`Handle`].
//! INVARIANT: only these loops change a status, each change with its event in one transaction, before anything is done.
//! INVARIANT: every loop looks only at recorded state and may be killed between any two lines.
//! Deliberately absent: HTTP of our own, and the decisions themselves (`galerne_core`).

pub mod clock;

mod handle;
mod start;

mod event;
mod leader;

mod endpoint_loop;
mod pull_loop;
mod weights;

mod bill;
mod meters;
mod publisher;
mod snapshot;

mod prices;

pub mod forward;
pub mod node;
pub mod site_lease;

pub use bill::EnergySample;
pub use galerne_core::energy::Counted;
pub use handle::{Activity, ActivityFeed, Handle};
pub use meters::{MeterTotals, ReadLocal};
pub use start::{ControlError, Inputs, start};

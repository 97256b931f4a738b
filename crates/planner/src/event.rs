//! What happens outside, as the planner hears of it. Between events its state does not change.

use crate::fleet::{Amount, Health, Lease};
use crate::plan::Reservation;
use crate::request::{Request, Shape};
use crate::units::{At, LeaseId, NodeId, PowerId, QueueId, RequestId};

/// One change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// A node's health. `Down` does not end its leases: each end is an event of its own.
    NodeHealth {
        node: NodeId,
        health: Health,
    },
    /// Maintenance: not to be used before `until`; `None` lifts it.
    NodeHeld {
        node: NodeId,
        until: Option<At>,
    },
    /// A node failed once more; moves it back in rank.
    NodeFailed {
        node: NodeId,
    },
    /// A plan's placement was carried out, or a lease of before is told.
    LeaseStarted(Lease),
    LeaseEnded(LeaseId),
    /// Another expected end.
    LeaseExtended {
        lease: LeaseId,
        ends_at: Option<At>,
    },
    /// Its work up to here is safe.
    LeaseSaved {
        lease: LeaseId,
        saved_at: At,
    },
    RequestAdded(Request),
    /// The same id, other wishes; keeps its place in line.
    RequestChanged(Request),
    RequestWithdrawn(RequestId),
    /// A promise that a plan made was taken on, or one of before is told.
    ReservationTold(Reservation),
    CapChanged {
        power: PowerId,
        cap_watts: i64,
    },
    QuotaChanged {
        queue: QueueId,
        weight: u32,
        guaranteed: Amount,
        limit: Option<Amount>,
    },
    ForecastChanged(Forecast),
    /// How often each shape is asked for, known from elsewhere: single nodes are packed for this instead of for what
    /// waits and runs. An empty list: for what waits and runs again.
    DemandTold(Vec<(Shape, u32)>),
}

/// What an hour is expected to cost, in grams or money: any unit, the smaller the better.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Forecast {
    pub from: At,
    pub step_seconds: u32,
    pub cost: Vec<u32>,
    /// GPUs (in thousandths) that deferrable work may use in each step; the last holds for the rest.
    pub gpu_milli: Vec<i64>,
}

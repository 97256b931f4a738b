//! Numbers that name things, and instants. All are the caller's; the planner mints none.

use std::fmt;

macro_rules! numbers {
    ($($(#[$doc:meta])* $name:ident($inner:ty), $word:literal;)*) => {$(
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub $inner);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!($word, " {}"), self.0)
            }
        }
    )*};
}

numbers! {
    /// A node, by the caller's number.
    NodeId(u64), "node";
    /// A request for GPUs.
    RequestId(u64), "request";
    /// A lease: an exclusive right to named GPUs.
    LeaseId(u64), "lease";
    /// A queue: its place in `FleetSpec::queues`.
    QueueId(u32), "queue";
    /// A domain of the topology or the fabric: its place in `FleetSpec::domains`.
    DomainId(u32), "domain";
    /// A point of the power tree: its place in `FleetSpec::power`.
    PowerId(u32), "power point";
    /// A GPU model: its place in `FleetSpec::models`, at most 63.
    ModelId(u8), "model";
    /// A slice profile: its place in its model's `slices`.
    SliceId(u8), "slice";
    /// A residency label: at most 63.
    ResidencyId(u8), "residency";
    /// A tenant class with a floor of power: at most `MAX_TENANT_CLASSES - 1`.
    TenantClass(u8), "tenant class";
}

/// An instant: seconds from a beginning that the caller chose.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct At(pub i64);

impl At {
    /// Later than everything: an end that nobody knows.
    pub const NEVER: Self = Self(i64::MAX);

    /// The instant `seconds` later; `NEVER` stays `NEVER`.
    #[must_use]
    pub const fn plus(self, seconds: i64) -> Self {
        Self(self.0.saturating_add(seconds))
    }

    /// Seconds from `earlier` to this instant; zero when it is not earlier.
    pub const fn since(self, earlier: Self) -> i64 {
        let seconds = self.0.saturating_sub(earlier.0);
        if seconds > 0 { seconds } else { 0 }
    }
}

/// Thousandths of one GPU.
pub const GPU_MILLI: u16 = 1000;
/// Most GPUs in one node.
pub const MAX_GPUS: usize = 16;
/// Most tenant classes with power floors.
pub const MAX_TENANT_CLASSES: usize = 4;

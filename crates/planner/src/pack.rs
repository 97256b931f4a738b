//! Single nodes: where a request for one node's GPUs, or a part of one GPU, does least harm to what comes later.

use crate::units::MAX_GPUS;

/// What is free on one node.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeFree {
    /// Each GPU: `GpuFree` packed into sixteen bits; zero beyond the node's own.
    pub gpus: [GpuFree; MAX_GPUS],
    pub cpu_milli: u32,
    pub memory_mib: u32,
}

/// What is free on one GPU: thousandths when it is whole or shared, memory slots when it is cut into slices.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct GpuFree(u16);

const SLICED: u16 = 0x8000;

impl GpuFree {
    /// A GPU of which nothing is used.
    pub const WHOLE: Self = Self(crate::units::GPU_MILLI);
    /// Nothing free.
    pub const NONE: Self = Self(0);

    /// A shared GPU with `milli` thousandths free.
    pub const fn milli(milli: u16) -> Self {
        Self(milli)
    }

    /// A GPU cut into slices with these memory slots free; with all eight free it is whole again.
    pub const fn sliced(slots: u8) -> Self {
        if slots == u8::MAX { Self::WHOLE } else { Self(SLICED | slots as u16) }
    }

    /// Free thousandths; zero when it is cut into slices.
    pub const fn free_milli(self) -> u16 {
        if self.0 & SLICED == 0 { self.0 } else { 0 }
    }

    /// Free memory slots: all of a whole GPU, none of a shared one.
    pub const fn free_slots(self) -> u8 {
        if self.0 & SLICED != 0 {
            (self.0 & 0xFF) as u8
        } else if self.0 == crate::units::GPU_MILLI {
            u8::MAX
        } else {
            0
        }
    }

    /// Whether nothing of it is used.
    pub const fn is_whole(self) -> bool {
        self.0 == crate::units::GPU_MILLI
    }
}

//! Nothing is given twice: GPUs, thousandths, slices, CPU and memory of each node, leases and starts together.

use std::collections::BTreeMap;

use crate::fleet::NodeSpec;
use crate::plan::{GpuGrant, Grant, Plan};
use crate::reason::Resource;
use crate::request::{Gpus, Shape};
use crate::units::{GPU_MILLI, NodeId};

use super::{Facts, Holder, Violation};

/// What is used of each node.
pub(super) struct Rooms<'a> {
    nodes: BTreeMap<NodeId, Room<'a>>,
}

struct Room<'a> {
    spec: &'a NodeSpec,
    gpus: Vec<Used>,
    cpu_milli: i64,
    memory_mib: i64,
}

/// What is used of a GPU: thousandths when whole or shared, memory slots when cut.
#[derive(Clone, Copy, Default)]
struct Used {
    milli: u32,
    slots: u8,
}

pub(super) fn check(facts: &Facts<'_>, plan: &Plan, found: &mut Vec<Violation>) {
    let mut rooms = Rooms::new(facts);
    for lease in facts.before.leases {
        for grant in &lease.grants {
            rooms.take(Holder::Lease(lease.id), &lease.request.shape, grant, found);
        }
    }
    for placement in &plan.placements {
        // A start that nobody asked for is reported elsewhere; here its GPUs count all the same.
        let shape = facts.requests.get(&placement.request).map(|request| request.shape);
        for grant in &placement.grants {
            let shape = shape.unwrap_or_else(|| bare(grant));
            rooms.take(Holder::Request(placement.request), &shape, grant, found);
        }
    }
    for change in &plan.moves {
        let Some(lease) = facts.leases.get(&change.lease) else {
            found.push(Violation::UnknownLease { lease: change.lease });
            continue;
        };
        if !lease.grants.contains(&change.from) {
            found.push(Violation::WrongMove { lease: lease.id });
        }
        // Both places are needed while it moves.
        rooms.take(Holder::Lease(lease.id), &lease.request.shape, &change.to, found);
    }
    let most = facts.before.fleet.policy.moves;
    if plan.moves.len() > usize::from(most) {
        found.push(Violation::TooManyMoves { moves: plan.moves.len(), most });
    }
}

impl<'a> Rooms<'a> {
    pub(super) fn new(facts: &Facts<'a>) -> Self {
        let room = |spec: &&'a NodeSpec| Room {
            spec,
            gpus: vec![Used::default(); usize::from(spec.gpus)],
            cpu_milli: i64::from(spec.cpu_milli),
            memory_mib: i64::from(spec.memory_mib),
        };
        Self { nodes: facts.nodes.iter().map(|(id, spec)| (*id, room(spec))).collect() }
    }

    /// Takes what a grant gives, and reports what was not there.
    pub(super) fn take(&mut self, holder: Holder, shape: &Shape, grant: &Grant, found: &mut Vec<Violation>) {
        let node = grant.node;
        let Some(room) = self.nodes.get_mut(&node) else {
            found.push(Violation::UnknownNode { holder, node });
            return;
        };
        if !is_asked(shape, grant) {
            found.push(Violation::OtherThanAsked { holder, node });
        }
        room.take_gpus(holder, grant, found);
        room.cpu_milli -= i64::from(shape.cpu_milli);
        room.memory_mib -= i64::from(shape.memory_mib);
        for (resource, left) in [(Resource::Cpu, room.cpu_milli), (Resource::Memory, room.memory_mib)] {
            if left < 0 {
                found.push(Violation::NodeOverfull { holder, node, resource, over: -left });
            }
        }
    }

    /// Takes room for one member on whichever GPUs are free; gives whether there was any.
    pub(super) fn take_any(&mut self, shape: &Shape, slices: &[crate::fleet::ModelSpec], node: NodeId) -> bool {
        let Some(room) = self.nodes.get_mut(&node) else { return false };
        let Some(gpus) = room.find(shape, slices) else { return false };
        let mut found = Vec::new();
        self.take(Holder::Request(crate::units::RequestId(0)), shape, &Grant { node, gpus }, &mut found);
        found.is_empty()
    }
}

impl Room<'_> {
    fn take_gpus(&mut self, holder: Holder, grant: &Grant, found: &mut Vec<Violation>) {
        let node = grant.node;
        let (taken, milli, slots): (Vec<u8>, u32, u8) = match grant.gpus {
            GpuGrant::Whole(mask) => ((0..16).filter(|gpu| mask >> gpu & 1 == 1).collect(), u32::from(GPU_MILLI), 0),
            GpuGrant::Milli { gpu, milli } => (vec![gpu], u32::from(milli), 0),
            GpuGrant::Slice { gpu, slots } => (vec![gpu], 0, slots),
        };
        for gpu in taken {
            let Some(used) = self.gpus.get_mut(usize::from(gpu)) else {
                found.push(Violation::UnknownGpu { holder, node, gpu });
                continue;
            };
            let is_twice = used.slots & slots != 0;
            used.milli += milli;
            used.slots |= slots;
            let is_mixed = used.milli > 0 && used.slots != 0;
            if is_twice || is_mixed || used.milli > u32::from(GPU_MILLI) {
                found.push(Violation::GpuTwice { holder, node, gpu });
            }
        }
    }

    fn find(&self, shape: &Shape, models: &[crate::fleet::ModelSpec]) -> Option<GpuGrant> {
        if !shape_fits(shape, self.cpu_milli, self.memory_mib) {
            return None;
        }
        match shape.gpus {
            Gpus::Whole(count) => {
                let free = (0_u8..).zip(&self.gpus).filter(|(_, used)| used.milli == 0 && used.slots == 0);
                let bits: Vec<u8> = free.map(|(gpu, _)| gpu).take(usize::from(count)).collect();
                let mask = bits.iter().fold(0_u16, |mask, gpu| mask | 1 << gpu);
                (bits.len() == usize::from(count)).then_some(GpuGrant::Whole(mask))
            }
            Gpus::Milli(milli) => {
                let has = |used: &Used| used.slots == 0 && used.milli + u32::from(milli) <= u32::from(GPU_MILLI);
                // The fullest that still has room.
                let gpu = (0_u8..).zip(&self.gpus).filter(|(_, used)| has(used)).max_by_key(|(_, used)| used.milli)?.0;
                Some(GpuGrant::Milli { gpu, milli })
            }
            Gpus::Slice(slice) => {
                let profile = models.get(usize::from(self.spec.model.0))?.slices.get(usize::from(slice.0))?;
                let mut gpus = (0_u8..).zip(&self.gpus).filter(|(_, used)| used.milli == 0);
                gpus.find_map(|(gpu, used)| {
                    let slots = *profile.positions.iter().find(|position| used.slots & **position == 0)?;
                    Some(GpuGrant::Slice { gpu, slots })
                })
            }
        }
    }
}

fn shape_fits(shape: &Shape, cpu_milli: i64, memory_mib: i64) -> bool {
    i64::from(shape.cpu_milli) <= cpu_milli && i64::from(shape.memory_mib) <= memory_mib
}

/// Whether a grant is what the shape asks for on a node; a slice's position is checked where its model is known.
fn is_asked(shape: &Shape, grant: &Grant) -> bool {
    match (shape.gpus, grant.gpus) {
        (Gpus::Whole(count), GpuGrant::Whole(mask)) => mask.count_ones() == u32::from(count),
        (Gpus::Milli(asked), GpuGrant::Milli { milli, .. }) => asked == milli,
        (Gpus::Slice(_), GpuGrant::Slice { slots, .. }) => slots != 0,
        (Gpus::Whole(_) | Gpus::Milli(_) | Gpus::Slice(_), _) => false,
    }
}

/// A shape that asks for just what the grant gives.
fn bare(grant: &Grant) -> Shape {
    let gpus = match grant.gpus {
        GpuGrant::Whole(mask) => Gpus::Whole(u8::try_from(mask.count_ones()).unwrap_or(u8::MAX)),
        GpuGrant::Milli { milli, .. } => Gpus::Milli(milli),
        GpuGrant::Slice { .. } => Gpus::Slice(crate::units::SliceId(0)),
    };
    Shape {
        gpus,
        nodes: crate::request::Nodes { min: 1, max: 1 },
        models: 0,
        cpu_milli: 0,
        memory_mib: 0,
        within: None,
        prefer: None,
        residencies: 0,
        expected_watts: 0,
        peak_watts: 0,
    }
}

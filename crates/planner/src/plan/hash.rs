//! The hash of a plan: equal plans have equal hashes, wherever and whenever they were made.
//!
//! SHA-256 over every field in the order of its declaration: numbers as eight bytes, little end first, lists led by
//! their lengths, enums by a number for the variant. Reasons go in as their debug text, which names every field.

use std::fmt::Write;

use sha2::{Digest, Sha256};

use crate::units::{At, LeaseId, NodeId};

use super::{GpuGrant, Grant, Plan, PreemptionCause};

impl Plan {
    /// SHA-256 over all decisions and reasons: for the audit trail, and for comparing replays.
    pub fn hash(&self) -> [u8; 32] {
        let mut writer = Writer(Sha256::new());
        writer.plan(self);
        writer.0.finalize().into()
    }
}

struct Writer(Sha256);

impl Writer {
    fn plan(&mut self, plan: &Plan) {
        self.at(plan.at);
        self.list(&plan.placements, |writer, placement| {
            writer.number(placement.request.0);
            writer.list(&placement.grants, Self::grant);
        });
        self.list(&plan.preemptions, |writer, preemption| {
            writer.number(preemption.lease.0);
            writer.number(preemption.for_request.0);
            writer.number(match preemption.cause {
                PreemptionCause::Priority => 0,
                PreemptionCause::Reclaim => 1,
            });
            writer.signed(preemption.lost_gpu_seconds);
        });
        self.list(&plan.moves, |writer, one| {
            writer.number(one.lease.0);
            writer.grant(&one.from);
            writer.grant(&one.to);
        });
        self.list(&plan.reservations, |writer, reservation| {
            writer.number(reservation.request.0);
            writer.at(reservation.starts_at);
            writer.list(&reservation.nodes, |writer, node: &NodeId| writer.number(node.0));
            writer.list(&reservation.stops, |writer, lease: &LeaseId| writer.number(lease.0));
            writer.number(u64::from(reservation.for_nearness));
        });
        self.list(&plan.holds, |writer, hold| {
            writer.number(hold.request.0);
            writer.at(hold.until);
        });
        self.list(&plan.waiting, |writer, (request, reason)| {
            writer.number(request.0);
            writer.number(u64::from(*reason));
        });
        self.list(&plan.reasons, |writer, why| {
            writeln!(Text(&mut writer.0), "{why:?}").expect("writing into a hash does not fail");
        });
    }

    fn list<T>(&mut self, list: &[T], mut each: impl FnMut(&mut Self, &T)) {
        self.number(list.len() as u64);
        for one in list {
            each(self, one);
        }
    }

    fn grant(&mut self, grant: &Grant) {
        self.number(grant.node.0);
        match grant.gpus {
            GpuGrant::Whole(mask) => self.parts([0, u64::from(mask), 0]),
            GpuGrant::Milli { gpu, milli } => self.parts([1, u64::from(gpu), u64::from(milli)]),
            GpuGrant::Slice { gpu, slots } => self.parts([2, u64::from(gpu), u64::from(slots)]),
        }
    }

    fn parts(&mut self, parts: [u64; 3]) {
        for part in parts {
            self.number(part);
        }
    }

    fn at(&mut self, at: At) {
        self.signed(at.0);
    }

    fn signed(&mut self, number: i64) {
        self.0.update(number.to_le_bytes());
    }

    fn number(&mut self, number: u64) {
        self.0.update(number.to_le_bytes());
    }
}

/// Text that goes into a hash.
struct Text<'a>(&'a mut Sha256);

impl Write for Text<'_> {
    fn write_str(&mut self, text: &str) -> std::fmt::Result {
        self.0.update(text.as_bytes());
        Ok(())
    }
}

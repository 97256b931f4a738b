//! Numbers of replicas in the prefix index. A number is not given again before all others were.

use std::collections::BTreeMap;

use galerne_model::ids::ReplicaId;

use super::index::Slot;

/// Who has which number.
#[derive(Debug, Default)]
pub(super) struct Slots {
    owners: BTreeMap<Slot, ReplicaId>,
    last: Slot,
}

impl Slots {
    /// A new number for a replica; what an earlier owner was known to have is no longer anybody's. 0, which is nobody,
    /// when all numbers are taken.
    pub(super) fn give(&mut self, replica_id: ReplicaId) -> Slot {
        for _ in 0..Slot::MAX {
            self.last = self.last.checked_add(1).unwrap_or(1);
            if !self.owners.contains_key(&self.last) {
                self.owners.insert(self.last, replica_id);
                return self.last;
            }
        }
        0
    }

    pub(super) fn take_back(&mut self, slot: Slot) {
        self.owners.remove(&slot);
    }

    pub(super) fn owner(&self, slot: Slot) -> Option<ReplicaId> {
        self.owners.get(&slot).copied()
    }
}

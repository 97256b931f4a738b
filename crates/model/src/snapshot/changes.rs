//! What changed between two snapshots: what is sent to a gateway in a process of its own.
//!
//! A whole snapshot is its changes from the empty one, so there is one form on the wire.
//! INVARIANT: `old` with `Changes::between(old, new)` applied is `new`.

use std::collections::{BTreeMap, HashMap};
use std::hash::Hash;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::{BudgetEntry, EndpointEntry, EnergyRate, KeyEntry, ProjectEntry, Snapshot};
use crate::ids::{EndpointId, KeyId, ProjectId};
use crate::money::BudgetSubject;

/// Changes of a snapshot. A field that is absent did not change.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Changes {
    /// Keys by their digest.
    #[serde(default, skip_serializing_if = "EntryChanges::is_empty")]
    pub keys: EntryChanges<String, KeyEntry>,
    /// Endpoints.
    #[serde(default, skip_serializing_if = "EntryChanges::is_empty")]
    pub endpoints: EntryChanges<EndpointId, EndpointEntry>,
    /// What projects may do.
    #[serde(default, skip_serializing_if = "EntryChanges::is_empty")]
    pub projects: EntryChanges<ProjectId, ProjectEntry>,
    /// Budgets, all of a subject together.
    #[serde(default, skip_serializing_if = "EntryChanges::is_empty")]
    pub budgets: EntryChanges<BudgetSubject, Vec<BudgetEntry>>,
    /// First keys of lines.
    #[serde(default, skip_serializing_if = "EntryChanges::is_empty")]
    pub lines: EntryChanges<KeyId, KeyId>,
    /// Energy and carbon of CPU time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub energy: Option<EnergyRate>,
}

/// Changes of a map.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct EntryChanges<K, V> {
    /// Entries that are new or differ.
    pub set: Vec<(K, V)>,
    /// Entries that are gone.
    pub gone: Vec<K>,
}

impl<K, V> Default for EntryChanges<K, V> {
    fn default() -> Self {
        Self { set: Vec::new(), gone: Vec::new() }
    }
}

impl<K, V> EntryChanges<K, V> {
    /// Whether nothing changed.
    pub const fn is_empty(&self) -> bool {
        self.set.is_empty() && self.gone.is_empty()
    }
}

impl Changes {
    /// What makes `new` of `old`.
    pub fn between(old: &Snapshot, new: &Snapshot) -> Self {
        // By name, so that a field that a snapshot gets is not forgotten here.
        let Snapshot { keys, endpoints, projects, budgets, lines, energy } = new;
        Self {
            keys: between(&old.keys, keys, |entry| KeyEntry::clone(entry)),
            endpoints: between(&old.endpoints, endpoints, |entry| EndpointEntry::clone(entry)),
            projects: between(&old.projects, projects, Clone::clone),
            budgets: between(&old.budgets, budgets, Clone::clone),
            lines: between(&old.lines, lines, |line| *line),
            energy: (old.energy != *energy).then_some(*energy),
        }
    }

    /// Whether nothing changed.
    pub fn is_empty(&self) -> bool {
        let Self { keys, endpoints, projects, budgets, lines, energy } = self;
        keys.is_empty()
            && endpoints.is_empty()
            && projects.is_empty()
            && budgets.is_empty()
            && lines.is_empty()
            && energy.is_none()
    }

    /// `old` with these changes. Entries that did not change are shared with it.
    pub fn apply_to(self, old: &Snapshot) -> Snapshot {
        let Self { keys, endpoints, projects, budgets, lines, energy } = self;
        let mut new = old.clone();
        apply(keys, &mut new.keys, Arc::new);
        apply(endpoints, &mut new.endpoints, Arc::new);
        apply(projects, &mut new.projects, |project| project);
        apply(budgets, &mut new.budgets, |budgets| budgets);
        apply(lines, &mut new.lines, |line| line);
        new.energy = energy.unwrap_or(old.energy);
        new
    }
}

/// A map of either kind.
trait Entries<K, V> {
    fn look_up(&self, key: &K) -> Option<&V>;
    fn entries<'a>(&'a self) -> impl Iterator<Item = (&'a K, &'a V)>
    where
        K: 'a,
        V: 'a;
    fn put(&mut self, key: K, value: V);
    fn drop_entry(&mut self, key: &K);
}

impl<K: Eq + Hash, V> Entries<K, V> for HashMap<K, V> {
    fn look_up(&self, key: &K) -> Option<&V> {
        self.get(key)
    }

    fn entries<'a>(&'a self) -> impl Iterator<Item = (&'a K, &'a V)>
    where
        K: 'a,
        V: 'a,
    {
        self.iter()
    }

    fn put(&mut self, key: K, value: V) {
        self.insert(key, value);
    }

    fn drop_entry(&mut self, key: &K) {
        self.remove(key);
    }
}

impl<K: Ord, V> Entries<K, V> for BTreeMap<K, V> {
    fn look_up(&self, key: &K) -> Option<&V> {
        self.get(key)
    }

    fn entries<'a>(&'a self) -> impl Iterator<Item = (&'a K, &'a V)>
    where
        K: 'a,
        V: 'a,
    {
        self.iter()
    }

    fn put(&mut self, key: K, value: V) {
        self.insert(key, value);
    }

    fn drop_entry(&mut self, key: &K) {
        self.remove(key);
    }
}

fn between<K: Clone, V: PartialEq, W>(
    old: &impl Entries<K, V>,
    new: &impl Entries<K, V>,
    owned: impl Fn(&V) -> W,
) -> EntryChanges<K, W> {
    let differs = |(key, value): &(&K, &V)| old.look_up(key) != Some(*value);
    EntryChanges {
        set: new.entries().filter(differs).map(|(key, value)| (key.clone(), owned(value))).collect(),
        gone: old.entries().filter(|(key, _)| new.look_up(key).is_none()).map(|(key, _)| key.clone()).collect(),
    }
}

fn apply<K, V, W>(changes: EntryChanges<K, W>, map: &mut impl Entries<K, V>, shared: impl Fn(W) -> V) {
    for key in &changes.gone {
        map.drop_entry(key);
    }
    for (key, value) in changes.set {
        map.put(key, shared(value));
    }
}

#[cfg(test)]
mod tests;

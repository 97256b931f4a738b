//! Leases that lie on what exists and on what is free.
//!
//! A lease is a fact, not a wish: one that lies apart, above a cap or on a cordoned node is taken as it is.
//! Refused is only what cannot have happened: GPUs that are not there, or that somebody else has.

use std::collections::BTreeSet;

use crate::fleet::{Lease, NodeSpec};
use crate::pack::NodeFree;
use crate::plan::{GpuGrant, Grant};
use crate::refusal::{LeaseRule, Refusal};
use crate::request::{Gpus, Shape};
use crate::units::{At, GPU_MILLI, LeaseId, NodeId};

use super::{Census, in_calendar};

impl Census {
    /// Whether a lease that is told as started can have. `find` gives a node and what is free on it. That neither the
    /// lease nor its request runs already is for the caller to know.
    pub fn check_lease<'a>(
        &self,
        lease: &Lease,
        find: impl Fn(NodeId) -> Option<(&'a NodeSpec, NodeFree)>,
    ) -> Result<(), Refusal> {
        self.check_lease_rules(lease, find).map_err(|rule| Refusal::Lease { lease: lease.id, rule })
    }

    fn check_lease_rules<'a>(
        &self,
        lease: &Lease,
        find: impl Fn(NodeId) -> Option<(&'a NodeSpec, NodeFree)>,
    ) -> Result<(), LeaseRule> {
        let request = &lease.request;
        self.check_terms(request)
            .and_then(|()| self.check_form(&request.shape))
            .map_err(|rule| LeaseRule::Request { request: request.id, rule: Box::new(rule) })?;
        let nodes = request.shape.nodes;
        let grants = lease.grants.len();
        if !(usize::from(nodes.min)..=usize::from(nodes.max)).contains(&grants) {
            return Err(LeaseRule::NodeCount { grants, min: nodes.min, max: nodes.max });
        }
        if let Some(at) = [lease.started_at, lease.saved_at].into_iter().find(|at| !in_calendar(*at)) {
            return Err(LeaseRule::Instant { at });
        }
        check_end(lease.started_at, lease.ends_at)?;
        let mut seen = BTreeSet::new();
        for grant in &lease.grants {
            let node = grant.node;
            let (spec, free) = find(node).ok_or(LeaseRule::UnknownNode { node })?;
            if !seen.insert(node) {
                return Err(LeaseRule::NodeTwice { node });
            }
            self.check_grant(&request.shape, grant, spec, &free)?;
        }
        Ok(())
    }

    fn check_grant(&self, shape: &Shape, grant: &Grant, spec: &NodeSpec, free: &NodeFree) -> Result<(), LeaseRule> {
        let node = grant.node;
        if shape.models != 0 && shape.models >> spec.model.0 & 1 == 0 {
            return Err(LeaseRule::Model { node });
        }
        let there = |gpu: u8| match gpu < spec.gpus {
            true => Ok(free.gpus[usize::from(gpu)]),
            false => Err(LeaseRule::NoSuchGpu { node, gpu, gpus: spec.gpus }),
        };
        let taken = |gpu| Err(LeaseRule::GpuTaken { node, gpu });
        match (shape.gpus, grant.gpus) {
            (Gpus::Whole(count), GpuGrant::Whole(mask)) if mask.count_ones() == u32::from(count) => {
                for gpu in (0..16).filter(|gpu| mask >> gpu & 1 == 1) {
                    if !there(gpu)?.is_whole() {
                        return taken(gpu);
                    }
                }
            }
            (Gpus::Milli(asked), GpuGrant::Milli { gpu, milli }) if asked == milli && milli < GPU_MILLI => {
                if there(gpu)?.free_milli() < milli {
                    return taken(gpu);
                }
            }
            (Gpus::Slice(slice), GpuGrant::Slice { gpu, slots }) => {
                let profile = &self.models[usize::from(spec.model.0)].slices[usize::from(slice.0)];
                if !profile.positions.contains(&slots) {
                    return Err(LeaseRule::SlicePosition { node, slots });
                }
                if there(gpu)?.free_slots() & slots != slots {
                    return taken(gpu);
                }
            }
            (Gpus::Whole(_) | Gpus::Milli(_) | Gpus::Slice(_), _) => return Err(LeaseRule::OtherThanAsked { node }),
        }
        if shape.cpu_milli > free.cpu_milli {
            return Err(LeaseRule::Cpu { node, asked_milli: shape.cpu_milli, free_milli: free.cpu_milli });
        }
        if shape.memory_mib > free.memory_mib {
            return Err(LeaseRule::Memory { node, asked_mib: shape.memory_mib, free_mib: free.memory_mib });
        }
        Ok(())
    }
}

/// Whether a lease may have this expected end.
pub fn check_lease_end(lease: LeaseId, started_at: At, ends_at: Option<At>) -> Result<(), Refusal> {
    check_end(started_at, ends_at).map_err(|rule| Refusal::Lease { lease, rule })
}

/// Whether a lease's work may be safe up to `saved_at`, `known` being what was told before.
pub fn check_lease_saved(lease: LeaseId, known: At, saved_at: At) -> Result<(), Refusal> {
    let refuse = |rule| Err(Refusal::Lease { lease, rule });
    if !in_calendar(saved_at) {
        return refuse(LeaseRule::Instant { at: saved_at });
    }
    if saved_at < known {
        return refuse(LeaseRule::SavedGoesBack { saved_at, known });
    }
    Ok(())
}

fn check_end(started_at: At, ends_at: Option<At>) -> Result<(), LeaseRule> {
    match ends_at {
        Some(at) if !in_calendar(at) => Err(LeaseRule::Instant { at }),
        Some(ends_at) if ends_at < started_at => Err(LeaseRule::EndsBeforeStart { ends_at, started_at }),
        Some(_) | None => Ok(()),
    }
}

//! Each start is what was asked: known, once, on as many distinct nodes in service, allowed and near enough, in time.

use std::collections::BTreeSet;

use crate::plan::{GpuGrant, Placement, Plan};
use crate::request::{Gpus, Request};

use super::{Facts, Holder, Violation, allows};

pub(super) fn check(facts: &Facts<'_>, plan: &Plan, found: &mut Vec<Violation>) {
    let mut starting = BTreeSet::new();
    for placement in &plan.placements {
        let request = placement.request;
        if !starting.insert(request) {
            found.push(Violation::StartsTwice { request });
        }
        match facts.requests.get(&request) {
            None => found.push(Violation::UnknownRequest { request }),
            Some(asked) => check_start(facts, plan, placement, asked, found),
        }
    }
}

fn check_start(facts: &Facts<'_>, plan: &Plan, placement: &Placement, asked: &Request, found: &mut Vec<Violation>) {
    let (request, shape) = (asked.id, &asked.shape);
    let (nodes, min, max) = (placement.grants.len(), shape.nodes.min, shape.nodes.max);
    if !(usize::from(min)..=usize::from(max)).contains(&nodes) {
        found.push(Violation::NodeCount { request, nodes, min, max });
    }
    if let Some(not_before) = asked.not_before.filter(|at| *at > plan.at) {
        found.push(Violation::TooEarly { request, not_before });
    }
    let mut seen = BTreeSet::new();
    let mut domains = BTreeSet::new();
    for grant in &placement.grants {
        let node = grant.node;
        if !seen.insert(node) {
            found.push(Violation::NodeTwice { request, node });
        }
        let Some(spec) = facts.nodes.get(&node) else { continue };
        if !facts.in_service(spec, plan.at) {
            found.push(Violation::OutOfService { request, node });
        }
        if !allows(shape.models, spec.model.0) {
            found.push(Violation::Model { request, node });
        }
        if !allows(shape.residencies, spec.residency.0) {
            found.push(Violation::Residency { request, node });
        }
        if let (Gpus::Slice(slice), GpuGrant::Slice { slots, .. }) = (shape.gpus, grant.gpus) {
            let model = facts.before.fleet.models.get(usize::from(spec.model.0));
            let profile = model.and_then(|model| model.slices.get(usize::from(slice.0)));
            if profile.is_none_or(|profile| !profile.positions.contains(&slots)) {
                found.push(Violation::OtherThanAsked { holder: Holder::Request(request), node });
            }
        }
        if let Some(level) = shape.within {
            domains.insert(facts.domain(spec, level));
        }
    }
    if let Some(level) = shape.within.filter(|_| domains.len() > 1 || domains.contains(&None)) {
        found.push(Violation::Apart { request, level });
    }
}

//! Requests of one node.

use crate::gang::NoPlace;
use crate::pack::SingleAsk;
use crate::plan::GpuGrant;
use crate::request::Shape;
use crate::state::topology::{NO_DOMAIN, NodeIx};
use crate::units::TenantClass;

use super::Planner;

/// Nearness to a lease is looked for in domains of at most so many nodes: beyond, near is no longer near.
const NEAR_NODES: usize = 256;

impl Planner {
    /// Finds a place for one member, and commits its watts.
    pub(super) fn place_single(
        &mut self,
        ask: &SingleAsk,
        shape: &Shape,
        class: TenantClass,
        near: Option<NodeIx>,
    ) -> Result<(NodeIx, GpuGrant), NoPlace> {
        let (node, gpus) = self.find_single(ask, shape, class, near)?;
        self.power.add(self.state.nodes.power[node.at()], class, i64::from(shape.peak_watts));
        Ok((node, gpus))
    }

    /// Finds a place for one member.
    pub(super) fn find_single(
        &mut self,
        ask: &SingleAsk,
        shape: &Shape,
        class: TenantClass,
        near: Option<NodeIx>,
    ) -> Result<(NodeIx, GpuGrant), NoPlace> {
        let watts = i64::from(shape.peak_watts);
        let (nodes, power) = (&self.state.nodes, &self.power);
        let feeder = self.state.feeder();
        let mut blocked = None;
        let mut hopeless = false;
        let mut powered = |node: u32| {
            if hopeless {
                return false;
            }
            let verdict = power.fits(nodes.power[NodeIx(node).at()], class, watts);
            if let Err(block) = verdict {
                blocked = Some(block);
                hopeless = feeder == Some(block.power);
            }
            verdict.is_ok()
        };
        let placed = near.and_then(|near| self.state.near(near, shape, &mut powered));
        let placed =
            placed.or_else(|| self.state.packer.best(ask, &mut powered).map(|(node, gpus)| (NodeIx(node), gpus)));
        placed.ok_or_else(|| blocked.map_or(NoPlace::Room, NoPlace::Power))
    }
}

impl crate::state::State {
    /// The tightest open node that has room for one member, in the smallest domain around `near` that has one.
    fn near(&self, near: NodeIx, shape: &Shape, mut usable: impl FnMut(u32) -> bool) -> Option<(NodeIx, GpuGrant)> {
        for table in &self.topology.order(None, None).tables {
            let table = &self.topology.tables()[usize::from(*table)];
            let domain = table.domain_of[near.at()];
            if domain == NO_DOMAIN || table.members(domain).len() > NEAR_NODES {
                continue;
            }
            let open = table
                .members(domain)
                .iter()
                .copied()
                .filter(|node| self.nodes.open(*node) && self.could_place(*node, shape));
            let best = open.filter(|node| usable(node.0)).min_by_key(|node| (self.nodes.whole[node.at()], *node));
            if let Some(node) = best {
                return self.grant(node, shape).map(|gpus| (node, gpus));
            }
        }
        None
    }
}

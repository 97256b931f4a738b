//! A small fleet on which leases lie where a test puts them.

use super::*;
use crate::fleet::{PowerSpec, QueueSpec};
use crate::pack::GpuFree;
use crate::plan::Grant;
use crate::request::{Gpus, Nodes};
use crate::units::{GPU_MILLI, RequestId};

pub(crate) const HOUR: i64 = 3600;
pub(crate) const NOW: At = At(100 * HOUR);

/// Nodes of eight GPUs, 64 CPUs and 512 GiB, four to a rack; leases lie where they are put.
#[derive(Debug)]
pub(crate) struct Yard {
    pub(crate) nodes: u32,
    pub(crate) queues: Vec<QueueSpec>,
    pub(crate) power: Vec<PowerSpec>,
    pub(crate) models: Vec<ModelSpec>,
    pub(crate) leases: Vec<Lease>,
    pub(crate) loss_milli: u32,
}

impl Yard {
    pub(crate) fn new(nodes: u32) -> Self {
        let queues = vec![queue(0, None), queue(0, None)];
        let power = vec![PowerSpec { parent: None, cap_watts: 1_000_000, floors: Vec::new() }];
        Self { nodes, queues, power, models: vec![ModelSpec::default()], leases: Vec::new(), loss_milli: 250 }
    }

    /// Adds a lease of eight GPUs on each of these nodes that loses so many hours of work.
    pub(crate) fn lease(&mut self, queue: u32, nodes: &[u32], hours_lost: i64) -> &mut Lease {
        let grants = nodes.iter().map(|node| (*node, GpuGrant::Whole(0xFF))).collect::<Vec<_>>();
        self.grant(queue, Gpus::Whole(8), &grants, hours_lost)
    }

    pub(crate) fn grant(&mut self, queue: u32, gpus: Gpus, grants: &[(u32, GpuGrant)], hours_lost: i64) -> &mut Lease {
        let id = u64::try_from(self.leases.len()).unwrap() + 1;
        let mut request = request(queue, gpus, grants.len());
        request.id = RequestId(1000 + id);
        request.stop = Stop::Restart;
        let grants = grants.iter().map(|&(node, gpus)| Grant { node: NodeId(u64::from(node)), gpus }).collect();
        let started_at = NOW.plus(-hours_lost * HOUR);
        self.leases.push(Lease { id: LeaseId(id), request, grants, started_at, ends_at: None, saved_at: started_at });
        self.leases.last_mut().unwrap()
    }

    pub(crate) fn ground(&self) -> Ground {
        let mut empty = NodeFree { cpu_milli: 64_000, memory_mib: 512 << 10, ..NodeFree::default() };
        empty.gpus[..8].fill(GpuFree::WHOLE);
        let mut sites: Vec<Site> = (0..self.nodes)
            .map(|node| Site {
                id: NodeId(u64::from(node)),
                gpus: 8,
                free: empty,
                model: ModelId(0),
                power: PowerId(u32::try_from(self.power.len()).unwrap() - 1),
                is_kept: false,
            })
            .collect();
        for lease in &self.leases {
            for (node, gpus) in places(lease) {
                let shape = &lease.request.shape;
                sites[node as usize].free.take(gpus, shape.cpu_milli, shape.memory_mib);
            }
        }
        let leases =
            self.leases.iter().map(|lease| (lease, places(lease).map(|(node, _)| node).collect(), Role::Asked));
        Ground::new(sites, leases, |lease| amount(&lease.request, lease.grants.len()), NOW)
    }

    pub(crate) fn shares(&self) -> Shares {
        let fleet = Amount { gpu_milli: i64::from(self.nodes) * 8000, ..Amount::default() };
        let mut shares = Shares::new(fleet, &self.queues);
        for lease in &self.leases {
            shares.charge(lease.request.queue, &amount(&lease.request, lease.grants.len()));
        }
        shares
    }

    pub(crate) fn tree(&self) -> PowerTree {
        let mut power = PowerTree::new(&self.power);
        let leaf = PowerId(u32::try_from(self.power.len()).unwrap() - 1);
        for lease in &self.leases {
            for _ in &lease.grants {
                power.add(leaf, lease.request.class, i64::from(lease.request.shape.peak_watts));
            }
        }
        power
    }

    pub(crate) fn decide(&self, request: &Request) -> Result<Decision, Declined> {
        self.decide_on(&self.ground(), request, &vec![0; self.nodes as usize])
    }

    pub(crate) fn decide_in_racks(&self, request: &Request) -> Result<Decision, Declined> {
        self.decide_on(&self.ground(), request, &self.racks())
    }

    pub(crate) fn racks(&self) -> Vec<u32> {
        (0..self.nodes).map(|node| node / 4).collect()
    }

    pub(crate) fn decide_on(
        &self,
        ground: &Ground,
        request: &Request,
        domain_of: &[u32],
    ) -> Result<Decision, Declined> {
        let mut power = self.tree();
        let before = power.clone();
        let asked = asked(request, domain_of);
        let shares = self.shares();
        let (models, loss_milli) = (&self.models, self.loss_milli);
        let pending = vec![Amount::default(); self.queues.len()];
        let fleet =
            Fleet { models, shares: &shares, pending: &pending, leaving: &pending, power: &mut power, loss_milli };
        let decision = decide(ground, &asked, fleet, |_| true, NOW);
        assert_eq!(power, before, "the power tree was only counted on");
        decision
    }
}

pub(crate) fn places(lease: &Lease) -> impl Iterator<Item = (u32, GpuGrant)> {
    lease.grants.iter().map(|grant| (u32::try_from(grant.node.0).unwrap(), grant.gpus))
}

pub(crate) fn asked<'a>(request: &'a Request, domain_of: &'a [u32]) -> Asked<'a> {
    let nodes = usize::from(request.shape.nodes.min);
    Asked { request, amount: amount(request, nodes), domain_of, otherwise_at: None }
}

pub(crate) fn amount(request: &Request, nodes: usize) -> Amount {
    let shape = &request.shape;
    let gpu_milli = match shape.gpus {
        Gpus::Whole(count) => i64::from(count) * i64::from(GPU_MILLI),
        Gpus::Milli(milli) => i64::from(milli),
        Gpus::Slice(_) => 500,
    };
    let nodes = i64::try_from(nodes).unwrap();
    Amount {
        gpu_milli: gpu_milli * nodes,
        cpu_milli: i64::from(shape.cpu_milli) * nodes,
        memory_mib: i64::from(shape.memory_mib) * nodes,
        watts: i64::from(shape.peak_watts) * nodes,
    }
}

pub(crate) fn queue(guaranteed: i64, limit: Option<i64>) -> QueueSpec {
    let limit =
        limit.map(|gpus| Amount { gpu_milli: gpus * 1000, cpu_milli: i64::MAX, memory_mib: i64::MAX, watts: i64::MAX });
    QueueSpec { parent: None, weight: 1, guaranteed: gpus(guaranteed), limit }
}

pub(crate) fn gpus(count: i64) -> Amount {
    Amount { gpu_milli: count * 1000, ..Amount::default() }
}

pub(crate) fn request(queue: u32, gpus: Gpus, nodes: usize) -> Request {
    let nodes = u16::try_from(nodes).unwrap();
    Request {
        id: RequestId(1),
        queue: QueueId(queue),
        class: TenantClass(0),
        priority: 0,
        submitted_at: NOW,
        order: 0,
        shape: Shape {
            gpus,
            nodes: Nodes { min: nodes, max: nodes },
            models: 0,
            cpu_milli: 1000,
            memory_mib: 1024,
            within: None,
            prefer: None,
            residencies: 0,
            expected_watts: 500,
            peak_watts: 1000,
        },
        run_seconds: None,
        deadline: None,
        not_before: None,
        deferrable: false,
        stop: Stop::Never,
        near: None,
    }
}

pub(crate) fn urgent(gpus: Gpus, nodes: usize) -> Request {
    Request { priority: 1, ..request(0, gpus, nodes) }
}

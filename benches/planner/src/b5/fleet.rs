//! The generated fleets: 8-GPU boxes in racks, scalable units and pods, and NVL72 racks of 18 trays.
//!
//! Node `i` of a fleet is `NodeId(i)`; nodes stand in topology order, so that each domain is a range of them.

use galerne_planner::fleet::{
    Amount, DomainSpec, FleetSpec, Health, Level, ModelSpec, NodeSpec, Policy, PowerSpec, QueueSpec,
};
use galerne_planner::units::{DomainId, ModelId, NodeId, PowerId, QueueId, ResidencyId};

/// The shape of a fleet; its numbers are those of the benchmark's definition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Layout {
    pub(crate) name: &'static str,
    pub(crate) nodes: u32,
    pub(crate) gpus_per_node: u8,
    pub(crate) nodes_per_rack: u32,
    pub(crate) nodes_per_unit: u32,
    pub(crate) nodes_per_pod: u32,
    /// Whether a rack is one NVLink domain.
    pub(crate) has_rack_fabric: bool,
}

/// 18,000 GPUs in boxes of eight.
pub(crate) const S1: Layout = boxes("S1", 2_250);
/// 45,000 GPUs in boxes of eight.
pub(crate) const S2: Layout = boxes("S2", 5_625);
/// 45,000 GPUs in NVL72 racks; a scalable unit is eight racks, a pod eight units.
pub(crate) const S3: Layout = Layout {
    name: "S3",
    nodes: 625 * 18,
    gpus_per_node: 4,
    nodes_per_rack: 18,
    nodes_per_unit: 144,
    nodes_per_pod: 1_152,
    has_rack_fabric: true,
};

/// Boxes of eight GPUs: racks of 4, scalable units of 32, pods of 256 nodes.
pub(crate) const fn boxes(name: &'static str, nodes: u32) -> Layout {
    Layout {
        name,
        nodes,
        gpus_per_node: 8,
        nodes_per_rack: 4,
        nodes_per_unit: 32,
        nodes_per_pod: 256,
        has_rack_fabric: false,
    }
}

/// Teams, in two levels: five departments of six.
pub(crate) const TEAMS: u32 = 30;
const DEPARTMENTS: u32 = 5;

/// Watts of one GPU with its part of the node: a DGX H100 is rated 10.2 kW, an NVL72 rack 132 kW for 72.
const RATED_WATTS_PER_BOX_GPU: u32 = 1_275;
const RATED_WATTS_PER_RACK_GPU: u32 = 1_833;

impl Layout {
    pub(crate) const fn gpus(&self) -> u32 {
        self.nodes * self.gpus_per_node as u32
    }

    pub(crate) const fn rated_watts_per_gpu(&self) -> u32 {
        if self.has_rack_fabric { RATED_WATTS_PER_RACK_GPU } else { RATED_WATTS_PER_BOX_GPU }
    }

    /// Nodes of each domain at a level of the topology.
    pub(crate) const fn nodes_per(&self, level: Level) -> u32 {
        match level {
            Level::Site => self.nodes,
            Level::Pod => self.nodes_per_pod,
            Level::Unit | Level::Spine | Level::Leaf => self.nodes_per_unit,
            Level::Rack | Level::NvLink => self.nodes_per_rack,
        }
    }

    /// The cap of one domain of the power tree, which has the shape of the topology.
    ///
    /// Power is oversubscribed above the rack: all nodes at their rated peak would exceed the cap of a unit or a pod.
    pub(crate) fn cap_watts(&self, level: Level, domain: u64) -> i64 {
        let size = u64::from(self.nodes_per(level));
        let nodes = size.min(u64::from(self.nodes).saturating_sub(domain * size));
        let milli = match level {
            Level::Site => 880,
            Level::Pod | Level::Unit => 900,
            Level::Rack | Level::Spine | Level::Leaf | Level::NvLink => 1000,
        };
        let rated = nodes * u64::from(self.gpus_per_node) * u64::from(self.rated_watts_per_gpu());
        i64::try_from(rated * milli / 1000).unwrap_or(i64::MAX)
    }

    /// CPU of a node, in thousandths: 24 for each GPU (two 96-core sockets beside eight of them).
    pub(crate) fn cpu_milli(&self) -> u32 {
        24_000 * u32::from(self.gpus_per_node)
    }

    /// Memory of a node: 256 GiB for each GPU.
    pub(crate) fn memory_mib(&self) -> u32 {
        256 * 1024 * u32::from(self.gpus_per_node)
    }

    /// The fleet as the planner hears of it, with fair share, guarantees and power caps.
    pub(crate) fn spec(&self, policy: Policy) -> FleetSpec {
        let mut spec = FleetSpec { models: vec![ModelSpec::default()], policy, ..FleetSpec::default() };
        let tree = Tree::build(self, &mut spec);
        for node in 0..self.nodes {
            spec.nodes.push(NodeSpec {
                id: NodeId(u64::from(node)),
                model: ModelId(0),
                gpus: self.gpus_per_node,
                cpu_milli: self.cpu_milli(),
                memory_mib: self.memory_mib(),
                domain: DomainId(tree.rack_domain(self, node)),
                fabric: tree.fabric(self, node).map(DomainId),
                power: PowerId(tree.rack_power(self, node)),
                residency: ResidencyId(0),
                health: Health::Ready,
                hold_until: None,
                failures: 0,
                observed_days: 0,
            });
        }
        spec.queues = self.queues();
        spec
    }

    /// Departments first, then teams; half of each team's share is guaranteed.
    pub(crate) fn queues(&self) -> Vec<QueueSpec> {
        let total: u32 = (0..TEAMS).map(team_weight).sum();
        let department = |_| QueueSpec { parent: None, weight: 1, guaranteed: Amount::default(), limit: None };
        let mut queues: Vec<QueueSpec> = (0..DEPARTMENTS).map(department).collect();
        for team in 0..TEAMS {
            let part = team % DEPARTMENTS;
            let weight = team_weight(team);
            let guaranteed = self.amount(weight, total * 2);
            queues.push(QueueSpec { parent: Some(QueueId(part)), weight, guaranteed, limit: None });
            let above = &mut queues[part as usize];
            above.guaranteed = sum(above.guaranteed, guaranteed);
        }
        for department in 0..DEPARTMENTS {
            let members = (0..TEAMS).filter(|team| team % DEPARTMENTS == department);
            queues[department as usize].weight = members.map(team_weight).sum();
        }
        queues
    }

    /// `part / whole` of everything.
    fn amount(&self, part: u32, whole: u32) -> Amount {
        let of = |all: i64| all * i64::from(part) / i64::from(whole);
        let nodes = i64::from(self.nodes);
        Amount {
            gpu_milli: of(i64::from(self.gpus()) * 1000),
            cpu_milli: of(nodes * i64::from(self.cpu_milli())),
            memory_mib: of(nodes * i64::from(self.memory_mib())),
            watts: of(i64::from(self.gpus()) * i64::from(self.rated_watts_per_gpu())),
        }
    }
}

/// The weight of a team: 1 to 4, the same in every fleet.
pub(crate) const fn team_weight(team: u32) -> u32 {
    1 + team % 4
}

/// The leaf queue of a team.
pub(crate) const fn queue_of(team: u32) -> QueueId {
    QueueId(DEPARTMENTS + team)
}

fn sum(a: Amount, b: Amount) -> Amount {
    Amount {
        gpu_milli: a.gpu_milli + b.gpu_milli,
        cpu_milli: a.cpu_milli + b.cpu_milli,
        memory_mib: a.memory_mib + b.memory_mib,
        watts: a.watts + b.watts,
    }
}

/// Where the domains and power points of each level begin in the lists of the fleet.
struct Tree {
    first_rack: u32,
    first_fabric: Option<u32>,
    first_rack_power: u32,
}

impl Tree {
    /// Domains site, pods, units, racks, fabric; power points of the same shape, each with its cap.
    fn build(layout: &Layout, spec: &mut FleetSpec) -> Self {
        spec.domains.push(DomainSpec { level: Level::Site, parent: None });
        spec.power.push(PowerSpec { parent: None, cap_watts: layout.cap_watts(Level::Site, 0), floors: Vec::new() });
        let mut above = (0, layout.nodes);
        for level in [Level::Pod, Level::Unit, Level::Rack] {
            let size = layout.nodes_per(level);
            let first = count(&spec.domains);
            for start in (0..layout.nodes).step_by(size as usize) {
                let parent = above.0 + start / above.1;
                spec.domains.push(DomainSpec { level, parent: Some(DomainId(parent)) });
                let cap_watts = layout.cap_watts(level, u64::from(start / size));
                spec.power.push(PowerSpec { parent: Some(PowerId(parent)), cap_watts, floors: Vec::new() });
            }
            above = (first, size);
        }
        let first_rack = above.0;
        let first_fabric = layout.has_rack_fabric.then(|| {
            let first = count(&spec.domains);
            let racks = layout.nodes.div_ceil(layout.nodes_per_rack);
            spec.domains.extend((0..racks).map(|_| DomainSpec { level: Level::NvLink, parent: None }));
            first
        });
        // Until the fabric, both lists grew together.
        Self { first_rack, first_fabric, first_rack_power: first_rack }
    }

    fn rack_domain(&self, layout: &Layout, node: u32) -> u32 {
        self.first_rack + node / layout.nodes_per_rack
    }

    fn rack_power(&self, layout: &Layout, node: u32) -> u32 {
        self.first_rack_power + node / layout.nodes_per_rack
    }

    fn fabric(&self, layout: &Layout, node: u32) -> Option<u32> {
        self.first_fabric.map(|first| first + node / layout.nodes_per_rack)
    }
}

fn count<T>(items: &[T]) -> u32 {
    u32::try_from(items.len()).unwrap_or(u32::MAX)
}

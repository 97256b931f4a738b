//! Small fleets and requests to start from, and dice with a seed.

use galerne_planner::fleet::{
    Amount, DomainSpec, FleetSpec, Health, Lease, Level, ModelSpec, NodeSpec, Policy, PowerSpec, QueueSpec, SliceSpec,
};
use galerne_planner::plan::{GpuGrant, Grant};
use galerne_planner::request::{Gpus, Nodes, Request, Shape, Stop};
use galerne_planner::units::{
    At, DomainId, LeaseId, ModelId, NodeId, PowerId, QueueId, RequestId, ResidencyId, TenantClass,
};

/// SplitMix64 (Steele, Lea, Flood, 2014): a seed gives the same throws everywhere.
#[derive(Debug, Clone)]
pub(crate) struct Dice(pub(crate) u64);

impl Dice {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// Zero to `bound`, without it.
    pub(crate) fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }

    /// True `percent` times in a hundred.
    pub(crate) fn hits(&mut self, percent: u64) -> bool {
        self.below(100) < percent
    }

    pub(crate) fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[usize::try_from(self.below(from.len() as u64)).unwrap()]
    }
}

/// Partitions of an 80 GB GPU as its vendor lists them: of one, two, three, four and seven compute slots.
pub(crate) fn slices() -> Vec<SliceSpec> {
    vec![
        SliceSpec { positions: (0..7).map(|at| 1 << at).collect(), compute: 1 },
        SliceSpec { positions: vec![0b11, 0b1100, 0b11_0000], compute: 2 },
        SliceSpec { positions: vec![0b1111, 0b1111_0000], compute: 3 },
        SliceSpec { positions: vec![0b1111], compute: 4 },
        SliceSpec { positions: vec![0b1111_1111], compute: 7 },
    ]
}

/// A site of two units of two racks of three nodes of eight GPUs: every second node of the other model; NVLink joins
/// the racks' nodes two and one. Queue 0 has 1 and 2 below it, 3 stands alone.
pub(crate) fn fleet() -> FleetSpec {
    let domain = |level, parent: Option<u32>| DomainSpec { level, parent: parent.map(DomainId) };
    let mut domains = vec![domain(Level::Site, None), domain(Level::Unit, Some(0)), domain(Level::Unit, Some(0))];
    domains.extend((0..4).map(|rack| domain(Level::Rack, Some(1 + rack / 2))));
    domains.push(domain(Level::Leaf, None));
    domains.extend((0..8).map(|_| domain(Level::NvLink, Some(7))));
    let point =
        |parent: Option<u32>, cap_watts| PowerSpec { parent: parent.map(PowerId), cap_watts, floors: Vec::new() };
    let mut power = vec![point(None, 130_000)];
    power.extend((0..4).map(|_| point(Some(0), 36_000)));
    power[0].floors = vec![(TenantClass(1), 20_000)];
    power[1].floors = vec![(TenantClass(1), 10_000)];
    let nodes = (0_u32..12)
        .map(|at| node(at, DomainId(3 + at / 3), DomainId(8 + at / 3 * 2 + at % 3 / 2), PowerId(1 + at / 3)));
    FleetSpec {
        models: vec![ModelSpec { slices: slices() }, ModelSpec::default()],
        domains,
        power,
        nodes: nodes.collect(),
        queues: vec![queue(None, 1), queue(Some(0), 2), queue(Some(0), 1), queue(None, 1)],
        policy: Policy::default(),
    }
}

fn node(at: u32, domain: DomainId, fabric: DomainId, power: PowerId) -> NodeSpec {
    NodeSpec {
        id: NodeId(u64::from(at) + 1),
        model: ModelId(u8::try_from(at % 2).unwrap()),
        gpus: 8,
        cpu_milli: 96_000,
        memory_mib: 1_000_000,
        domain,
        fabric: Some(fabric),
        power,
        residency: ResidencyId(u8::try_from(at / 6).unwrap()),
        health: Health::Ready,
        hold_until: None,
        failures: 0,
        observed_days: 0,
    }
}

pub(crate) fn queue(parent: Option<u32>, weight: u32) -> QueueSpec {
    QueueSpec { parent: parent.map(QueueId), weight, guaranteed: Amount::default(), limit: None }
}

/// One whole GPU on one node.
pub(crate) const fn shape() -> Shape {
    Shape {
        gpus: Gpus::Whole(1),
        nodes: Nodes { min: 1, max: 1 },
        models: 0,
        cpu_milli: 8_000,
        memory_mib: 64_000,
        within: None,
        prefer: None,
        residencies: 0,
        expected_watts: 700,
        peak_watts: 1_000,
    }
}

pub(crate) const fn request(id: u64) -> Request {
    Request {
        id: RequestId(id),
        queue: QueueId(1),
        class: TenantClass(0),
        priority: 0,
        submitted_at: At(1_000),
        order: id,
        shape: shape(),
        run_seconds: Some(3_600),
        deadline: None,
        not_before: None,
        deferrable: false,
        stop: Stop::Restart,
        near: None,
    }
}

/// A lease of one GPU of one node.
pub(crate) fn lease(id: u64, node: u64, gpu: u8) -> Lease {
    Lease {
        id: LeaseId(id),
        request: request(1_000 + id),
        grants: vec![Grant { node: NodeId(node), gpus: GpuGrant::Whole(1 << gpu) }],
        started_at: At(1_000),
        ends_at: Some(At(5_000)),
        saved_at: At(1_000),
    }
}

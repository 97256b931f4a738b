//! A small site, what runs on it, and one request that waits.

use std::collections::BTreeMap;

use crate::event::{Event, Forecast};
use crate::fleet::{
    Amount, DomainSpec, FleetSpec, Health, Lease, Level, ModelSpec, NodeSpec, Policy, PowerSpec, QueueSpec, SliceSpec,
};
use crate::plan::{GpuGrant, Grant, Plan};
use crate::planner::Planner;
use crate::reason::Why;
use crate::request::{Gpus, Nodes, Request, Shape, Stop};
use crate::units::{
    At, DomainId, LeaseId, ModelId, NodeId, PowerId, QueueId, RequestId, ResidencyId, SliceId, TenantClass,
};
use crate::words::{Language, Names, Unnamed, Words};

pub(super) const NOW: At = At(1_000_000);
pub(super) const MINUTE: i64 = 60;
pub(super) const HOUR: i64 = 3600;
pub(super) const GIB: u32 = 1024;
pub(super) const FREE: Amount =
    Amount { gpu_milli: i64::MAX, cpu_milli: i64::MAX, memory_mib: i64::MAX, watts: i64::MAX };

pub(super) const LAB: QueueId = QueueId(0);
pub(super) const RESEARCH: QueueId = QueueId(1);
pub(super) const VOICE: QueueId = QueueId(2);
pub(super) const SITE: PowerId = PowerId(0);
pub(super) const ROW: PowerId = PowerId(1);

/// A situation.
#[derive(Clone)]
pub(super) struct Scene {
    /// One sentence, for the reader of the transcript.
    pub(super) about: &'static str,
    pub(super) spec: FleetSpec,
    pub(super) events: Vec<Event>,
    /// Who waits.
    pub(super) asked: RequestId,
    names: BTreeMap<&'static str, Vec<String>>,
    clock: Option<fn(Language, At) -> String>,
    is_named: bool,
}

/// A rack of equal nodes.
#[derive(Clone, Copy)]
pub(super) struct Rack {
    pub(super) nodes: u64,
    pub(super) gpus: u8,
    pub(super) model: u8,
    pub(super) cpu_milli: u32,
    pub(super) memory_mib: u32,
    pub(super) residency: u8,
    pub(super) unit: u32,
}

/// Of nodes with eight GPUs, 96 cores, 1 TiB.
pub(super) const BOXES: Rack =
    Rack { nodes: 4, gpus: 8, model: 0, cpu_milli: 96_000, memory_mib: 1024 * GIB, residency: 0, unit: 0 };

/// The whole of such a node.
pub(super) const WHOLE: Shape = Shape {
    gpus: Gpus::Whole(8),
    nodes: Nodes { min: 1, max: 1 },
    models: 0,
    cpu_milli: 0,
    memory_mib: 0,
    within: None,
    prefer: None,
    residencies: 0,
    expected_watts: 0,
    peak_watts: 0,
};

pub(super) fn nodes(number: u16) -> Nodes {
    Nodes { min: number, max: number }
}

pub(super) fn request(id: u64, shape: Shape) -> Request {
    Request {
        id: RequestId(id),
        queue: RESEARCH,
        class: TenantClass(0),
        priority: 0,
        submitted_at: At(NOW.0 - HOUR + i64::try_from(id).unwrap()),
        order: id,
        shape,
        run_seconds: None,
        deadline: None,
        not_before: None,
        deferrable: false,
        stop: Stop::Never,
        near: None,
    }
}

fn power(parent: Option<u32>, cap_watts: i64) -> PowerSpec {
    PowerSpec { parent: parent.map(PowerId), cap_watts, floors: Vec::new() }
}

impl Scene {
    /// Racks of one pod; each rack is an NVLink domain and a point below the one row.
    pub(super) fn new(about: &'static str, racks: &[Rack]) -> Self {
        let units = racks.iter().map(|rack| rack.unit).max().unwrap_or(0) + 1;
        let domain = |level, parent: u32| DomainSpec { level, parent: Some(DomainId(parent)) };
        let mut domains = vec![DomainSpec { level: Level::Site, parent: None }, domain(Level::Pod, 0)];
        domains.extend((0..units).map(|_| domain(Level::Unit, 1)));
        let mut domain_names = vec!["fr-par-1".to_owned(), "hall-a".to_owned()];
        domain_names.extend((1..=units).map(|unit| format!("su-{unit}")));
        let mut points = vec![power(None, 10_000_000), power(Some(0), 5_000_000)];
        let mut point_names = vec!["fr-par-1".to_owned(), "row-1".to_owned()];
        let mut specs: Vec<NodeSpec> = Vec::new();
        for (place, rack) in racks.iter().enumerate() {
            domains.push(domain(Level::Rack, 2 + rack.unit));
            domains.push(DomainSpec { level: Level::NvLink, parent: None });
            let last = u32::try_from(domains.len() - 1).unwrap();
            let name = format!("{}{}", if rack.gpus == 4 { "nvl-" } else { "r-" }, place + 1);
            domain_names.extend([name.clone(), format!("{name}-nvlink")]);
            points.push(power(Some(1), 1_000_000));
            point_names.push(name);
            for _ in 0..rack.nodes {
                specs.push(NodeSpec {
                    id: NodeId(u64::try_from(specs.len()).unwrap() + 1),
                    model: ModelId(rack.model),
                    gpus: rack.gpus,
                    cpu_milli: rack.cpu_milli,
                    memory_mib: rack.memory_mib,
                    domain: DomainId(last - 1),
                    fabric: Some(DomainId(last)),
                    power: PowerId(u32::try_from(points.len() - 1).unwrap()),
                    residency: ResidencyId(rack.residency),
                    health: Health::Ready,
                    hold_until: None,
                    failures: 0,
                    observed_days: 30,
                });
            }
        }
        // The profile takes three of seven compute slots and half of the memory.
        let slices = vec![SliceSpec { positions: vec![0b0000_1111, 0b1111_0000], compute: 3 }];
        let queue =
            |parent: Option<QueueId>| QueueSpec { parent, weight: 1, guaranteed: Amount::default(), limit: None };
        let spec = FleetSpec {
            models: vec![ModelSpec::default(), ModelSpec::default(), ModelSpec { slices }],
            domains,
            power: points,
            nodes: specs,
            queues: vec![queue(None), queue(Some(LAB)), queue(Some(LAB))],
            policy: Policy { reservations: 0, ..Policy::default() },
        };
        let names = BTreeMap::from([("domain", domain_names), ("power", point_names)]);
        Self { about, spec, events: Vec::new(), asked: RequestId(1), names, clock: None, is_named: true }
    }

    pub(super) fn then(mut self, event: Event) -> Self {
        self.events.push(event);
        self
    }

    /// A lease on the first GPUs of nodes, from `gpu` on; the number of a lease is that of its request.
    pub(super) fn runs(self, id: u64, shape: Shape, gpu: u8, on: &[u64], ends_in: Option<i64>) -> Self {
        self.runs_for(request(id, shape), gpu, on, ends_in)
    }

    pub(super) fn runs_for(self, request: Request, gpu: u8, on: &[u64], ends_in: Option<i64>) -> Self {
        let gpus = match request.shape.gpus {
            Gpus::Whole(count) => GpuGrant::Whole(u16::try_from(((1_u32 << count) - 1) << gpu).unwrap()),
            Gpus::Milli(milli) => GpuGrant::Milli { gpu, milli },
            Gpus::Slice(_) => GpuGrant::Slice { gpu, slots: 0b0000_1111 },
        };
        let mut request = request;
        request.shape.nodes = nodes(u16::try_from(on.len()).unwrap());
        request.shape.within = None;
        let lease = Lease {
            id: LeaseId(request.id.0),
            grants: on.iter().map(|node| Grant { node: NodeId(*node), gpus }).collect(),
            request,
            started_at: At(NOW.0 - HOUR),
            ends_at: ends_in.map(|seconds| NOW.plus(seconds)),
            saved_at: At(NOW.0 - HOUR),
        };
        self.then(Event::LeaseStarted(lease))
    }

    /// Whole nodes that are in use.
    pub(super) fn busy(self, id: u64, on: &[u64], ends_in: Option<i64>) -> Self {
        self.runs(id, WHOLE, 0, on, ends_in)
    }

    /// The request of the transcript.
    pub(super) fn asks(mut self, request: Request) -> Self {
        self.asked = request.id;
        self.then(Event::RequestAdded(request))
    }

    pub(super) fn also(self, request: Request) -> Self {
        self.then(Event::RequestAdded(request))
    }

    pub(super) fn limit(mut self, queue: QueueId, limit: Amount) -> Self {
        self.spec.queues[queue.0 as usize].limit = Some(limit);
        self
    }

    pub(super) fn guaranteed(mut self, queue: QueueId, guaranteed: Amount) -> Self {
        self.spec.queues[queue.0 as usize].guaranteed = guaranteed;
        self
    }

    pub(super) fn cap(mut self, point: PowerId, cap_watts: i64) -> Self {
        self.spec.power[point.0 as usize].cap_watts = cap_watts;
        self
    }

    pub(super) fn floor(mut self, point: PowerId, class: u8, watts: i64) -> Self {
        self.spec.power[point.0 as usize].floors.push((TenantClass(class), watts));
        self
    }

    pub(super) fn reservations(mut self, number: u16) -> Self {
        self.spec.policy.reservations = number;
        self
    }

    pub(super) fn forecast(self, cost: &[u32]) -> Self {
        let gpu_milli = vec![1_000_000; cost.len()];
        self.then(Event::ForecastChanged(Forecast { from: NOW, step_seconds: 3600, cost: cost.to_vec(), gpu_milli }))
    }

    pub(super) fn told_by(mut self, clock: fn(Language, At) -> String) -> Self {
        self.clock = Some(clock);
        self
    }

    pub(super) fn unnamed(mut self) -> Self {
        self.is_named = false;
        self
    }

    /// The planner after a pass, and what it answered; placements are carried out where asked.
    pub(super) fn planned(&self) -> (Planner, Plan) {
        let mut planner = self.told();
        let plan = planner.plan(NOW);
        (planner, plan)
    }

    /// The planner before any pass.
    pub(super) fn told(&self) -> Planner {
        let mut planner = Planner::new(self.spec.clone()).unwrap();
        for event in &self.events {
            planner.apply(event.clone()).unwrap();
        }
        planner
    }

    pub(super) fn why(&self) -> Why {
        find(&self.planned().1, self.asked).unwrap_or_else(|| panic!("it starts: {}", self.about))
    }

    pub(super) fn request(&self) -> Request {
        self.request_of(self.asked)
    }

    pub(super) fn request_of(&self, id: RequestId) -> Request {
        let asked = self.events.iter().rev().find_map(|event| {
            let Event::RequestAdded(request) = event else { return None };
            (request.id == id).then(|| request.clone())
        });
        asked.expect("a scene has the request it is about")
    }

    pub(super) fn transcript(&self) -> String {
        let ((_, plan), request) = (self.planned(), self.request());
        let why = find(&plan, self.asked).unwrap_or_else(|| panic!("it starts: {}", self.about));
        let text = |language: Language| {
            let instant = |at: At| self.clock.map(|clock| clock(language, at)).unwrap_or_default();
            let names: &dyn Names = if self.is_named { self } else { &Unnamed };
            let instant = self.clock.is_some().then_some(&instant as &dyn Fn(At) -> String);
            let words = Words { language, names, now: NOW, instant };
            let giving: String = plan.preemptions.iter().map(|lease| words.gives_way(lease) + "\n").collect();
            words.tree(&request, &why) + &giving
        };
        format!("# {}\n\n{}\n{}", self.about, text(Language::English), text(Language::French))
    }
}

/// Why a request of a plan waits.
pub(super) fn find(plan: &Plan, request: RequestId) -> Option<Why> {
    let (_, reason) = plan.waiting.iter().find(|(waiting, _)| *waiting == request)?;
    Some(plan.reasons[*reason as usize].clone())
}

impl Names for Scene {
    fn queue(&self, id: QueueId) -> Option<String> {
        ["lab", "research", "voice"].get(id.0 as usize).map(|name| (*name).to_owned())
    }

    fn domain(&self, id: DomainId) -> Option<String> {
        self.names["domain"].get(id.0 as usize).cloned()
    }

    fn power(&self, id: PowerId) -> Option<String> {
        self.names["power"].get(id.0 as usize).cloned()
    }

    fn node(&self, id: NodeId) -> Option<String> {
        Some(format!("n{}", id.0))
    }

    fn model(&self, id: ModelId) -> Option<String> {
        ["h100", "b200", "a100"].get(usize::from(id.0)).map(|name| (*name).to_owned())
    }

    fn slice(&self, _: ModelId, _: SliceId) -> Option<String> {
        Some("3g.40gb".to_owned())
    }

    fn residency(&self, id: ResidencyId) -> Option<String> {
        ["fr", "de", "any"].get(usize::from(id.0)).map(|name| (*name).to_owned())
    }

    fn lease(&self, id: LeaseId) -> Option<String> {
        Some(format!("run-{}", id.0))
    }

    fn request(&self, id: RequestId) -> Option<String> {
        Some(format!("job-{}", id.0))
    }
}

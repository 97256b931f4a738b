//! Scenarios as transcripts: what is recorded and done at each look, against engines that do as they are told.

use std::collections::BTreeMap;

use galerne_model::ids::{EndpointId, ModelId};
use galerne_model::inference::{EndpointSpec, EndpointState, RoutingPolicy, Visibility};
use galerne_model::limits::{REPLICA_START_DEADLINE_MS, REPLICA_UNREADY_MAX_MS};
use galerne_model::power::Metering;
use proptest::prelude::*;
use uuid::Uuid;

use super::*;

struct World {
    endpoint: Option<Endpoint>,
    replicas: Vec<Replica>,
    engines: BTreeMap<ReplicaId, Engine>,
    /// What a start leads to; absent means it stays starting.
    on_start: Option<Engine>,
    node: Option<NodeSeat>,
    weights: Weights,
    in_flight: u32,
    last_request_at: Option<Timestamp>,
    now: Timestamp,
    minted: u128,
    log: String,
}

fn second(n: i64) -> Timestamp {
    Timestamp::from_second(1_780_000_000 + n).expect("in range")
}

fn worker(model: u128) -> Backend {
    Backend::Worker {
        model_id: ModelId::from_uuid(Uuid::from_u128(model)),
        context_tokens: None,
        sequences: None,
        threads: None,
    }
}

fn running(probe: Probe) -> Engine {
    Engine::Running(Running {
        url: "http://127.0.0.1:1".into(),
        context_tokens: Some(2048),
        sequences: Some(4),
        abilities: None,
        probe,
    })
}

fn crash() -> Engine {
    let text = "signal 9 (killed) ended it".to_owned();
    Engine::Ended(Ended { kind: EndKind::Crashed, code: "worker_crashed".into(), text, hint: None })
}

fn refusal(code: &str) -> Engine {
    let ended = Ended {
        kind: EndKind::Refused,
        code: code.into(),
        text: "it needs 90 GB and 64 GB are free".into(),
        hint: Some("choose a smaller model".into()),
    };
    Engine::Ended(ended)
}

fn asleep_status() -> EndpointStatus {
    EndpointStatus {
        state: EndpointState::Starting,
        replicas_ready: 0,
        replicas_wanted: 0,
        observed_generation: 0,
        reason: Reason::default(),
        last_request_at: None,
    }
}

impl World {
    fn new(min: u32, max: u32, backend: Backend) -> Self {
        let spec = EndpointSpec {
            backend,
            replicas_min: min,
            replicas_max: max,
            idle_seconds: 60,
            limits: Default::default(),
            visibility: Visibility::Tenant,
            price: None,
            paused: false,
            routing: RoutingPolicy::default(),
            metering: Metering::default(),
        };
        let endpoint = Endpoint {
            id: EndpointId::from_uuid(Uuid::from_u128(1)),
            tenant_id: None,
            project_id: None,
            name: "small".into(),
            generation: 1,
            created_at: second(0),
            updated_at: second(0),
            spec,
            status: asleep_status(),
        };
        Self {
            endpoint: Some(endpoint),
            replicas: Vec::new(),
            engines: BTreeMap::new(),
            on_start: Some(running(Probe::Passed)),
            node: Some(NodeSeat::Open(NodeId::from_uuid(Uuid::from_u128(5)))),
            weights: Weights::Present,
            in_flight: 0,
            last_request_at: None,
            now: second(0),
            minted: 0,
            log: String::new(),
        }
    }

    fn endpoint(&mut self) -> &mut Endpoint {
        self.endpoint.as_mut().expect("not deleted")
    }

    fn sightings(&self) -> Vec<Sighting> {
        let engine = |replica: &Replica| match &replica.spec.backend {
            Backend::External { urls, .. } => {
                match self.engines.get(&replica.id).cloned().unwrap_or_else(|| running(Probe::Passed)) {
                    Engine::Running(seen) => {
                        Engine::Running(Running { url: urls[replica.spec.index as usize].clone(), ..seen })
                    }
                    other @ (Engine::Absent | Engine::Starting | Engine::Ended(_)) => other,
                }
            }
            Backend::Worker { .. } => self.engines.get(&replica.id).cloned().unwrap_or(Engine::Absent),
        };
        self.replicas.iter().map(|replica| Sighting { replica: replica.clone(), engine: engine(replica) }).collect()
    }

    fn plan(&self) -> Plan {
        let replicas = self.sightings();
        step(&View {
            endpoint: self.endpoint.as_ref(),
            replicas: &replicas,
            node: self.node,
            weights: self.weights,
            in_flight: self.in_flight,
            last_request_at: self.last_request_at,
            now: self.now,
        })
    }

    /// One look: record, then act.
    fn look(&mut self) -> Plan {
        let plan = self.plan();
        let at = self.now.duration_since(second(0)).as_secs();
        let mut words: Vec<String> = Vec::new();
        for change in &plan.changes {
            words.push(self.record(change));
        }
        for action in &plan.actions {
            words.push(self.act(*action));
        }
        if let (Some(status), Some(endpoint)) = (&plan.status, &mut self.endpoint) {
            if status.state != endpoint.status.state || status.reason.text != endpoint.status.reason.text {
                words.push(format!("endpoint {:?}: {}", status.state, status.reason.text));
            }
            endpoint.status = status.clone();
        }
        if !words.is_empty() {
            self.log.push_str(&format!("{at:>4} s  {}\n", words.join(" | ")));
        }
        plan
    }

    /// Looks until a look changes nothing.
    fn settle(&mut self) {
        for _ in 0..20 {
            let before = (self.replicas.clone(), self.engines.clone());
            self.look();
            if before == (self.replicas.clone(), self.engines.clone()) {
                return;
            }
        }
        panic!("it never settles:\n{}", self.log);
    }

    fn at(&mut self, seconds: i64) {
        self.now = second(seconds);
        self.settle();
    }

    fn record(&mut self, change: &Change) -> String {
        match change {
            Change::Create { spec, status } => {
                self.minted += 1;
                let id = ReplicaId::from_uuid(Uuid::from_u128(self.minted));
                let (created_at, updated_at) = (self.now, self.now);
                let (spec, status) = (spec.as_ref().clone(), status.as_ref().clone());
                let name = format!("r{}", self.minted);
                let replica = Replica {
                    id,
                    tenant_id: None,
                    project_id: None,
                    name,
                    generation: 1,
                    created_at,
                    updated_at,
                    spec,
                    status,
                };
                self.replicas.push(replica);
                format!("create r{}", self.minted)
            }
            Change::Update { id, status } => {
                let replica = self.replicas.iter_mut().find(|replica| replica.id == *id).expect("it is recorded");
                let moved = replica.status.state != status.state;
                replica.status = status.as_ref().clone();
                if moved {
                    format!("{} {:?}: {}", replica.name, status.state, status.reason.text)
                } else {
                    format!("{} ~", replica.name)
                }
            }
            Change::Remove { id, .. } => {
                self.replicas.retain(|replica| replica.id != *id);
                format!("remove {}", name(*id))
            }
        }
    }

    fn act(&mut self, action: Action) -> String {
        match action {
            Action::Start(id) => {
                assert!(
                    self.replicas.iter().any(|r| r.id == id && r.status.state == ReplicaState::Starting),
                    "only `Starting` is started"
                );
                let engine = self.on_start.clone().unwrap_or(Engine::Starting);
                self.engines.entry(id).or_insert(engine);
                format!("start {}", name(id))
            }
            // A graceful stop takes until the test says so.
            Action::Stop(id) => format!("stop {}", name(id)),
            Action::Kill(id) => {
                self.engines.remove(&id);
                format!("kill {}", name(id))
            }
            Action::Forget(id) => {
                self.engines.remove(&id);
                format!("forget {}", name(id))
            }
        }
    }

    fn see(&mut self, replica: u128, engine: Engine) {
        self.engines.insert(ReplicaId::from_uuid(Uuid::from_u128(replica)), engine);
    }

    fn gone(&mut self, replica: u128) {
        self.engines.remove(&ReplicaId::from_uuid(Uuid::from_u128(replica)));
    }

    fn state(&self) -> EndpointState {
        self.endpoint.as_ref().expect("not deleted").status.state
    }

    fn transcript(&self, expected: &str) {
        assert_eq!(self.log.trim_end(), expected.trim_matches('\n'), "transcript:\n{}", self.log);
    }
}

fn name(id: ReplicaId) -> String {
    format!("r{}", id.uuid().as_u128())
}

#[test]
fn an_endpoint_comes_up_and_settles() {
    let mut world = World::new(2, 2, worker(1));
    world.settle();
    world.transcript(
        "
   0 s  create r1 | create r2 | endpoint Starting: none of 2 replicas are ready yet
   0 s  start r1 | start r2
   0 s  r1 Ready: it passed its last probe | r2 Ready: it passed its last probe | endpoint Ready: 2 of 2 replicas are ready",
    );
    let again = world.plan();
    assert_eq!((again.changes, again.actions), (vec![], vec![]), "a second look changes nothing");
    assert_eq!(again.status.as_ref(), Some(&world.endpoint().status));
}

#[test]
fn a_crash_loop_waits_twice_as_long_each_time_and_recovers() {
    let mut world = World::new(1, 1, worker(1));
    world.on_start = Some(crash());
    for at in 0..=8 {
        world.at(at);
    }
    world.on_start = Some(running(Probe::Passed));
    world.at(16);
    world.transcript(
        "
   0 s  create r1 | endpoint Starting: none of 1 replica is ready yet
   0 s  start r1
   0 s  r1 Backoff: signal 9 (killed) ended it | forget r1 | endpoint Degraded: 0 of 1 replica is ready and something is in the way
   1 s  r1 Starting: start 2 begins | start r1
   1 s  r1 Backoff: signal 9 (killed) ended it | forget r1
   2 s  r1 Starting: start 3 begins | start r1
   2 s  r1 Backoff: signal 9 (killed) ended it | forget r1
   4 s  r1 Starting: start 4 begins | start r1
   4 s  r1 Backoff: signal 9 (killed) ended it | forget r1
   8 s  r1 Starting: start 5 begins | start r1
   8 s  r1 Backoff: signal 9 (killed) ended it | forget r1
  16 s  r1 Starting: start 6 begins | start r1
  16 s  r1 Ready: it passed its last probe | endpoint Ready: 1 of 1 replica is ready",
    );
    assert_eq!(world.replicas[0].status.restarts, 5);
    world.at(16 + 601);
    assert_eq!(world.replicas[0].status.restarts, 0, "ten good minutes are a new beginning");
}

#[test]
fn a_refusal_is_shown_with_its_hint_and_tried_again_slowly() {
    let mut world = World::new(1, 1, worker(1));
    world.on_start = Some(refusal(NOT_ENOUGH_MEMORY));
    world.settle();
    let status = world.endpoint().status.clone();
    assert_eq!(status.state, EndpointState::Degraded);
    let reason = &status.reason.because[0];
    assert_eq!((reason.code.as_str(), reason.holds), (NOT_ENOUGH_MEMORY, false));
    assert_eq!(world.replicas[0].status.url, None);
    assert_eq!(reason.text, "replica 0 is waiting for its next start: it needs 90 GB and 64 GB are free");
    assert_eq!(reason.next[0].text, "choose a smaller model");
    world.at(59);
    assert_eq!(world.replicas[0].status.restarts, 1, "not before a minute");
    world.at(60);
    assert_eq!(world.replicas[0].status.restarts, 2);
}

#[test]
fn a_failing_probe_takes_a_replica_out_and_a_long_failure_restarts_it() {
    let mut world = World::new(1, 1, worker(1));
    world.settle();
    world.log.clear();
    world.see(1, running(Probe::Failed { why: "it did not answer in time".into() }));
    world.at(10);
    world.see(1, running(Probe::Passed));
    world.at(12);
    world.see(1, running(Probe::Failed { why: "it did not answer in time".into() }));
    world.at(20);
    world.at(35);
    world.at(50);
    world.transcript(
        "
  10 s  r1 Unready: it did not answer in time | endpoint Degraded: 0 of 1 replica is ready and something is in the way
  12 s  r1 Ready: it passed its last probe | endpoint Ready: 1 of 1 replica is ready
  20 s  r1 Unready: it did not answer in time | endpoint Degraded: 0 of 1 replica is ready and something is in the way
  50 s  r1 Backoff: its probes failed for too long | kill r1",
    );
    assert_eq!(REPLICA_UNREADY_MAX_MS, 30_000);
}

#[test]
fn a_start_that_never_ends_is_given_up() {
    let mut world = World::new(1, 1, worker(1));
    world.on_start = None;
    world.at(0);
    world.at(599);
    assert_eq!(world.replicas[0].status.state, ReplicaState::Starting);
    world.at(600);
    assert_eq!(world.replicas[0].status.reason.code, "worker_start_timeout");
    assert_eq!(REPLICA_START_DEADLINE_MS, 600_000);
    assert!(world.engines.is_empty(), "it was killed");
}

#[test]
fn it_scales_to_zero_and_back_with_the_next_request() {
    let mut world = World::new(0, 1, worker(1));
    world.at(0);
    world.last_request_at = Some(second(100));
    world.on_start = None;
    world.at(100);
    world.see(1, Engine::Starting);
    world.at(170);
    world.see(1, running(Probe::Passed));
    world.at(171);
    world.at(230);
    world.at(231);
    world.gone(1);
    world.at(233);
    world.transcript(
        "
   0 s  endpoint Asleep: it is scaled to zero; the next request wakes it and waits
 100 s  create r1 | endpoint Starting: none of 1 replica is ready yet
 100 s  start r1
 171 s  r1 Ready: it passed its last probe | endpoint Ready: 1 of 1 replica is ready
 231 s  r1 Draining: its endpoint needs fewer replicas | stop r1 | endpoint Asleep: it is scaled to zero; the next request wakes it and waits
 231 s  stop r1
 233 s  remove r1 | forget r1",
    );
}

#[test]
fn a_request_in_flight_keeps_it_awake_however_long_it_takes() {
    let mut world = World::new(0, 1, worker(1));
    world.last_request_at = Some(second(0));
    world.at(0);
    world.in_flight = 1;
    world.at(500);
    assert_eq!(world.state(), EndpointState::Ready);
    world.in_flight = 0;
    world.at(501);
    assert_eq!(world.state(), EndpointState::Asleep);
}

#[test]
fn waiting_requests_add_replicas_and_idleness_takes_them_back() {
    let mut world = World::new(1, 3, worker(1));
    world.at(0);
    world.last_request_at = Some(second(10));
    world.in_flight = 5;
    world.at(10);
    assert_eq!(world.endpoint().status.replicas_wanted, 2, "five requests, four decoded together");
    world.in_flight = 99;
    world.at(11);
    assert_eq!(world.endpoint().status.replicas_wanted, 3, "as many as it may have");
    assert_eq!(world.endpoint().status.replicas_ready, 3);
    world.in_flight = 0;
    world.at(40);
    assert_eq!(world.endpoint().status.replicas_wanted, 3, "a pause is not idleness");
    world.at(71);
    assert_eq!(world.endpoint().status.replicas_wanted, 1);
    assert_eq!(world.replicas.iter().filter(|r| r.status.state == ReplicaState::Draining).count(), 2);
}

#[test]
fn another_model_is_started_beside_the_old_one_before_that_drains() {
    let mut world = World::new(1, 1, worker(1));
    world.at(0);
    world.log.clear();
    world.endpoint().spec.backend = worker(2);
    world.endpoint().generation = 2;
    world.at(5);
    world.gone(1);
    world.at(6);
    world.transcript(
        "
   5 s  create r2
   5 s  start r2
   5 s  r1 Draining: the endpoint asks for another backend | r2 Ready: it passed its last probe | stop r1
   5 s  stop r1
   6 s  remove r1 | forget r1",
    );
    assert_eq!(world.endpoint().status.observed_generation, 2);
}

#[test]
fn replicas_are_replaced_one_at_a_time_and_those_that_are_not_ready_go_first() {
    let mut world = World::new(2, 2, worker(1));
    world.at(0);
    world.see(1, running(Probe::Failed { why: "it did not answer in time".into() }));
    world.at(1);
    world.log.clear();
    world.endpoint().spec.backend = worker(2);
    world.on_start = None;
    world.at(5);
    world.see(3, running(Probe::Passed));
    world.at(6);
    world.gone(1);
    world.at(7);
    world.transcript(
        "
   5 s  create r3
   5 s  start r3
   6 s  r1 Draining: the endpoint asks for another backend | r3 Ready: it passed its last probe | stop r1 | endpoint Ready: 2 of 2 replicas are ready
   6 s  stop r1
   7 s  create r4 | remove r1 | forget r1
   7 s  start r4",
    );
}

#[test]
fn of_too_many_replicas_the_ready_ones_stay() {
    let mut world = World::new(2, 2, worker(1));
    world.at(0);
    world.see(1, running(Probe::Failed { why: "it did not answer in time".into() }));
    world.at(1);
    (world.endpoint().spec.replicas_min, world.endpoint().spec.replicas_max) = (1, 1);
    world.at(2);
    let states: Vec<ReplicaState> = world.replicas.iter().map(|replica| replica.status.state).collect();
    assert_eq!(states, [ReplicaState::Draining, ReplicaState::Ready]);
}

#[test]
fn a_crashed_replica_has_no_address_and_a_busy_endpoint_is_not_written_for_each_request() {
    let mut world = World::new(1, 1, worker(1));
    world.at(0);
    world.last_request_at = Some(second(10));
    world.at(10);
    let written = world.endpoint().status.clone();
    assert_eq!(written.last_request_at, Some(second(10)));
    world.last_request_at = Some(second(40));
    world.at(40);
    assert_eq!(world.endpoint().status, written, "half a minute is near enough");
    world.last_request_at = Some(second(70));
    world.at(70);
    assert_eq!(world.endpoint().status.last_request_at, Some(second(70)));
    world.see(1, crash());
    world.at(71);
    assert_eq!((world.replicas[0].status.state, world.replicas[0].status.url.clone()), (ReplicaState::Backoff, None));
}

#[test]
fn a_change_of_limits_restarts_nothing() {
    let mut world = World::new(1, 1, worker(1));
    world.at(0);
    world.log.clear();
    world.endpoint().spec.idle_seconds = 5;
    world.endpoint().generation = 2;
    world.at(5);
    world.transcript("");
}

#[test]
fn where_two_do_not_fit_into_memory_the_old_one_goes_first() {
    let mut world = World::new(1, 1, worker(1));
    world.at(0);
    world.log.clear();
    world.endpoint().spec.backend = worker(2);
    world.on_start = Some(refusal(NOT_ENOUGH_MEMORY));
    world.at(5);
    world.gone(1);
    world.on_start = Some(running(Probe::Passed));
    world.at(7);
    world.transcript(
        "
   5 s  create r2
   5 s  start r2
   5 s  r1 Draining: the endpoint asks for another backend | r2 Backoff: it needs 90 GB and 64 GB are free | stop r1 | forget r2 | endpoint Degraded: 0 of 1 replica is ready and something is in the way
   5 s  stop r1
   7 s  remove r1 | r2 Starting: start 2 begins | forget r1 | start r2
   7 s  r2 Ready: it passed its last probe | endpoint Ready: 1 of 1 replica is ready",
    );
}

#[test]
fn a_pause_drains_and_a_resume_starts_again() {
    let mut world = World::new(1, 1, worker(1));
    world.at(0);
    world.log.clear();
    world.endpoint().spec.paused = true;
    world.at(5);
    world.gone(1);
    world.at(6);
    world.endpoint().spec.paused = false;
    world.at(7);
    world.transcript(
        "
   5 s  r1 Draining: its endpoint is paused | stop r1 | endpoint Paused: a person paused it
   5 s  stop r1
   6 s  remove r1 | forget r1
   7 s  create r2 | endpoint Starting: none of 1 replica is ready yet
   7 s  start r2
   7 s  r2 Ready: it passed its last probe | endpoint Ready: 1 of 1 replica is ready",
    );
}

#[test]
fn a_deleted_endpoint_drains_even_while_it_starts_and_a_slow_drain_is_killed() {
    let mut world = World::new(2, 2, worker(1));
    world.on_start = None;
    world.at(0);
    world.see(2, running(Probe::Passed));
    world.at(1);
    world.log.clear();
    world.endpoint = None;
    world.at(5);
    world.at(25);
    world.transcript(
        "
   5 s  r1 Draining: its endpoint was deleted | r2 Draining: its endpoint was deleted | kill r1 | stop r2
   5 s  remove r1 | forget r1 | stop r2
   5 s  stop r2
  25 s  kill r2
  25 s  remove r2 | forget r2",
    );
}

#[test]
fn after_a_restart_of_the_control_plane_workers_start_at_once() {
    let mut world = World::new(1, 1, worker(1));
    world.at(0);
    world.log.clear();
    world.engines.clear();
    world.at(3);
    world.transcript(
        "
   3 s  r1 Starting: it is started again after a restart of the control plane | start r1 | endpoint Starting: none of 1 replica is ready yet
   3 s  r1 Ready: it passed its last probe | endpoint Ready: 1 of 1 replica is ready",
    );
    assert_eq!(world.replicas[0].status.restarts, 0);
}

#[test]
fn external_servers_are_only_probed() {
    let backend = |urls: &[&str]| Backend::External {
        urls: urls.iter().map(|url| (*url).to_owned()).collect(),
        upstream_model: "m".into(),
        context_tokens: 4096,
        power: None,
        residency: None,
    };
    let mut world = World::new(1, 1, backend(&["http://a", "http://b"]));
    world.at(0);
    world.see(2, running(Probe::Failed { why: "nothing listens there".into() }));
    world.at(1);
    world.at(3_600);
    assert_eq!(world.replicas[1].status.state, ReplicaState::Unready, "it is not ours to restart");
    world.endpoint().spec.backend = backend(&["http://b"]);
    world.gone(2);
    world.at(3_601);
    assert_eq!(world.replicas.len(), 1);
    assert_eq!(world.replicas[0].status.url.as_deref(), Some("http://b"));
    assert!(!world.log.contains("start r") && !world.log.contains("kill"), "{}", world.log);
}

#[test]
fn what_stands_in_the_way_of_a_start_is_named() {
    let cases = [
        (Weights::Missing, World::new(1, 1, worker(1)).node, "model_missing"),
        (Weights::Present, None, "no_node"),
        (Weights::Present, Some(NodeSeat::Cordoned(NodeId::from_uuid(Uuid::from_u128(5)))), "node_cordoned"),
    ];
    for (weights, node, code) in cases {
        let mut world = World::new(1, 1, worker(1));
        (world.weights, world.node) = (weights, node);
        world.at(0);
        assert_eq!(world.state(), EndpointState::Degraded);
        assert_eq!(world.endpoint().status.reason.because[0].code, code);
        assert!(world.replicas.is_empty());
    }
}

#[test]
fn a_replica_whose_weights_are_gone_says_so_instead_of_starting_for_ever() {
    let mut world = World::new(1, 1, worker(1));
    world.at(0);
    world.engines.clear();
    world.on_start = None;
    world.weights = Weights::Missing;
    world.at(5);
    assert_eq!(world.state(), EndpointState::Degraded);
    assert_eq!(world.endpoint().status.reason.because[0].code, "model_missing");
}

#[test]
fn a_deadline_set_by_a_clock_that_has_jumped_back_does_not_wait_for_years() {
    let mut world = World::new(1, 1, worker(1));
    world.on_start = Some(crash());
    world.at(1_000_000);
    world.on_start = Some(running(Probe::Passed));
    world.at(0);
    assert_eq!(world.state(), EndpointState::Ready);
}

proptest! {
    #[test]
    fn whatever_happens_to_engines_rows_stay_few_and_a_quiet_world_becomes_ready(events in proptest::collection::vec((0u8..9, 1u128..6, 0i64..40), 0..60)) {
        let mut world = World::new(1, 2, worker(1));
        let mut now = 0;
        for (event, replica, seconds) in events {
            now += seconds;
            world.now = second(now);
            let known = world.replicas.iter().any(|r| r.id.uuid().as_u128() == replica);
            match event {
                0 if known => world.see(replica, crash()),
                1 if known => world.see(replica, refusal("model_invalid")),
                2 if known => world.see(replica, running(Probe::Failed { why: "x".into() })),
                3 => world.endpoint().spec.backend = worker(replica),
                4 => world.endpoint().spec.paused ^= true,
                5 => world.engines.clear(),
                6 => world.on_start = Some(crash()),
                7 => world.on_start = Some(running(Probe::Passed)),
                _ => world.last_request_at = Some(second(now)),
            }
            world.settle();
            prop_assert!(world.replicas.len() <= 8, "{}", world.log);
        }
        world.endpoint().spec.paused = false;
        world.on_start = Some(running(Probe::Passed));
        for _ in 0..8 {
            now += 61;
            world.now = second(now);
            world.settle();
            world.engines.retain(|id, _| world.replicas.iter().any(|r| r.id == *id && r.status.state != ReplicaState::Draining));
        }
        world.settle();
        prop_assert_eq!(world.state(), EndpointState::Ready, "{}", world.log);
    }
}

//! A small site: a store in a temporary directory, a tenant with a key, and the loops.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use galerne_control::clock::Clock;
use galerne_control::{Handle, Inputs, node, start};
use galerne_drivers::fetch::FetchSettings;
use galerne_drivers::grid::Grid;
use galerne_model::event::Event;
use galerne_model::identity::{
    ApiKey, ApiKeySpec, ApiKeyStatus, Empty, KeyScope, Principal, PrincipalKind, PrincipalSpec, Project, ProjectSpec,
    RateLimits, Role, RoleBinding, RoleBindingSpec, Scope, Tenant, TenantSpec,
};
use galerne_model::ids::{
    EndpointId, EventId, KeyId, ModelId, NodeId, PrincipalId, ProjectId, RoleBindingId, TenantId,
};
use galerne_model::inference::{
    Backend, Endpoint, EndpointSpec, EndpointState, EndpointStatus, Model, ModelFacts, ModelSpec, ModelStatus,
    RoutingPolicy, Visibility,
};
use galerne_model::node::NodeFacts;
use galerne_model::reason::Reason;
use galerne_model::resource::Resource;
use galerne_model::snapshot::{EndpointEntry, Snapshot, Spending};
use galerne_model::units::Bytes;
use galerne_store::{EventFilter, Kind, Store, StoreUrl};
use jiff::Timestamp;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use uuid::Uuid;

/// Longer than anything here takes on a busy machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

pub(crate) struct Site {
    pub(crate) directory: tempfile::TempDir,
    pub(crate) store: Store,
    pub(crate) node_id: NodeId,
    pub(crate) tenant_id: TenantId,
    pub(crate) project_id: ProjectId,
    pub(crate) principal_id: PrincipalId,
    pub(crate) key_id: KeyId,
    pub(crate) model_id: ModelId,
    pub(crate) engine: FakeEngine,
}

/// Running loops and what they publish.
pub(crate) struct Loops {
    pub(crate) handle: Handle,
    pub(crate) snapshot: watch::Receiver<Arc<Snapshot>>,
    pub(crate) spending: watch::Receiver<Arc<Spending>>,
    tasks: TaskTracker,
    cancel: CancellationToken,
}

/// Answers `/health` and `/v1/models` in the engine's place.
pub(crate) struct FakeEngine {
    pub(crate) url: String,
    pub(crate) addr: String,
    pub(crate) is_healthy: Arc<AtomicBool>,
}

impl Site {
    pub(crate) async fn new() -> Self {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let store = Store::open(&StoreUrl::sqlite(directory.path().join("galerne.db"))).await.expect("a new database");
        let now = Clock::system().now();
        let facts = NodeFacts { machine_digest: "m".into(), ..NodeFacts::default() };
        let node_id = node::enrol(&store, "here", &facts, "FR", now).await.expect("enrolled");
        let (tenant_id, project_id) = (TenantId::from_uuid(Uuid::now_v7()), ProjectId::from_uuid(Uuid::now_v7()));
        let site = Self {
            directory,
            store,
            node_id,
            tenant_id,
            project_id,
            principal_id: PrincipalId::from_uuid(Uuid::now_v7()),
            key_id: KeyId::from_uuid(Uuid::now_v7()),
            model_id: ModelId::from_uuid(Uuid::now_v7()),
            engine: FakeEngine::listen().await,
        };
        site.seed().await;
        site
    }

    async fn seed(&self) {
        let (tenant, project) = (Some(self.tenant_id), Some(self.project_id));
        let tenant_row: Tenant = row(self.tenant_id, (None, None), "lab", TenantSpec::default(), Empty {});
        let limits = RateLimits { requests_per_minute: Some(60), ..RateLimits::default() };
        let project_spec = ProjectSpec { limits, ..ProjectSpec::default() };
        let project_row: Project = row(self.project_id, (tenant, None), "notes", project_spec, Empty {});
        let principal_spec = PrincipalSpec { kind: PrincipalKind::User, disabled: false, description: String::new() };
        let principal: Principal = row(self.principal_id, (tenant, None), "ada", principal_spec, Empty {});
        let scope = Scope::Project { tenant_id: self.tenant_id, project_id: self.project_id };
        let binding_spec = RoleBindingSpec { principal_id: self.principal_id, role: Role::Member, scope };
        let binding: RoleBinding =
            row(RoleBindingId::from_uuid(Uuid::now_v7()), (tenant, project), "b", binding_spec, Empty {});
        let key_spec = ApiKeySpec {
            principal_id: self.principal_id,
            scopes: vec![KeyScope::Inference],
            expires_at: None,
            limits: RateLimits::default(),
            model_limits: Vec::new(),
            service_tier: None,
        };
        let key_status = ApiKeyStatus {
            prefix: "galerne_".into(),
            last_four: "0000".into(),
            digest: "d1".into(),
            last_used_at: None,
            revoked_at: None,
            rotated_to: None,
        };
        let key: ApiKey = row(self.key_id, (tenant, project), "k", key_spec, key_status);
        let facts = ModelFacts { context_tokens: 2048, quantisation: "Q8_0".into(), ..ModelFacts::default() };
        let model_spec = ModelSpec {
            source: "file:///m.gguf".into(),
            sha256: "0".repeat(64),
            source_sha256: None,
            licence: "Apache-2.0".into(),
            size: Bytes(1),
            facts,
            notes: vec![],
        };
        let model: Model =
            row(self.model_id, (tenant, project), "tiny", model_spec, ModelStatus { blob: "blobs/x".into() });
        let mut tx = self.store.begin().await.expect("a transaction");
        tx.insert(&tenant_row).await.expect("new");
        tx.insert(&project_row).await.expect("new");
        tx.insert(&principal).await.expect("new");
        tx.insert(&binding).await.expect("new");
        tx.insert(&key).await.expect("new");
        tx.insert(&model).await.expect("new");
        tx.record(seeded());
        tx.commit().await.expect("committed");
    }

    /// Writes the program that stands for `galerne-worker`; `body` runs after the arguments were logged.
    pub(crate) fn worker(&self, body: &str) -> PathBuf {
        let path = self.directory.path().join("worker");
        let text = body.replace("{ready}", &self.ready_line());
        // A new file each time: one that is being executed cannot be written.
        let fresh = self.directory.path().join(format!("worker-{}", Uuid::now_v7()));
        fs::write(&fresh, format!("#!/bin/sh\n{text}\n")).expect("a file");
        fs::set_permissions(&fresh, fs::Permissions::from_mode(0o755)).expect("our own file");
        fs::rename(&fresh, &path).expect("the same folder");
        path
    }

    /// A worker that becomes ready, writes its process id to `pid`, and lives until it is told to stop.
    pub(crate) fn good_worker(&self) -> PathBuf {
        self.worker(&format!("echo $$ > {}\n{{ready}}\nexec cat >/dev/null", self.pid_file().display()))
    }

    pub(crate) fn pid_file(&self) -> PathBuf {
        self.directory.path().join("pid")
    }

    /// The process id the worker wrote, if it lives.
    pub(crate) fn living_worker(&self) -> Option<String> {
        let pid = fs::read_to_string(self.pid_file()).ok()?.trim().to_owned();
        PathBuf::from("/proc").join(&pid).exists().then_some(pid)
    }

    fn ready_line(&self) -> String {
        let told = r#""context":1024,"sequences":4,"abilities":{"fills_gaps":true,"calls_functions":false}"#;
        format!(r#"echo '{{"ready":true,"addr":"{}","backend":"cpu",{told}}}'"#, self.engine.addr)
    }

    pub(crate) async fn start(&self) -> Loops {
        self.start_by(Clock::system()).await
    }

    pub(crate) async fn start_by(&self, clock: Clock) -> Loops {
        let (snapshot_tx, snapshot) = watch::channel(Arc::default());
        let (spending_tx, spending) = watch::channel(Arc::default());
        let (tasks, cancel) = (TaskTracker::new(), CancellationToken::new());
        let inputs = Inputs {
            store: self.store.clone(),
            data: self.directory.path().to_owned(),
            worker: self.directory.path().join("worker"),
            node_id: self.node_id,
            source: 1,
            pue_thousandths: 1_200,
            zone: "FR".into(),
            grid: Grid::with_defaults(),
            fetch: FetchSettings::default(),
            snapshot: snapshot_tx,
            spending: spending_tx,
            clock,
        };
        let handle = start(inputs, &tasks, cancel.clone()).await.expect("the loops start");
        Loops { handle, snapshot, spending, tasks, cancel }
    }

    pub(crate) fn backend(&self) -> Backend {
        Backend::Worker { model_id: self.model_id, context_tokens: None, sequences: None, threads: None }
    }

    pub(crate) async fn endpoint(&self, backend: Backend, change: impl FnOnce(&mut EndpointSpec)) -> EndpointId {
        let mut spec = EndpointSpec {
            backend,
            replicas_min: 1,
            replicas_max: 1,
            idle_seconds: 600,
            limits: RateLimits::default(),
            visibility: Visibility::Tenant,
            price: None,
            paused: false,
            routing: RoutingPolicy::default(),
            metering: galerne_model::power::Metering::default(),
        };
        change(&mut spec);
        let status = EndpointStatus {
            state: EndpointState::Starting,
            replicas_ready: 0,
            replicas_wanted: 0,
            observed_generation: 0,
            reason: Reason::default(),
            last_request_at: None,
        };
        let id = EndpointId::from_uuid(Uuid::now_v7());
        let endpoint: Endpoint = row(id, (Some(self.tenant_id), Some(self.project_id)), "small", spec, status);
        self.insert(&endpoint).await;
        id
    }

    pub(crate) async fn insert<K: Kind>(&self, resource: &K) {
        let mut tx = self.store.begin().await.expect("a transaction");
        tx.insert(resource).await.expect("the name is free");
        tx.record(seeded());
        tx.commit().await.expect("committed");
    }

    /// Texts of all events with this action, oldest first.
    pub(crate) async fn events(&self, action: &str) -> Vec<String> {
        let filter = EventFilter { action: Some(action.to_owned()), ..EventFilter::default() };
        let events = self.store.events_forward(&filter, 500).await.expect("events");
        events.into_iter().map(|event| event.text).collect()
    }
}

impl Loops {
    /// Waits until the gateway's view is as wanted.
    pub(crate) async fn view(&self, what: &str, wanted: impl Fn(&Snapshot) -> bool) -> Arc<Snapshot> {
        let mut snapshots = self.snapshot.clone();
        let waited = tokio::time::timeout(PATIENCE, snapshots.wait_for(|snapshot| wanted(snapshot))).await;
        match waited.map(|waited| waited.map(|snapshot| Arc::clone(&snapshot))) {
            Ok(Ok(snapshot)) => snapshot,
            Ok(Err(_)) => panic!("the publisher is gone while waiting until {what}"),
            Err(_) => panic!("never {what}: {:?}", self.snapshot.borrow()),
        }
    }

    /// Waits until an endpoint's entry is as wanted.
    pub(crate) async fn entry(
        &self,
        id: EndpointId,
        what: &str,
        wanted: impl Fn(&EndpointEntry) -> bool,
    ) -> Arc<EndpointEntry> {
        let snapshot = self.view(what, |snapshot| snapshot.endpoints.get(&id).is_some_and(|entry| wanted(entry))).await;
        Arc::clone(&snapshot.endpoints[&id])
    }

    pub(crate) async fn ready(&self, id: EndpointId) -> Arc<EndpointEntry> {
        self.entry(id, "ready", |entry| !entry.replicas.is_empty()).await
    }

    /// Ends the loops and waits for every task.
    pub(crate) async fn stop(self) {
        self.cancel.cancel();
        self.tasks.close();
        tokio::time::timeout(PATIENCE, self.tasks.wait()).await.expect("every task ends");
    }
}

impl FakeEngine {
    async fn listen() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let addr = listener.local_addr().expect("bound").to_string();
        let is_healthy = Arc::new(AtomicBool::new(true));
        let health = Arc::clone(&is_healthy);
        let serve = async move {
            while let Ok((mut socket, _)) = listener.accept().await {
                let mut head = vec![0u8; 4096];
                if socket.read(&mut head).await.is_err() {
                    continue;
                }
                let status = if health.load(Ordering::SeqCst) { "200 OK" } else { "503 Service Unavailable" };
                let body = r#"{"object":"list","data":[{"id":"upstream"}]}"#;
                let answer =
                    format!("HTTP/1.1 {status}\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{body}", body.len());
                if socket.write_all(answer.as_bytes()).await.is_err() {
                    continue;
                }
            }
        };
        // It ends with the test's runtime.
        TaskTracker::new().spawn(serve);
        Self { url: format!("http://{addr}"), addr, is_healthy }
    }
}

pub(crate) fn row<I, S, T>(
    id: I,
    owner: (Option<TenantId>, Option<ProjectId>),
    name: &str,
    spec: S,
    status: T,
) -> Resource<I, S, T> {
    let now = Clock::system().now();
    Resource {
        id,
        tenant_id: owner.0,
        project_id: owner.1,
        name: name.into(),
        generation: 1,
        created_at: now,
        updated_at: now,
        spec,
        status,
    }
}

fn seeded() -> Event {
    Event {
        id: EventId::from_uuid(Uuid::now_v7()),
        sequence: 0,
        at: now(),
        actor: galerne_model::event::Actor::component("test"),
        action: "test.seed".into(),
        tenant_id: None,
        project_id: None,
        resource: None,
        decision: galerne_model::event::Decision::Allowed,
        before_digest: None,
        after_digest: None,
        text: "seeded".into(),
    }
}

pub(crate) fn now() -> Timestamp {
    Clock::system().now()
}

//! A gateway with everything around it: keys, endpoints, budgets, and a ledger that settles what the spool ships.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::io::Write as _;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use galerne_core::budget::Payer;
use galerne_gateway::{Bounds, Gateway, GatewayConfig, Spool, SpoolLimits, UsageBatch, Wake, digest};
use galerne_model::identity::{KeyScope, RateLimits};
use galerne_model::ids::{BudgetId, EndpointId, KeyId, PrincipalId, ProjectId, ReplicaId, RequestId, TenantId};
use galerne_model::inference::{Abilities, RoutingPolicy, Visibility};
use galerne_model::ledger::{EnergyMethod, UsageRecord};
use galerne_model::money::{Amounts, BudgetLimits, BudgetSubject, TokenPrice};
use galerne_model::snapshot::{
    BudgetEntry, EndpointEntry, EnergyBound, EnergyBoundSource, EnergyRate, KeyEntry, PeriodSpending, ReplicaEnergy,
    ReplicaEntry, Snapshot, Spending,
};
use galerne_model::token;
use galerne_model::units::{MicrogramsCo2e, Micros, Millijoules, Milliwatts};
use jiff::Timestamp;
use reqwest::header::HeaderMap;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::sync::{mpsc, watch};
use tokio_util::task::TaskTracker;
use uuid::Uuid;

const PEPPER: &[u8] = b"pepper of the tests";
pub(crate) const PICOS: i128 = 1_000_000;

pub(crate) fn uuid(n: u128) -> Uuid {
    Uuid::from_u128(n)
}

/// The key with the number `n`: tenant, project and principal have the same number.
pub(crate) fn key(n: u8) -> String {
    token::key_from_digits(&[n; token::KEY_BODY_CHARS])
}

pub(crate) fn key_entry(n: u8) -> KeyEntry {
    let id = uuid(u128::from(n));
    KeyEntry {
        id: KeyId::from_uuid(id),
        tenant_id: TenantId::from_uuid(id),
        project_id: ProjectId::from_uuid(id),
        principal_id: PrincipalId::from_uuid(id),
        scopes: vec![KeyScope::Inference],
        may_infer: true,
        expires_at: None,
        limits: RateLimits::default(),
        model_limits: Vec::new(),
        service_tier: None,
    }
}

/// Endpoint `name` of tenant 1 with replicas at `urls`; one euro per million prompt tokens, two per million completion tokens.
pub(crate) fn endpoint(n: u8, name: &str, urls: &[&str]) -> EndpointEntry {
    let id = uuid(u128::from(n));
    let replica = |(index, url): (usize, &&str)| ReplicaEntry {
        id: ReplicaId::from_uuid(uuid(u128::from(n) * 100 + index as u128)),
        url: (*url).to_owned(),
        energy: ReplicaEnergy::CpuTime,
        kv_events: None,
        is_metered: false,
        seats: Some(8),
    };
    EndpointEntry {
        id: EndpointId::from_uuid(id),
        name: name.to_owned(),
        tenant_id: TenantId::from_uuid(uuid(1)),
        project_id: ProjectId::from_uuid(uuid(1)),
        visibility: Visibility::Tenant,
        created_at: Timestamp::UNIX_EPOCH,
        context_tokens: 2048,
        can_chat: true,
        can_embed: true,
        abilities: Abilities::default(),
        paused: false,
        wakes: false,
        not_ready_because: String::new(),
        limits: RateLimits::default(),
        price: TokenPrice { prompt: Micros(1_000_000), cached: Micros(100_000), completion: Micros(2_000_000) },
        price_book_id: None,
        energy_bound: Some(EnergyBound {
            prompt_microjoules: 1_000,
            completion_microjoules: 10_000,
            source: EnergyBoundSource::Ledger,
        }),
        residency: Some("FR".to_owned()),
        upstream_model: "weights".to_owned(),
        routing: RoutingPolicy::default(),
        replicas: urls.iter().enumerate().map(replica).collect(),
    }
}

pub(crate) fn budget(n: u8, subject: BudgetSubject, limit: i64) -> BudgetEntry {
    BudgetEntry {
        id: BudgetId::from_uuid(uuid(u128::from(n))),
        name: format!("budget-{n}"),
        subject,
        limits: BudgetLimits::money(Micros(limit)),
        period_end: None,
    }
}

/// Key 1, and one endpoint `m` with replicas at `urls`.
pub(crate) fn snapshot(urls: &[&str]) -> Snapshot {
    let mut snapshot = Snapshot {
        energy: EnergyRate {
            active: Milliwatts(5_000),
            method: Some(EnergyMethod::Estimated),
            intensity_mg_per_kwh: 50_000,
        },
        ..Snapshot::default()
    };
    add_key(&mut snapshot, 1, key_entry(1));
    add_endpoint(&mut snapshot, endpoint(1, "m", urls));
    snapshot
}

pub(crate) fn add_key(snapshot: &mut Snapshot, n: u8, entry: KeyEntry) {
    snapshot.keys.insert(digest(PEPPER, &key(n)), Arc::new(entry));
}

pub(crate) fn add_endpoint(snapshot: &mut Snapshot, entry: EndpointEntry) {
    snapshot.endpoints.insert(entry.id, Arc::new(entry));
}

/// What the stand-in for the ledger has settled: the store's rules, in memory.
#[derive(Debug, Default)]
pub(crate) struct Ledger {
    pub(crate) records: BTreeMap<i64, UsageRecord>,
    pub(crate) requests: BTreeSet<RequestId>,
    pub(crate) duplicates: usize,
    /// The first keys of lines, as the snapshot has them.
    pub(crate) lines: HashMap<KeyId, KeyId>,
    /// It settles nothing, like a database that is away.
    pub(crate) away: bool,
    /// Its disk, where a test kills the process: written before anything is acknowledged.
    pub(crate) journal: Option<std::fs::File>,
}

impl Ledger {
    pub(crate) fn settle(&mut self, batch: &[UsageRecord]) -> i64 {
        for record in batch {
            let settled = self.through();
            if record.sequence <= settled {
                self.duplicates += 1;
                continue;
            }
            assert_eq!(record.sequence, settled + 1, "the spool ships without gaps");
            assert!(self.requests.insert(record.request_id), "request {} has two records", record.request_id);
            self.records.insert(record.sequence, record.clone());
            if let Some(journal) = &mut self.journal {
                let line = serde_json::to_string(record).expect("serialises") + "\n";
                journal.write_all(line.as_bytes()).expect("written");
            }
        }
        self.through()
    }

    pub(crate) fn through(&self) -> i64 {
        self.records.last_key_value().map_or(0, |(sequence, _)| *sequence)
    }

    fn under<'a>(&'a self, subject: &'a BudgetSubject) -> impl Iterator<Item = &'a UsageRecord> {
        self.records.values().filter(|r| {
            let line_id = self.lines.get(&r.key_id).copied().unwrap_or(r.key_id);
            let payer = Payer { tenant_id: r.tenant_id, project_id: r.project_id, line_id };
            payer.is_under(subject)
        })
    }

    /// Energy and carbon of `subject`.
    pub(crate) fn used(&self, subject: &BudgetSubject) -> (Millijoules, MicrogramsCo2e) {
        let quantities = || self.under(subject).map(|record| record.quantities);
        (quantities().map(|sum| sum.millijoules).sum(), quantities().map(|sum| sum.co2e_micrograms).sum())
    }

    /// Charged to `subject`, in picos: what is above a hold is the provider's.
    pub(crate) fn charged(&self, subject: &BudgetSubject) -> i128 {
        self.under(subject)
            .map(|record| {
                let charge = i128::from(record.quantities.micros.0) * PICOS + i128::from(record.quantities.picos.0);
                charge.min(i128::from(record.held_micros.0) * PICOS)
            })
            .sum()
    }

    pub(crate) fn spending(&self, snapshot: &Snapshot) -> Spending {
        let spent = snapshot.budgets.values().flatten().map(|budget| {
            let micros = (self.charged(&budget.subject) + PICOS - 1) / PICOS;
            let (millijoules, co2e_micrograms) = self.used(&budget.subject);
            let micros = Micros(i64::try_from(micros).expect("small"));
            let spent = Amounts { micros, millijoules, co2e_micrograms };
            let (subject, period_start) = (budget.subject, Timestamp::UNIX_EPOCH);
            (
                budget.id,
                PeriodSpending {
                    subject,
                    period_start,
                    period_end: None,
                    spent,
                    lent: Amounts::default(),
                    share: None,
                },
            )
        });
        Spending { settled_sequence: self.through(), spent: spent.collect(), loans: 0 }
    }
}

/// A gateway under test.
pub(crate) struct Site {
    pub(crate) url: String,
    pub(crate) gateway: Gateway,
    pub(crate) snapshots: watch::Sender<Arc<Snapshot>>,
    pub(crate) wakes: mpsc::Receiver<Wake>,
    pub(crate) ledger: Arc<Mutex<Ledger>>,
    pub(crate) client: reqwest::Client,
    pub(crate) tasks: TaskTracker,
    _dir: Option<tempfile::TempDir>,
}

/// What came back.
#[derive(Debug)]
pub(crate) struct Reply {
    pub(crate) status: u16,
    pub(crate) headers: HeaderMap,
    pub(crate) text: String,
}

impl Reply {
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap_or_else(|error| panic!("{error}: {}", self.text))
    }

    pub(crate) fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().expect("text"))
    }

    /// The code of an error, after checking that both clients can read it.
    pub(crate) fn code(&self) -> String {
        let body = self.json();
        for field in ["message", "type", "code"] {
            assert!(body["error"][field].is_string(), "nested `{field}`: {body}");
            assert_eq!(body["error"][field], body[field], "flat `{field}`");
        }
        assert_eq!(body["object"], "error");
        assert_eq!(body["request_id"], json!(self.header("x-request-id")));
        body["code"].as_str().expect("checked above").to_owned()
    }

    pub(crate) fn message(&self) -> String {
        self.json()["error"]["message"].as_str().expect("an error").to_owned()
    }
}

impl Site {
    pub(crate) async fn start(snapshot: Snapshot) -> Self {
        let dir = tempfile::tempdir().expect("temporary directory");
        let mut site = Self::start_in(dir.path(), snapshot, SpoolLimits::default(), Arc::default()).await;
        site._dir = Some(dir);
        site
    }

    pub(crate) async fn start_in(
        dir: &Path,
        snapshot: Snapshot,
        limits: SpoolLimits,
        ledger: Arc<Mutex<Ledger>>,
    ) -> Self {
        Self::start_bounded(dir, snapshot, limits, ledger, Bounds::default()).await
    }

    /// A site whose gateway is in a hurry.
    pub(crate) async fn start_hurried(snapshot: Snapshot, bounds: Bounds) -> Self {
        let dir = tempfile::tempdir().expect("temporary directory");
        let mut site = Self::start_bounded(dir.path(), snapshot, SpoolLimits::default(), Arc::default(), bounds).await;
        site._dir = Some(dir);
        site
    }

    async fn start_bounded(
        dir: &Path,
        snapshot: Snapshot,
        limits: SpoolLimits,
        ledger: Arc<Mutex<Ledger>>,
        bounds: Bounds,
    ) -> Self {
        // Another test of this process may have installed it already.
        drop(rustls::crypto::ring::default_provider().install_default());
        let tasks = TaskTracker::new();
        ledger.lock().expect("whole").lines = snapshot.lines.clone();
        let spending = ledger.lock().expect("whole").spending(&snapshot);
        let (snapshots, snapshot_rx) = watch::channel(Arc::new(snapshot));
        let (spendings, spending_rx) = watch::channel(Arc::new(spending));
        let (wake, wakes) = mpsc::channel(16);
        let (usage, batches) = mpsc::channel(1);
        let config = GatewayConfig {
            spool_dir: dir.to_owned(),
            spool_limits: limits,
            pepper: PEPPER.to_vec(),
            clock: Arc::new(Timestamp::now),
            snapshot: snapshot_rx,
            spending: spending_rx,
            wake,
            unsettled: BTreeMap::new(),
            usage,
        };
        let (gateway, _) = Gateway::with_bounds(config, bounds).expect("the spool opens");
        assert_eq!(Spool::source_of(dir).expect("made by the gateway"), gateway.source());
        tasks.spawn(settle_batches(batches, Arc::clone(&ledger), spendings, snapshots.subscribe()));
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let url = format!("http://{}", listener.local_addr().expect("bound"));
        let router = gateway.router();
        tasks.spawn(async move { axum::serve(listener, router).await.expect("serves to the end of the test") });
        let client =
            reqwest::Client::builder().no_proxy().timeout(Duration::from_secs(60)).build().expect("plain HTTP");
        Self { url, gateway, snapshots, wakes, ledger, client, tasks, _dir: None }
    }

    pub(crate) fn post(&self, path: &str, body: &Value) -> reqwest::RequestBuilder {
        self.post_as(1, path, body)
    }

    pub(crate) fn post_as(&self, n: u8, path: &str, body: &Value) -> reqwest::RequestBuilder {
        self.client.post(format!("{}{path}", self.url)).bearer_auth(key(n)).json(&as_extra_arguments(body))
    }

    pub(crate) async fn chat(&self, more: Value) -> Reply {
        receive(self.post("/v1/chat/completions", &chat_body(more))).await
    }

    pub(crate) async fn get(&self, path: &str) -> Reply {
        receive(self.client.get(format!("{}{path}", self.url)).bearer_auth(key(1))).await
    }

    /// Waits until the ledger has `count` records and gives them.
    pub(crate) async fn settled(&self, count: usize) -> Vec<UsageRecord> {
        for _ in 0..400 {
            {
                let ledger = self.ledger.lock().expect("whole");
                if ledger.records.len() >= count {
                    return ledger.records.values().cloned().collect();
                }
            }
            tokio::time::sleep(Duration::from_millis(25)).await;
        }
        panic!("the ledger did not get {count} records in ten seconds");
    }

    pub(crate) fn change(&self, change: impl FnOnce(&mut Snapshot)) {
        self.snapshots.send_modify(|snapshot| {
            let mut next = Snapshot::clone(snapshot);
            change(&mut next);
            *snapshot = Arc::new(next);
        });
    }

    /// Nobody in flight anywhere: no guard was lost.
    pub(crate) async fn is_idle(&self) {
        for _ in 0..400 {
            if self.gateway.activity().iter().all(|activity| activity.in_flight == 0 && activity.waiting == 0) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("requests are still counted as in flight: {:?}", self.gateway.activity());
    }
}

pub(crate) fn chat_body(more: Value) -> Value {
    let mut body = json!({"model": "m", "messages": [{"role": "user", "content": "hi"}]});
    let more: HashMap<String, Value> = serde_json::from_value(more).expect("an object");
    body.as_object_mut().expect("an object").extend(more);
    as_extra_arguments(&body)
}

/// What is for the engine of the tests (`x_do`) travels among vLLM's extra arguments: other unknown fields are refused.
fn as_extra_arguments(body: &Value) -> Value {
    let Value::Object(fields) = body else { return body.clone() };
    let (ours, mut fields): (serde_json::Map<String, Value>, serde_json::Map<String, Value>) =
        fields.clone().into_iter().partition(|(name, _)| name.starts_with("x_"));
    if !ours.is_empty() {
        fields.insert("vllm_xargs".to_owned(), Value::Object(ours));
    }
    Value::Object(fields)
}

pub(crate) async fn receive(request: reqwest::RequestBuilder) -> Reply {
    let response = request.send().await.expect("an answer");
    let (status, headers) = (response.status().as_u16(), response.headers().clone());
    assert!(headers.contains_key("x-request-id"), "every answer names its request");
    let text = response.text().await.expect("a whole answer");
    Reply { status, headers, text }
}

async fn settle_batches(
    mut batches: mpsc::Receiver<UsageBatch>,
    ledger: Arc<Mutex<Ledger>>,
    spendings: watch::Sender<Arc<Spending>>,
    snapshots: watch::Receiver<Arc<Snapshot>>,
) {
    while let Some(UsageBatch { records, ack }) = batches.recv().await {
        let snapshot = Arc::clone(&snapshots.borrow());
        let (through, spending) = {
            let mut ledger = ledger.lock().expect("whole");
            if ledger.away {
                continue;
            }
            (ledger.settle(&records), ledger.spending(&snapshot))
        };
        spendings.send_replace(Arc::new(spending));
        // The gateway may be gone by now; the records are settled all the same.
        if ack.send(through).is_err() {
            return;
        }
    }
}

//! Galerne itself, with everything on: a site of its own with ten thousand keys, limits, a budget, the ledger.
//!
//! The key that is used is one of the ten thousand, made through the API like the endpoint and the budget; the others are
//! written into the store in one transaction while the server is stopped.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use galerne_model::identity::{ApiKey, ApiKeySpec, ApiKeyStatus};
use galerne_model::ids::KeyId;
use galerne_model::resource::Resource;
use galerne_model::token;
use galerne_store::{Filter, Store, StoreUrl};
use jiff::Timestamp;
use serde_json::{Value, json};
use uuid::Uuid;

use crate::call::{self, Call};
use crate::load::Target;
use crate::mock;
use crate::programs::Program;

/// Keys of the site.
const KEYS: usize = 10_000;
/// A limit that is counted and never met.
const NEVER_MET: u32 = 4_000_000_000;
/// Requests that run at once: counted and never met too.
const SEATS: u32 = 100_000;
/// Of the key that is asked for more than it may.
const FEW_SEATS: u32 = 32;
/// Euros of the budget, in millionths: a billion.
const BUDGET_MICROS: i64 = 1_000_000_000_000_000;
/// Longest start, and longest wait for a replica.
const READY_LIMIT: Duration = Duration::from_secs(60);
/// Longest wait until the ledger has every record.
const SETTLE_LIMIT: Duration = Duration::from_secs(300);
const POLL: Duration = Duration::from_millis(50);
/// Metrics: records in the ledger, and requests that ended with a record.
const SETTLED: &str = "galerne_ledger_settled_records_total";
const ENDED: &str = "galerne_gateway_requests_total";
/// The key that is used, and the one whose limits are met.
const WIDE_KEY: &str = "wide";
const NARROW_KEY: &str = "narrow";

/// A running Galerne.
#[derive(Debug)]
pub(crate) struct Site {
    pub(crate) program: Program,
    address: String,
    operator_key: String,
    wide: String,
    narrow: String,
}

impl Site {
    /// Makes a site in `folder`, in front of mocks at `upstreams`, and waits until it serves.
    pub(crate) fn start(galerne: &Path, folder: &Path, address: &str, upstreams: &[String]) -> Result<Self> {
        if folder.exists() {
            fs::remove_dir_all(folder).with_context(|| format!("cannot remove `{}`", folder.display()))?;
        }
        fs::create_dir_all(folder).with_context(|| format!("cannot make `{}`", folder.display()))?;
        let (program, operator_key) = boot(galerne, folder, address)?;
        let mut site =
            Self { program, address: address.to_owned(), operator_key, wide: String::new(), narrow: String::new() };
        site.furnish(upstreams)?;
        site.program.stop();
        seed_keys(folder)?;
        (site.program, site.operator_key) = boot(galerne, folder, address)?;
        site.wait_ready(upstreams.len())?;
        Ok(site)
    }

    /// Where it listens, with the key whose limits are never met.
    pub(crate) fn target(&self) -> Target {
        Target { address: self.address.clone(), key: self.wide.clone() }
    }

    /// The same, with a key that may have few requests running.
    pub(crate) fn narrow_target(&self) -> Target {
        Target { address: self.address.clone(), key: self.narrow.clone() }
    }

    /// Waits until the ledger has a record of every request that ended; how long that took.
    pub(crate) fn settle(&self) -> Result<Duration> {
        let begun = Instant::now();
        loop {
            let text = self.call("GET", "/metrics", None)?.text;
            let settled = call::metric(&text, SETTLED).with_context(|| format!("`{SETTLED}` in /metrics"))?;
            // Absent until the first one ended.
            let ended = call::metric(&text, ENDED).unwrap_or(0.0);
            if settled >= ended {
                return Ok(begun.elapsed());
            }
            ensure!(begun.elapsed() < SETTLE_LIMIT, "{} records are still not in the ledger", ended - settled);
            std::thread::sleep(POLL);
        }
    }

    fn furnish(&mut self, upstreams: &[String]) -> Result<()> {
        let who = self.json("GET", "/api/v1/whoami", None)?;
        let limits = |seats: u32| json!({"requests_per_minute": NEVER_MET, "tokens_per_minute": NEVER_MET, "concurrent_requests": seats});
        for (name, seats) in [(WIDE_KEY, SEATS), (NARROW_KEY, FEW_SEATS)] {
            let principal = &who["principal"]["id"];
            let spec = json!({"principal_id": principal, "scopes": ["inference"], "limits": limits(seats)});
            let made = self.json("POST", "/api/v1/keys", Some(&json!({"name": name, "spec": spec})))?;
            let secret = made["secret"].as_str().context("a new key has a secret")?.to_owned();
            *(if name == WIDE_KEY { &mut self.wide } else { &mut self.narrow }) = secret;
        }
        let subject = json!({"kind": "project", "project_id": who["project"]["id"]});
        let budget = json!({"subject": subject, "limit_micros": BUDGET_MICROS, "period": "month"});
        self.json("POST", "/api/v1/budgets", Some(&json!({"name": "measured", "spec": budget})))?;
        let urls: Vec<String> = upstreams.iter().map(|address| format!("http://{address}")).collect();
        let backend = json!({
            "kind": "external", "urls": urls, "upstream_model": mock::MODEL, "context_tokens": 131_072, "power": 300_000,
        });
        let count = urls.len();
        let spec = json!({"backend": backend, "replicas_min": count, "replicas_max": count, "limits": limits(SEATS)});
        self.json("POST", "/api/v1/endpoints", Some(&json!({"name": mock::MODEL, "spec": spec})))?;
        Ok(())
    }

    /// Waits until so many replicas are ready.
    pub(crate) fn wait_ready(&self, replicas: usize) -> Result<()> {
        let limit = Instant::now() + READY_LIMIT;
        loop {
            let endpoint = self.json("GET", &format!("/api/v1/endpoints/{}", mock::MODEL), None)?;
            if endpoint["status"]["replicas_ready"] == replicas {
                return Ok(());
            }
            ensure!(Instant::now() < limit, "the endpoint did not become ready: {}", endpoint["status"]);
            std::thread::sleep(POLL);
        }
    }

    fn json(&self, method: &str, path: &str, body: Option<&Value>) -> Result<Value> {
        self.call(method, path, body)?.json()
    }

    fn call(&self, method: &str, path: &str, body: Option<&Value>) -> Result<Call> {
        call::call(&self.address, method, path, &self.operator_key, body)
    }
}

/// Starts the program and waits for it; also says the operator's key.
fn boot(galerne: &Path, folder: &Path, address: &str) -> Result<(Program, String)> {
    let ready = folder.join("ready.json");
    if ready.exists() {
        fs::remove_file(&ready)?;
    }
    let mut command = Command::new(galerne);
    command.args(["up", "--no-model", "--no-first-chat", "--listen", address]).arg("--data").arg(folder.join("data"));
    command.arg("--ready-file").arg(&ready).env("XDG_CONFIG_HOME", folder.join("config"));
    let log = folder.join("log");
    let mut program = Program::start(&mut command, &log)?;
    let limit = Instant::now() + READY_LIMIT;
    while !ready.exists() {
        if let Some(status) = program.ended()? {
            bail!("galerne ended with {status}: {}", fs::read_to_string(&log).unwrap_or_default());
        }
        ensure!(Instant::now() < limit, "galerne was not ready in time: see {}", log.display());
        std::thread::sleep(POLL);
    }
    let written: Value = serde_json::from_str(&fs::read_to_string(&ready)?).context("the ready file is JSON")?;
    let key = written["api_key"].as_str().context("a start makes a key for its operator")?.to_owned();
    Ok((program, key))
}

/// Fills the site up to [`KEYS`] keys, all like the one that is used.
fn seed_keys(folder: &Path) -> Result<()> {
    let data: PathBuf = folder.join("data");
    let pepper = fs::read(data.join("secrets/pepper")).context("the site's pepper")?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let store = Store::open(&StoreUrl::sqlite(data.join("galerne.db"))).await?;
        let mut tx = store.begin().await?;
        let there = tx.list_all::<ApiKey>(&Filter::default()).await?;
        let model = there.iter().find(|key| key.name == WIDE_KEY).context("the key that is used")?;
        for number in there.len()..KEYS {
            tx.insert(&another(model, number, &pepper)).await?;
        }
        tx.commit().await?;
        store.close().await;
        Ok(())
    })
}

fn another(model: &ApiKey, number: usize, pepper: &[u8]) -> ApiKey {
    let mut digits = [0; token::KEY_BODY_CHARS];
    let mut left = number;
    for digit in digits.iter_mut().rev() {
        *digit = u8::try_from(left % 62).unwrap_or(0);
        left /= 62;
    }
    let key = token::key_from_digits(&digits);
    let status = ApiKeyStatus {
        prefix: key.chars().take(token::KEY_PREFIX.len() + 4).collect(),
        last_four: token::last_four(&key).to_owned(),
        digest: galerne_gateway::digest(pepper, &key),
        ..model.status.clone()
    };
    let spec: ApiKeySpec = model.spec.clone();
    let now = Timestamp::now();
    let name = format!("seeded-{number}");
    let id = KeyId::from_uuid(Uuid::now_v7());
    Resource { id, name, created_at: now, updated_at: now, spec, status, ..model.clone() }
}

//! How fast the ledger is: records settled per second, seconds to check them all, and the same rows in bare SQLite.
//!
//! `cargo run --release -p galerne-store --example ledger_bench -- [RECORDS] [FOLDER]` prints one line of JSON.
//! The peer is what any metering table could do at best: one table, one insertion per batch, the same durability.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use galerne_model::ids::{EndpointId, KeyId, PrincipalId, ProjectId, ReplicaId, RequestId, TenantId};
use galerne_model::ledger::{EnergyMethod, Operation, Outcome, Quantities, UsageRecord};
use galerne_model::limits::SETTLE_BATCH_MAX;
use galerne_model::units::{MicrogramsCo2e, Micros, Millijoules, Picos, Tokens};
use galerne_store::{Store, StoreUrl};
use jiff::{SignedDuration, Timestamp};

use sqlx::{AnyConnection, AssertSqlSafe, Connection, Row};
use uuid::Uuid;

/// Records when the command line names no number: what the promise is about.
const RECORDS: usize = 10_000_000;
/// Records over which the settlement rate and its peer are measured.
const RATE_RECORDS: usize = 400_000;
const PROJECTS: usize = 50;
const KEYS: usize = 400;
/// Rows of one statement of the peer.
const PEER_ROWS: usize = 250;
/// Columns of the peer's table.
const PEER_COLUMNS: usize = 27;

#[tokio::main]
#[allow(clippy::print_stdout, reason = "the result is what this program is for")]
async fn main() -> anyhow::Result<()> {
    let mut args = std::env::args().skip(1);
    let records: usize = args.next().map_or(Ok(RECORDS), |text| text.parse()).context("RECORDS is a number")?;
    let folder = args.next().map_or_else(std::env::temp_dir, PathBuf::from);
    let folder = tempfile::tempdir_in(folder)?;
    let path = folder.path().join("ledger.db");
    let store = Store::open(&StoreUrl::sqlite(&path)).await?;
    let who = Who::new();

    let rate_records = records.min(RATE_RECORDS);
    let settle = settle(&store, &who, 0, rate_records).await?;
    let peer = peer(&folder.path().join("peer.db"), rate_records).await?;
    let rest = settle_rest(&store, &who, rate_records, records).await?;

    let (start, cpu_before) = (Instant::now(), cpu_seconds()?);
    let report = store.ledger_check().await?;
    let (check, check_cpu) = (start.elapsed(), cpu_seconds()? - cpu_before);
    ensure!(report.closes(), "the ledger does not close: {:?}", report.findings);
    ensure!(report.records == i64::try_from(records)?, "{} records of {records}", report.records);
    let reference = reference(&path).await?;

    let per_second = |count: usize, took: Duration| (count as f64 / took.as_secs_f64()).round();
    let line = serde_json::json!({
        "settle_records": rate_records,
        "settle_records_per_second": per_second(rate_records, settle),
        "settle_batch": SETTLE_BATCH_MAX,
        "settle_rest_records_per_second": per_second(records - rate_records, rest),
        "peer_rows_per_second": per_second(rate_records, peer),
        "settle_to_peer_ratio": peer.as_secs_f64() / settle.as_secs_f64(),
        "check_records": records,
        "check_seconds": check.as_secs_f64(),
        "check_cpu_seconds": check_cpu,
        "check_records_per_second": per_second(records, check),
        "reference_sum_seconds": reference.as_secs_f64(),
        "file_bytes": std::fs::metadata(&path)?.len(),
    });
    println!("{line}");
    store.close().await;
    Ok(())
}

/// The ids that records name.
struct Who {
    tenant_id: TenantId,
    projects: Vec<ProjectId>,
    principal_id: PrincipalId,
    keys: Vec<KeyId>,
    endpoint_id: EndpointId,
    replica_id: ReplicaId,
    start: Timestamp,
}

impl Who {
    fn new() -> Self {
        Self {
            tenant_id: TenantId::from_uuid(Uuid::now_v7()),
            projects: (0..PROJECTS).map(|_| ProjectId::from_uuid(Uuid::now_v7())).collect(),
            principal_id: PrincipalId::from_uuid(Uuid::now_v7()),
            keys: (0..KEYS).map(|_| KeyId::from_uuid(Uuid::now_v7())).collect(),
            endpoint_id: EndpointId::from_uuid(Uuid::now_v7()),
            replica_id: ReplicaId::from_uuid(Uuid::now_v7()),
            start: Timestamp::now() - SignedDuration::from_hours(24 * 20),
        }
    }

    /// Record number `n`, with quantities spread by a fixed mixing, so that every run books the same.
    fn record(&self, n: usize) -> anyhow::Result<UsageRecord> {
        let mixed = (n as u64).wrapping_mul(0x9E37_79B9_7F4A_7C15).rotate_left(17);
        let part = |bits: u32, below: u64| i64::try_from((mixed >> bits) % below).expect("small");
        let started_at = self.start + SignedDuration::from_micros(i64::try_from(n)? * 170_000);
        let micros = part(3, 4_000);
        Ok(UsageRecord {
            source: 1,
            sequence: i64::try_from(n)? + 1,
            request_id: RequestId::from_uuid(Uuid::from_u64_pair(
                (u64::try_from(started_at.as_millisecond())? << 16) | 0x7000 | (mixed & 0xFFF),
                0x8000_0000_0000_0000 | n as u64,
            )),
            started_at,
            ended_at: started_at + SignedDuration::from_micros(300_000 + part(5, 900_000)),
            tenant_id: self.tenant_id,
            project_id: self.projects[usize::try_from(mixed >> 7)? % PROJECTS],
            principal_id: self.principal_id,
            key_id: self.keys[usize::try_from(mixed >> 7)? % KEYS],
            endpoint_id: self.endpoint_id,
            replica_id: Some(self.replica_id),
            operation: Operation::Chat,
            outcome: Outcome::Completed,
            http_status: 200,
            held_micros: Micros(micros + part(11, 2_000)),
            quantities: Quantities {
                prompt_tokens: Tokens(part(13, 3_000)),
                cached_tokens: Tokens(part(17, 800)),
                completion_tokens: Tokens(part(19, 600)),
                micros: Micros(micros),
                picos: Picos(part(23, 1_000_000)),
                millijoules: Millijoules(part(29, 90_000)),
                co2e_micrograms: MicrogramsCo2e(part(31, 4_000)),
            },
            energy_method: EnergyMethod::Estimated,
            price_book_id: None,
            first_token_micros: Some(40_000 + part(37, 60_000)),
            work: None,
            batch: None,
            terms: None,
        })
    }
}

async fn settle(store: &Store, who: &Who, from: usize, until: usize) -> anyhow::Result<Duration> {
    let mut took = Duration::ZERO;
    let mut at = from;
    while at < until {
        let next = (at + SETTLE_BATCH_MAX).min(until);
        let batch: Vec<UsageRecord> = (at..next).map(|n| who.record(n)).collect::<Result<_, _>>()?;
        let start = Instant::now();
        let settled = store.settle_batch(1, &batch).await?;
        took += start.elapsed();
        ensure!(settled.settled == batch.len(), "{settled:?}");
        at = next;
    }
    Ok(took)
}

async fn settle_rest(store: &Store, who: &Who, from: usize, until: usize) -> anyhow::Result<Duration> {
    if from == until { Ok(Duration::from_nanos(1)) } else { settle(store, who, from, until).await }
}

/// The same number of rows of the same width into one bare table.
async fn peer(path: &Path, rows: usize) -> anyhow::Result<Duration> {
    let columns: Vec<String> = (1..=PEER_COLUMNS).map(|n| format!("c{n} BIGINT NOT NULL")).collect();
    let create = format!("CREATE TABLE peer ({}, PRIMARY KEY (c1, c2))", columns.join(", "));
    let row = |n: usize| {
        let separator = if n == 0 { "" } else { ", " };
        format!("{separator}({})", vec!["?"; PEER_COLUMNS].join(", "))
    };
    let insert: std::sync::Arc<str> =
        format!("INSERT INTO peer VALUES {}", (0..PEER_ROWS).map(row).collect::<String>()).into();
    let mut conn = AnyConnection::connect(&format!("sqlite://{}?mode=rwc", path.display())).await?;
    for setting in ["PRAGMA journal_mode = WAL", "PRAGMA synchronous = FULL", "PRAGMA wal_autocheckpoint = 4000"] {
        sqlx::raw_sql(setting).execute(&mut conn).await?;
    }
    sqlx::raw_sql(AssertSqlSafe(create)).execute(&mut conn).await?;
    let start = Instant::now();
    let mut at = 0;
    while at < rows {
        let mut tx = conn.begin().await?;
        for _ in 0..SETTLE_BATCH_MAX / PEER_ROWS {
            let mut query = sqlx::query(AssertSqlSafe(std::sync::Arc::clone(&insert)));
            for _ in 0..PEER_ROWS {
                at += 1;
                for column in 0..PEER_COLUMNS {
                    query = query.bind(i64::try_from(if column < 2 { at } else { at * (column + 7) % 70_000 })?);
                }
            }
            query.execute(&mut *tx).await?;
        }
        tx.commit().await?;
    }
    Ok(start.elapsed())
}

/// CPU time of this process: what a check costs however busy the machine is (it uses two threads).
fn cpu_seconds() -> anyhow::Result<f64> {
    let stat = std::fs::read_to_string("/proc/self/stat")?;
    let (_, after_name) = stat.rsplit_once(')').context("the process has a name")?;
    let ticks: Vec<f64> = after_name.split_whitespace().skip(11).take(2).flat_map(str::parse).collect();
    // Linux counts in hundredths of a second for all programs.
    Ok(ticks.iter().sum::<f64>() / 100.0)
}

/// The least any check of these rows can take on one connection: one pass of sums over usage and transfers.
async fn reference(path: &Path) -> anyhow::Result<Duration> {
    let mut conn = AnyConnection::connect(&format!("sqlite://{}?mode=ro", path.display())).await?;
    let start = Instant::now();
    for sql in ["SELECT SUM(micros) AS n FROM usage", "SELECT SUM(micros) AS n FROM transfer"] {
        let sum: i64 = sqlx::query(sql).fetch_one(&mut conn).await?.try_get("n")?;
        ensure!(sum >= 0, "sums are not negative");
    }
    Ok(start.elapsed())
}

//! A writer to be killed: it acknowledges on standard output what the store says is durable.
//!
//! `store_writer write URL FROM` writes until it is killed or the database goes away. It prints `project N` when
//! project N and its event are committed, and `settled N` when usage is settled through N.
//! `store_writer fill URL BALLAST` writes until the disk is full, proves that what it acknowledged is there, removes
//! the file BALLAST and goes on.

use std::path::Path;

use anyhow::{bail, ensure};
use galerne_model::event::{Actor, Decision, Event};
use galerne_model::identity::{Empty, Project, ProjectSpec};
use galerne_model::ids::{EndpointId, EventId, KeyId, PrincipalId, ProjectId, ReplicaId, RequestId, TenantId};
use galerne_model::ledger::{EnergyMethod, Operation, Outcome, Quantities, UsageRecord};
use galerne_model::units::{MicrogramsCo2e, Micros, Millijoules, Picos, Tokens};
use galerne_store::{Filter, Store, StoreError, StoreUrl};
use jiff::Timestamp;
use uuid::Uuid;

/// Records of one settlement: few, so that kills fall often between and inside transactions.
const BATCH: i64 = 7;
/// Bytes of text in a project that is written to fill a disk.
const FILLING: usize = 20_000;

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = args.iter().map(String::as_str).collect();
    match words.as_slice() {
        ["write", url, from] => write(&url.parse()?, from.parse()?).await,
        ["fill", url, ballast] => fill(&url.parse()?, ballast.as_ref()).await,
        _ => bail!("usage: store_writer write URL FROM | store_writer fill URL BALLAST"),
    }
}

#[allow(clippy::print_stdout, reason = "acknowledgements are what this program is for")]
async fn write(url: &StoreUrl, from: i64) -> anyhow::Result<()> {
    let store = Store::open(url).await?;
    let mut through = store.settled_through(1).await?;
    for n in from.. {
        add_project(&store, n, "").await?;
        println!("project {n}");
        let batch: Vec<UsageRecord> = (through + 1..=through + BATCH).map(record).collect();
        through = store.settle_batch(1, &batch).await?.through;
        println!("settled {through}");
    }
    Ok(())
}

#[allow(clippy::print_stdout, reason = "the verdict is what this program is for")]
async fn fill(url: &StoreUrl, ballast: &Path) -> anyhow::Result<()> {
    let store = Store::open(url).await?;
    let mut written = 0;
    let error = loop {
        match add_project(&store, written + 1, &"x".repeat(FILLING)).await {
            Ok(()) => written += 1,
            Err(error) => break error,
        }
    };
    ensure!(matches!(error, StoreError::DiskFull(_)), "the disk is full, but the store says {error:?}");
    let projects = store.list_all::<Project>(&Filter::default()).await?;
    ensure!(i64::try_from(projects.len())? == written, "{} projects of {written}", projects.len());
    let report = store.ledger_check().await?;
    ensure!(report.closes(), "{:?}", report.findings);
    // With room again it goes on.
    std::fs::remove_file(ballast)?;
    let gone = projects.iter().take(5).map(|project| project.id);
    for id in gone {
        let mut tx = store.begin().await?;
        tx.update_spec::<Project>(id, 1, &ProjectSpec::default(), Timestamp::now()).await?;
        tx.commit().await?;
    }
    println!("full after {written}");
    Ok(())
}

async fn add_project(store: &Store, n: i64, description: &str) -> Result<(), StoreError> {
    let now = Timestamp::now();
    let project = Project {
        id: ProjectId::from_uuid(Uuid::now_v7()),
        tenant_id: None,
        project_id: None,
        name: format!("p{n}"),
        generation: 1,
        created_at: now,
        updated_at: now,
        spec: ProjectSpec { description: description.to_owned(), ..ProjectSpec::default() },
        status: Empty {},
    };
    let mut tx = store.begin().await?;
    tx.insert(&project).await?;
    tx.record(Event {
        id: EventId::from_uuid(Uuid::now_v7()),
        sequence: 0,
        at: now,
        actor: Actor::component("writer"),
        action: "project.create".to_owned(),
        tenant_id: None,
        project_id: None,
        resource: Some(project.id.to_string()),
        decision: Decision::Allowed,
        before_digest: None,
        after_digest: None,
        text: format!("project {n} created"),
    });
    tx.commit().await.map(|_| ())
}

fn record(sequence: i64) -> UsageRecord {
    let fixed = Uuid::from_u128(0x0197_2f00_0000_7000_8000_0000_0000_0001);
    let now = Timestamp::now();
    UsageRecord {
        source: 1,
        sequence,
        request_id: RequestId::from_uuid(Uuid::now_v7()),
        started_at: now,
        ended_at: now,
        tenant_id: TenantId::from_uuid(fixed),
        project_id: ProjectId::from_uuid(fixed),
        principal_id: PrincipalId::from_uuid(fixed),
        key_id: KeyId::from_uuid(fixed),
        endpoint_id: EndpointId::from_uuid(fixed),
        replica_id: Some(ReplicaId::from_uuid(fixed)),
        operation: Operation::Chat,
        outcome: Outcome::Completed,
        http_status: 200,
        held_micros: Micros(100 + sequence % 50),
        quantities: Quantities {
            prompt_tokens: Tokens(sequence % 900),
            cached_tokens: Tokens(sequence % 30),
            completion_tokens: Tokens(sequence % 70),
            micros: Micros(sequence % 100),
            picos: Picos(sequence * 7_919 % 1_000_000),
            millijoules: Millijoules(sequence % 5_000),
            co2e_micrograms: MicrogramsCo2e(sequence % 300),
        },
        energy_method: EnergyMethod::Estimated,
        price_book_id: None,
        first_token_micros: Some(sequence),
        work: None,
        batch: None,
        terms: None,
    }
}

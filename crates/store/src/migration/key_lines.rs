//! Data of schema 5: the lines of keys that were rotated before there were lines.
//!
//! Until then a rotation copied the budgets of a key, with what was left, to the key that follows. Budgets now count
//! the whole line, so an untouched copy whose original is still there says nothing more and is taken away. One that
//! somebody changed, or that outlived its original, stays: it now counts the line as well, rather less than too much.

use std::collections::{BTreeMap, BTreeSet};

use galerne_model::event::{Actor, Decision, Event};
use galerne_model::identity::ApiKeyStatus;
use galerne_model::ids::EventId;
use galerne_model::money::{BudgetPeriod, BudgetSpec, BudgetSubject};
use jiff::Timestamp;
use sqlx::{AnyConnection, Row};
use uuid::Uuid;

use crate::error::StoreError;
use crate::ledger::line::lines_of;

/// The schema version that brings the table.
pub(super) const VERSION: i64 = 5;

const KEYS: &str = "SELECT id, status, created_at FROM api_key";
const INSERT: &str = "INSERT INTO key_line (key_id, line_id) VALUES ($1, $2)";
const BUDGETS: &str =
    "SELECT id, tenant_id, project_id, name, generation, spec, created_at FROM budget WHERE deleted_at IS NULL";
const DELETE_BUDGET: &str = "UPDATE budget SET deleted_at = $2, updated_at = $2 WHERE id = $1";

/// A living budget on a key.
struct OnKey {
    id: String,
    name: String,
    tenant_id: Option<String>,
    project_id: Option<String>,
    key_id: String,
    period: BudgetPeriod,
    generation: i64,
    created_at: i64,
}

/// Fills the table from the rotations that keys tell of, and takes copied budgets away.
pub(super) async fn fill(conn: &mut AnyConnection) -> Result<(), StoreError> {
    let (mut replaced_by, mut made_at) = (BTreeMap::new(), BTreeMap::new());
    for row in sqlx::query(KEYS).fetch_all(&mut *conn).await? {
        let id: String = row.try_get("id")?;
        let status: ApiKeyStatus = unreadable("key", &id, serde_json::from_str(&row.try_get::<String, _>("status")?))?;
        if let Some(next) = status.rotated_to {
            replaced_by.insert(id.clone(), next.to_string());
        }
        made_at.insert(id, row.try_get::<i64, _>("created_at")?);
    }
    let lines = lines_of(&replaced_by);
    for (key_id, line_id) in &lines {
        sqlx::query(INSERT).bind(key_id.clone()).bind(line_id.clone()).execute(&mut *conn).await?;
    }
    if lines.is_empty() {
        return Ok(());
    }
    let budgets = on_keys(conn).await?;
    let originals: BTreeSet<(&str, BudgetPeriod)> =
        budgets.iter().map(|budget| (budget.key_id.as_str(), budget.period)).collect();
    let before: BTreeMap<&str, &str> = replaced_by.iter().map(|(old, new)| (new.as_str(), old.as_str())).collect();
    // A copy was made in the transaction that made its key.
    let is_copy = |budget: &OnKey| {
        let older = before.get(budget.key_id.as_str());
        budget.generation == 1
            && made_at.get(&budget.key_id) == Some(&budget.created_at)
            && older.is_some_and(|older| originals.contains(&(*older, budget.period)))
    };
    let now = Timestamp::now();
    let mut events = Vec::new();
    for copy in budgets.iter().filter(|budget| is_copy(budget)) {
        sqlx::query(DELETE_BUDGET).bind(copy.id.clone()).bind(now.as_microsecond()).execute(&mut *conn).await?;
        events.push(gone(copy, now));
    }
    if !events.is_empty() {
        tracing::info!(
            count = events.len(),
            "copied budgets of rotated keys removed: the first key's budget counts all"
        );
        crate::event::append(conn, &events).await?;
    }
    Ok(())
}

async fn on_keys(conn: &mut AnyConnection) -> Result<Vec<OnKey>, StoreError> {
    let mut budgets = Vec::new();
    for row in sqlx::query(BUDGETS).fetch_all(conn).await? {
        let id: String = row.try_get("id")?;
        let spec: BudgetSpec = unreadable("budget", &id, serde_json::from_str(&row.try_get::<String, _>("spec")?))?;
        if let BudgetSubject::Key { key_id } = spec.subject {
            budgets.push(OnKey {
                id,
                name: row.try_get("name")?,
                tenant_id: row.try_get("tenant_id")?,
                project_id: row.try_get("project_id")?,
                key_id: key_id.to_string(),
                period: spec.period,
                generation: row.try_get("generation")?,
                created_at: row.try_get("created_at")?,
            });
        }
    }
    Ok(budgets)
}

fn gone(copy: &OnKey, now: Timestamp) -> Event {
    Event {
        id: EventId::from_uuid(Uuid::now_v7()),
        sequence: 0,
        at: now,
        actor: Actor::component("migration"),
        action: "budget.delete".to_owned(),
        tenant_id: copy.tenant_id.as_ref().and_then(|id| id.parse().ok()),
        project_id: copy.project_id.as_ref().and_then(|id| id.parse().ok()),
        resource: Some(copy.id.clone()),
        decision: Decision::Allowed,
        before_digest: None,
        after_digest: None,
        text: format!(
            "removed budget `{}`: it was copied at a rotation, and the budget of the key before now counts both keys",
            copy.name
        ),
    }
}

fn unreadable<T>(kind: &str, id: &str, read: Result<T, serde_json::Error>) -> Result<T, StoreError> {
    read.map_err(|error| StoreError::Corrupt(format!("{kind} `{id}` has an unreadable row: {error}")))
}

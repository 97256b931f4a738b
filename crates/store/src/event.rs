//! The event log: gapless, append-only, written with the change it tells of.

use galerne_model::event::{Actor, Decision, Event};
use galerne_model::ids::{EventId, PrincipalId, ProjectId, RequestId, TenantId};
use galerne_model::limits::PAGE_MAX;
use jiff::Timestamp;
use sqlx::AnyConnection;
use sqlx::Row;
use sqlx::any::AnyRow;
use uuid::Uuid;

use crate::error::StoreError;
use crate::resource::instant;
use crate::store::{Reader, Store};

const TAKE_NUMBERS: &str = "UPDATE counter SET value = value + $1 WHERE name = 'event' RETURNING value";
const INSERT: &str = "INSERT INTO event (sequence, id, at, action, decision, tenant_id, project_id, resource, \
    principal_id, key_id, component, address, request_id, before_digest, after_digest, text) \
    VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16)";

macro_rules! select {
    ($order:literal) => {
        concat!(
            "SELECT sequence, id, at, action, decision, tenant_id, project_id, resource, principal_id, key_id, ",
            "component, address, request_id, before_digest, after_digest, text FROM event ",
            "WHERE sequence < $1 AND sequence > $2 ",
            "AND (CAST($3 AS TEXT) IS NULL OR tenant_id = $3) ",
            "AND (CAST($4 AS TEXT) IS NULL OR project_id = $4) ",
            "AND (CAST($5 AS TEXT) IS NULL OR resource = $5) ",
            "AND (CAST($6 AS TEXT) IS NULL OR action = $6) ",
            "AND (CAST($7 AS TEXT) IS NULL OR decision = $7) ",
            "AND (CAST($8 AS TEXT) IS NULL OR principal_id = $8) ",
            "ORDER BY sequence ",
            $order,
            " LIMIT $9"
        )
    };
}

const NEWEST: &str = select!("DESC");
const OLDEST: &str = select!("ASC");

const BY_ID: &str = "SELECT sequence, id, at, action, decision, tenant_id, project_id, resource, principal_id, key_id, \
    component, address, request_id, before_digest, after_digest, text FROM event WHERE id = $1";
const DENIED: &str = "SELECT sequence, id, at, action, decision, tenant_id, project_id, resource, principal_id, key_id, \
    component, address, request_id, before_digest, after_digest, text FROM event \
    WHERE request_id = $1 AND decision = 'denied' ORDER BY sequence LIMIT 1";
/// Ids sort by the time they were made at, so the index over them is one over time.
const DENIED_BY: &str = "SELECT sequence, id, at, action, decision, tenant_id, project_id, resource, principal_id, key_id, \
    component, address, request_id, before_digest, after_digest, text FROM event \
    WHERE id >= $1 AND id < $2 AND decision = 'denied' AND component = $3 AND (CAST($4 AS TEXT) IS NULL OR id > $4) \
    ORDER BY id LIMIT $5";

/// Which events; absent means any.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct EventFilter {
    /// Only about this tenant.
    pub tenant_id: Option<TenantId>,
    /// Only about this project.
    pub project_id: Option<ProjectId>,
    /// Only about the resource with this id.
    pub resource: Option<String>,
    /// Only this action, e.g. `endpoint.create`.
    pub action: Option<String>,
    /// Only what was allowed, or denied.
    pub decision: Option<Decision>,
    /// Only by this principal.
    pub principal_id: Option<PrincipalId>,
    /// Only numbers above this one.
    pub after: Option<i64>,
    /// Only numbers below this one: the cursor when reading from the newest backwards.
    pub before: Option<i64>,
}

/// Gives the events their numbers and writes them; returns the last number.
pub(crate) async fn append(conn: &mut AnyConnection, events: &[Event]) -> Result<i64, StoreError> {
    let count = i64::try_from(events.len()).expect("events of one transaction fit in memory");
    let last: i64 = sqlx::query(TAKE_NUMBERS).bind(count).fetch_one(&mut *conn).await?.try_get("value")?;
    for (event, sequence) in events.iter().zip(last - count + 1..) {
        sqlx::query(INSERT)
            .bind(sequence)
            .bind(event.id.to_string())
            .bind(event.at.as_microsecond())
            .bind(event.action.clone())
            .bind(decision_text(event.decision))
            .bind(event.tenant_id.map(|id| id.to_string()))
            .bind(event.project_id.map(|id| id.to_string()))
            .bind(event.resource.clone())
            .bind(event.actor.principal_id.map(|id| id.to_string()))
            .bind(event.actor.key_id.map(|id| id.to_string()))
            .bind(event.actor.component.clone())
            .bind(event.actor.address.clone())
            .bind(event.actor.request_id.map(|id| id.to_string()))
            .bind(event.before_digest.clone())
            .bind(event.after_digest.clone())
            .bind(event.text.clone())
            .execute(&mut *conn)
            .await?;
    }
    Ok(last)
}

impl Reader {
    /// The event of an id.
    pub async fn event(&mut self, id: EventId) -> Result<Option<Event>, StoreError> {
        let row = sqlx::query(BY_ID).bind(id.to_string()).fetch_optional(self.conn()).await?;
        row.as_ref().map(read).transpose()
    }

    /// The event that tells that a request was denied.
    pub async fn denial_of(&mut self, request_id: RequestId) -> Result<Option<Event>, StoreError> {
        let row = sqlx::query(DENIED).bind(request_id.to_string()).fetch_optional(self.conn()).await?;
        row.as_ref().map(read).transpose()
    }

    /// What a part of Galerne told of denials, made from `from` on and before `until`; the oldest first. Go on with
    /// `after` = the last one seen.
    pub async fn denials_told(
        &mut self,
        component: &str,
        from: Timestamp,
        until: Timestamp,
        after: Option<EventId>,
        limit: u32,
    ) -> Result<Vec<Event>, StoreError> {
        let rows = sqlx::query(DENIED_BY)
            .bind(first_id(from).to_string())
            .bind(first_id(until).to_string())
            .bind(component.to_owned())
            .bind(after.map(|id| id.to_string()))
            .bind(i64::from(limit.clamp(1, PAGE_MAX)))
            .fetch_all(self.conn())
            .await?;
        rows.iter().map(read).collect()
    }

    /// The newest events first, at most `limit` of them; go on with `before` = the last number seen.
    pub async fn events(&mut self, filter: &EventFilter, limit: u32) -> Result<Vec<Event>, StoreError> {
        self.select_events(NEWEST, filter, limit).await
    }

    /// The oldest events first, at most `limit` of them; go on with `after` = the last number seen.
    pub async fn events_forward(&mut self, filter: &EventFilter, limit: u32) -> Result<Vec<Event>, StoreError> {
        self.select_events(OLDEST, filter, limit).await
    }

    async fn select_events(
        &mut self,
        sql: &'static str,
        filter: &EventFilter,
        limit: u32,
    ) -> Result<Vec<Event>, StoreError> {
        let rows = sqlx::query(sql)
            .bind(filter.before.unwrap_or(i64::MAX))
            .bind(filter.after.unwrap_or(0))
            .bind(filter.tenant_id.map(|id| id.to_string()))
            .bind(filter.project_id.map(|id| id.to_string()))
            .bind(filter.resource.clone())
            .bind(filter.action.clone())
            .bind(filter.decision.map(decision_text))
            .bind(filter.principal_id.map(|id| id.to_string()))
            .bind(i64::from(limit.clamp(1, PAGE_MAX)))
            .fetch_all(self.conn())
            .await?;
        rows.iter().map(read).collect()
    }
}

impl Store {
    /// See [`Reader::events`].
    pub async fn events(&self, filter: &EventFilter, limit: u32) -> Result<Vec<Event>, StoreError> {
        self.read_once().await?.events(filter, limit).await
    }

    /// See [`Reader::events_forward`].
    pub async fn events_forward(&self, filter: &EventFilter, limit: u32) -> Result<Vec<Event>, StoreError> {
        self.read_once().await?.events_forward(filter, limit).await
    }
}

/// The least id an event made at `at` or later can have.
fn first_id(at: Timestamp) -> EventId {
    let millis = u128::try_from(at.as_millisecond()).unwrap_or(0);
    EventId::from_uuid(Uuid::from_u128(millis << 80))
}

fn read(row: &AnyRow) -> Result<Event, StoreError> {
    let sequence: i64 = row.try_get("sequence")?;
    let text = |column: &str| row.try_get::<Option<String>, _>(column);
    let bad = |_| StoreError::Corrupt(format!("event {sequence} has an unreadable id"));
    Ok(Event {
        id: row.try_get::<String, _>("id")?.parse().map_err(bad)?,
        sequence,
        at: instant(row.try_get("at")?)?,
        actor: Actor {
            principal_id: text("principal_id")?.map(|id| id.parse()).transpose().map_err(bad)?,
            key_id: text("key_id")?.map(|id| id.parse()).transpose().map_err(bad)?,
            component: row.try_get("component")?,
            address: text("address")?,
            request_id: text("request_id")?.map(|id| id.parse()).transpose().map_err(bad)?,
        },
        action: row.try_get("action")?,
        tenant_id: text("tenant_id")?.map(|id| id.parse()).transpose().map_err(bad)?,
        project_id: text("project_id")?.map(|id| id.parse()).transpose().map_err(bad)?,
        resource: text("resource")?,
        decision: match row.try_get::<String, _>("decision")?.as_str() {
            "allowed" => Decision::Allowed,
            "denied" => Decision::Denied,
            _ => return Err(StoreError::Corrupt(format!("event {sequence} has an unreadable decision"))),
        },
        before_digest: text("before_digest")?,
        after_digest: text("after_digest")?,
        text: row.try_get("text")?,
    })
}

const fn decision_text(decision: Decision) -> &'static str {
    match decision {
        Decision::Allowed => "allowed",
        Decision::Denied => "denied",
    }
}

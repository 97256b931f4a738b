//! Reading usage records back, with their energy as it was corrected: by request, and all of them in pages of bounded memory, as JSON values or CSV lines.

use galerne_model::ids::{ProjectId, RequestId, TenantId};
use galerne_model::ledger::{BatchTerms, UsageRecord};
use galerne_model::units::Micros;
use jiff::Timestamp;
use sqlx::Row;
use sqlx::any::AnyRow;
use uuid::Uuid;

use super::refs::{self, RefCache};
use super::spending::number_of;
use super::{method, operation, outcome, read_quantities, read_terms};
use crate::error::StoreError;
use crate::resource::instant;
use crate::store::{Reader, Store};

macro_rules! columns {
    () => {
        "project_no, source, sequence, held_micros, prompt_tokens, cached_tokens, completion_tokens, micros, picos, \
         millijoules + COALESCE((SELECT c.millijoules FROM energy_correction c WHERE c.source = usage.source \
         AND c.sequence = usage.sequence), 0) AS millijoules, \
         co2e_micrograms + COALESCE((SELECT c.co2e_micrograms FROM energy_correction c WHERE c.source = usage.source \
         AND c.sequence = usage.sequence), 0) AS co2e_micrograms, request_high, request_low, started_at, duration_micros, tenant_no, \
         principal_no, key_no, endpoint_no, replica_no, price_book_no, operation, outcome, http_status, \
         COALESCE((SELECT c.method FROM energy_correction c WHERE c.source = usage.source \
         AND c.sequence = usage.sequence), energy_method) AS energy_method, first_token_micros, batch_no, price_percent, \
         prompt_price, cached_price, completion_price, service_tier, country"
    };
}

pub(super) use columns;

const BY_REQUEST: &str = concat!(
    "SELECT ",
    columns!(),
    " FROM usage WHERE request_high = $1 AND request_low = $2 ORDER BY source, sequence LIMIT 1"
);
const PAGE: &str = concat!(
    "SELECT ",
    columns!(),
    " FROM usage WHERE (source, sequence) > ($1, $2) ",
    "AND (CAST($3 AS BIGINT) IS NULL OR tenant_no = $3) AND (CAST($4 AS BIGINT) IS NULL OR project_no = $4) ",
    "AND started_at >= $5 AND started_at < $6 ORDER BY source, sequence LIMIT $7"
);

/// Records read at once: about a megabyte.
const PAGE_RECORDS: i64 = 1_000;

/// Which usage records; absent means any.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct UsageFilter {
    /// Only of this tenant.
    pub tenant_id: Option<TenantId>,
    /// Only of this project.
    pub project_id: Option<ProjectId>,
    /// Only requests that started at or after this.
    pub from: Option<Timestamp>,
    /// Only requests that started before this.
    pub until: Option<Timestamp>,
}

/// A walk over usage records in the order of their spools.
#[derive(Debug)]
pub struct UsageCursor {
    store: Store,
    filter: UsageFilter,
    after: (i64, i64),
    done: bool,
}

impl Store {
    /// The record of a request.
    pub async fn usage_by_request(&self, id: RequestId) -> Result<Option<UsageRecord>, StoreError> {
        let mut reader = self.read_once().await?;
        by_request(self.refs(), &mut reader, id).await
    }

    /// All records the filter admits, to be taken page by page.
    pub fn usage(&self, filter: &UsageFilter) -> UsageCursor {
        UsageCursor { store: self.clone(), filter: filter.clone(), after: (i64::MIN, 0), done: false }
    }
}

impl Reader {
    /// The record of a request.
    pub async fn usage_by_request(&mut self, id: RequestId) -> Result<Option<UsageRecord>, StoreError> {
        by_request(&RefCache::default(), self, id).await
    }
}

async fn by_request(cache: &RefCache, reader: &mut Reader, id: RequestId) -> Result<Option<UsageRecord>, StoreError> {
    let (high, low) = id.uuid().as_u64_pair();
    let row =
        sqlx::query(BY_REQUEST).bind(high.cast_signed()).bind(low.cast_signed()).fetch_optional(reader.conn()).await?;
    match row {
        Some(row) => Ok(Some(read(cache, reader, &row).await?)),
        None => Ok(None),
    }
}

impl UsageCursor {
    /// The next records; nothing when there are no more.
    pub async fn next(&mut self) -> Result<Option<Vec<UsageRecord>>, StoreError> {
        if self.done {
            return Ok(None);
        }
        let mut reader = self.store.read_once().await?;
        let tenant_no = number_of(reader.conn(), self.filter.tenant_id.map(Into::into)).await?;
        let project_no = number_of(reader.conn(), self.filter.project_id.map(Into::into)).await?;
        let rows = sqlx::query(PAGE)
            .bind(self.after.0)
            .bind(self.after.1)
            .bind(tenant_no)
            .bind(project_no)
            .bind(self.filter.from.map_or(i64::MIN, Timestamp::as_microsecond))
            .bind(self.filter.until.map_or(i64::MAX, Timestamp::as_microsecond))
            .bind(PAGE_RECORDS)
            .fetch_all(reader.conn())
            .await?;
        let mut records = Vec::with_capacity(rows.len());
        for row in &rows {
            records.push(read(self.store.refs(), &mut reader, row).await?);
        }
        match records.last() {
            Some(last) => self.after = (last.source, last.sequence),
            None => self.done = true,
        }
        Ok(if self.done { None } else { Some(records) })
    }
}

pub(super) async fn read(cache: &RefCache, reader: &mut Reader, row: &AnyRow) -> Result<UsageRecord, StoreError> {
    let (source, sequence): (i64, i64) = (row.try_get("source")?, row.try_get("sequence")?);
    macro_rules! id {
        ($column:literal) => {{
            let name = refs::name(reader.conn(), cache, row.try_get($column)?).await?;
            name.parse().map_err(|_| StoreError::Corrupt(format!("usage record {source}/{sequence} names `{name}`")))?
        }};
    }
    macro_rules! optional_id {
        ($column:literal) => {
            if row.try_get::<Option<i64>, _>($column)?.is_some() { Some(id!($column)) } else { None }
        };
    }
    let high: i64 = row.try_get("request_high")?;
    let low: i64 = row.try_get("request_low")?;
    let started: i64 = row.try_get("started_at")?;
    let status: i64 = row.try_get("http_status")?;
    Ok(UsageRecord {
        source,
        sequence,
        request_id: RequestId::from_uuid(Uuid::from_u64_pair(high.cast_unsigned(), low.cast_unsigned())),
        started_at: instant(started)?,
        ended_at: instant(started.saturating_add(row.try_get("duration_micros")?))?,
        tenant_id: id!("tenant_no"),
        project_id: id!("project_no"),
        principal_id: id!("principal_no"),
        key_id: id!("key_no"),
        endpoint_id: id!("endpoint_no"),
        replica_id: optional_id!("replica_no"),
        operation: operation(row.try_get("operation")?)?,
        outcome: outcome(row.try_get("outcome")?)?,
        http_status: u16::try_from(status).map_err(|_| StoreError::Corrupt(format!("{status} is no HTTP status")))?,
        held_micros: Micros(row.try_get("held_micros")?),
        quantities: read_quantities(row)?,
        energy_method: method(row.try_get("energy_method")?)?,
        price_book_id: optional_id!("price_book_no"),
        first_token_micros: row.try_get("first_token_micros")?,
        work: None,
        batch: match row.try_get::<Option<i64>, _>("price_percent")? {
            Some(percent) => Some(BatchTerms { batch_id: id!("batch_no"), price_percent: percent_of(percent)? }),
            None => None,
        },
        terms: read_terms(row)?,
    })
}

pub(super) fn percent_of(percent: i64) -> Result<u8, StoreError> {
    u8::try_from(percent).map_err(|_| StoreError::Corrupt(format!("{percent} is no share of a price")))
}

/// The first line of a CSV export.
pub const fn csv_header() -> &'static str {
    "request_id,started_at,ended_at,tenant_id,project_id,principal_id,key_id,endpoint_id,replica_id,operation,\
     outcome,http_status,prompt_tokens,cached_tokens,completion_tokens,euros,picos,joules,co2e_grams,energy_method,\
     price_book_id,first_token_micros,source,sequence,batch_id,price_percent,\
     prompt_price_micros,cached_price_micros,completion_price_micros,service_tier,country"
}

/// One line of a CSV export. No field can hold a comma, a quote or a line end.
pub fn csv_line(r: &UsageRecord) -> String {
    let word = |value: Result<serde_json::Value, serde_json::Error>| match value {
        Ok(serde_json::Value::String(word)) => word,
        _ => String::new(),
    };
    let q = &r.quantities;
    let optional = |text: Option<String>| text.unwrap_or_default();
    let fields = [
        r.request_id.to_string(),
        r.started_at.to_string(),
        r.ended_at.to_string(),
        r.tenant_id.to_string(),
        r.project_id.to_string(),
        r.principal_id.to_string(),
        r.key_id.to_string(),
        r.endpoint_id.to_string(),
        optional(r.replica_id.map(|id| id.to_string())),
        word(serde_json::to_value(r.operation)),
        word(serde_json::to_value(r.outcome)),
        r.http_status.to_string(),
        q.prompt_tokens.0.to_string(),
        q.cached_tokens.0.to_string(),
        q.completion_tokens.0.to_string(),
        q.micros.euros(),
        q.picos.0.to_string(),
        q.millijoules.joules(),
        q.co2e_micrograms.grams(),
        word(serde_json::to_value(r.energy_method)),
        optional(r.price_book_id.map(|id| id.to_string())),
        optional(r.first_token_micros.map(|micros| micros.to_string())),
        r.source.to_string(),
        r.sequence.to_string(),
        optional(r.batch.map(|batch| batch.batch_id.to_string())),
        optional(r.batch.map(|batch| batch.price_percent.to_string())),
        optional(r.terms.map(|terms| terms.price.prompt.0.to_string())),
        optional(r.terms.map(|terms| terms.price.cached.0.to_string())),
        optional(r.terms.map(|terms| terms.price.completion.0.to_string())),
        optional(r.terms.map(|terms| terms.service_tier.as_str().to_owned())),
        optional(r.terms.and_then(|terms| terms.country).map(String::from)),
    ];
    fields.join(",")
}

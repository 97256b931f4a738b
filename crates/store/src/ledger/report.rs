//! Usage added up by interval and by everything a report can be about, from the records themselves: the sums by day know
//! neither terms nor hours. An index by time keeps it to the records of the interval that is asked for.
//!
//! What was charged back is left out: money and tokens went back to the meter, energy to the idle account.

use galerne_model::ids::{EndpointId, KeyId, PrincipalId, ProjectId, TenantId};
use galerne_model::ledger::{EnergyMethod, Operation, Quantities, UsageTerms};
use jiff::Timestamp;
use sqlx::Row;
use sqlx::any::AnyRow;

use super::refs::{self, RefCache};
use super::spending::number_of;
use super::usage::UsageFilter;
use super::{method, operation, read_quantities, read_terms};
use crate::error::StoreError;
use crate::resource::instant;
use crate::store::{Reader, Store};

const GROUPS: &str = "SELECT u.started_at / $1 AS bucket, u.tenant_no, u.project_no, u.key_no, u.principal_no, \
    u.endpoint_no, u.operation, u.service_tier, u.country, u.prompt_price, u.cached_price, u.completion_price, \
    u.price_percent, COALESCE(c.method, u.energy_method) AS obtained, CAST(COUNT(*) AS BIGINT) AS requests, \
    CAST(SUM(u.prompt_tokens) AS BIGINT) AS prompt_tokens, CAST(SUM(u.cached_tokens) AS BIGINT) AS cached_tokens, \
    CAST(SUM(u.completion_tokens) AS BIGINT) AS completion_tokens, \
    CAST(SUM(u.micros - u.overrun_micros) AS BIGINT) AS micros, \
    CAST(SUM(u.picos - u.overrun_picos) AS BIGINT) AS picos, \
    CAST(SUM(u.millijoules + COALESCE(c.millijoules, 0)) AS BIGINT) AS millijoules, \
    CAST(SUM(u.co2e_micrograms + COALESCE(c.co2e_micrograms, 0)) AS BIGINT) AS co2e_micrograms \
    FROM usage u LEFT JOIN energy_correction c ON c.source = u.source AND c.sequence = u.sequence \
    WHERE u.started_at >= $2 AND u.started_at < $3 \
    AND (CAST($4 AS BIGINT) IS NULL OR u.tenant_no = $4) AND (CAST($5 AS BIGINT) IS NULL OR u.project_no = $5) \
    AND NOT EXISTS (SELECT 1 FROM reversal r WHERE r.of_source = u.source AND r.of_sequence = u.sequence) \
    GROUP BY bucket, u.tenant_no, u.project_no, u.key_no, u.principal_no, u.endpoint_no, u.operation, u.service_tier, \
    u.country, u.prompt_price, u.cached_price, u.completion_price, u.price_percent, obtained \
    ORDER BY bucket, u.tenant_no, u.project_no, u.key_no, u.principal_no, u.endpoint_no, u.operation, u.service_tier, \
    u.country, u.prompt_price, u.cached_price, u.completion_price, u.price_percent, obtained";

/// What requests of one interval used that differ in nothing a report is about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UsageGroup {
    /// When its interval began.
    pub started_at: Timestamp,
    /// Who pays.
    pub tenant_id: TenantId,
    /// Inside which project.
    pub project_id: ProjectId,
    /// With which key.
    pub key_id: KeyId,
    /// Who called.
    pub principal_id: PrincipalId,
    /// What was called.
    pub endpoint_id: EndpointId,
    /// Kind of work.
    pub operation: Operation,
    /// On what terms; absent in records of before they were kept.
    pub terms: Option<UsageTerms>,
    /// The share of the price that a batch pays; absent for requests that came in.
    pub price_percent: Option<u8>,
    /// How the energy was obtained.
    pub energy_method: EnergyMethod,
    /// Requests.
    pub requests: i64,
    /// What they used, and what was charged.
    pub quantities: Quantities,
}

impl Store {
    /// What the filter admits, added up by intervals of so many microseconds that begin at whole multiples since 1970; the
    /// filter must name both ends of its time, for all of it is in memory.
    pub async fn usage_groups(&self, filter: &UsageFilter, width_micros: i64) -> Result<Vec<UsageGroup>, StoreError> {
        let mut reader = self.read_once().await?;
        let tenant_no = number_of(reader.conn(), filter.tenant_id.map(Into::into)).await?;
        let project_no = number_of(reader.conn(), filter.project_id.map(Into::into)).await?;
        let rows = sqlx::query(GROUPS)
            .bind(width_micros.max(1))
            .bind(filter.from.map_or(i64::MIN, Timestamp::as_microsecond))
            .bind(filter.until.map_or(i64::MAX, Timestamp::as_microsecond))
            .bind(tenant_no)
            .bind(project_no)
            .fetch_all(reader.conn())
            .await?;
        let mut groups = Vec::with_capacity(rows.len());
        for row in &rows {
            groups.push(read(self.refs(), &mut reader, row, width_micros.max(1)).await?);
        }
        Ok(groups)
    }
}

async fn read(cache: &RefCache, reader: &mut Reader, row: &AnyRow, width: i64) -> Result<UsageGroup, StoreError> {
    macro_rules! id {
        ($column:literal) => {{
            let name = refs::name(reader.conn(), cache, row.try_get($column)?).await?;
            name.parse().map_err(|_| StoreError::Corrupt(format!("a usage record names `{name}`")))?
        }};
    }
    let bucket: i64 = row.try_get("bucket")?;
    let percent: Option<i64> = row.try_get("price_percent")?;
    Ok(UsageGroup {
        started_at: instant(bucket.saturating_mul(width))?,
        tenant_id: id!("tenant_no"),
        project_id: id!("project_no"),
        key_id: id!("key_no"),
        principal_id: id!("principal_no"),
        endpoint_id: id!("endpoint_no"),
        operation: operation(row.try_get("operation")?)?,
        terms: read_terms(row)?,
        price_percent: percent.map(super::usage::percent_of).transpose()?,
        energy_method: method(row.try_get("obtained")?)?,
        requests: row.try_get("requests")?,
        quantities: read_quantities(row)?,
    })
}

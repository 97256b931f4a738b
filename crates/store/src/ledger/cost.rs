//! Cost reports, from the sums by day: as fast over ten million requests as over ten.

use std::collections::BTreeMap;

use galerne_model::identity::Project;
use galerne_model::ids::{EndpointId, KeyId, PrincipalId, ProjectId, TenantId};
use galerne_model::inference::{Backend, Endpoint, Model};
use galerne_model::ledger::{Balance, Owner, Quantities};
use jiff::civil::Date;
use serde::Serialize;
use sqlx::Row;

use super::refs::{self, RefId};
use super::spending::number_of;
use super::{APPORTIONMENT, IDLE, METER, OVERHEAD, OVERRUN, add, read_quantities};
use crate::error::StoreError;
use crate::kind::Kind;
use crate::store::{Reader, Store};

macro_rules! select {
    ($column:literal) => {
        concat!(
            "SELECT ", $column, " AS grouped, CAST(SUM(requests) AS BIGINT) AS requests, ",
            "CAST(SUM(prompt_tokens) AS BIGINT) AS prompt_tokens, CAST(SUM(cached_tokens) AS BIGINT) AS cached_tokens, ",
            "CAST(SUM(completion_tokens) AS BIGINT) AS completion_tokens, CAST(SUM(micros) AS BIGINT) AS micros, ",
            "CAST(SUM(picos) AS BIGINT) AS picos, CAST(SUM(millijoules) AS BIGINT) AS millijoules, ",
            "CAST(SUM(co2e_micrograms) AS BIGINT) AS co2e_micrograms FROM usage_daily ",
            "WHERE day >= $1 AND day < $2 AND (CAST($3 AS BIGINT) IS NULL OR tenant_no = $3) ",
            "AND (CAST($4 AS BIGINT) IS NULL OR project_no = $4) ",
            "AND (CAST($5 AS BIGINT) IS NULL OR endpoint_no = $5) ",
            "AND (CAST($6 AS BIGINT) IS NULL OR key_no = $6) ",
            "AND (CAST($7 AS BIGINT) IS NULL OR principal_no = $7) GROUP BY ", $column, " ORDER BY ", $column
        )
    };
}

const BALANCES: &str = "SELECT owner_no, prompt_tokens, cached_tokens, completion_tokens, micros, picos, millijoules, \
    co2e_micrograms FROM balance ORDER BY owner_no";

/// Which costs; absent means any. Days are UTC days of the requests' admission.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CostFilter {
    /// Only of this tenant.
    pub tenant_id: Option<TenantId>,
    /// Only of this project.
    pub project_id: Option<ProjectId>,
    /// Only of this endpoint.
    pub endpoint_id: Option<EndpointId>,
    /// Only of this key.
    pub key_id: Option<KeyId>,
    /// Only of this principal.
    pub principal_id: Option<PrincipalId>,
    /// Only from this day on.
    pub from: Option<Date>,
    /// Only before this day.
    pub until: Option<Date>,
}

/// What costs are added up by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CostGroup {
    /// Project.
    Project,
    /// Endpoint.
    Endpoint,
    /// API key.
    Key,
    /// Principal.
    Principal,
    /// UTC day.
    Day,
    /// Model behind the endpoint, as the endpoint's specification names it today.
    Model,
}

/// Costs of one group, after reversals.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct CostRow {
    /// An id, a day such as `2026-11-22`, or the name of a model.
    pub group: String,
    /// Requests.
    pub requests: i64,
    /// What they used and cost.
    pub quantities: Quantities,
}

impl Reader {
    /// Sums of what the filter admits, by group.
    pub async fn costs(&mut self, filter: &CostFilter, group: CostGroup) -> Result<Vec<CostRow>, StoreError> {
        let sql = match group {
            CostGroup::Project => select!("project_no"),
            CostGroup::Endpoint | CostGroup::Model => select!("endpoint_no"),
            CostGroup::Key => select!("key_no"),
            CostGroup::Principal => select!("principal_no"),
            CostGroup::Day => select!("day"),
        };
        let mut query = sqlx::query(sql)
            .bind(filter.from.map_or(i64::MIN, day_number))
            .bind(filter.until.map_or(i64::MAX, day_number));
        let ids: [Option<RefId>; 5] = [
            filter.tenant_id.map(Into::into),
            filter.project_id.map(Into::into),
            filter.endpoint_id.map(Into::into),
            filter.key_id.map(Into::into),
            filter.principal_id.map(Into::into),
        ];
        for id in ids {
            query = query.bind(number_of(self.conn(), id).await?);
        }
        let rows = query.fetch_all(self.conn()).await?;
        let mut costs = Vec::with_capacity(rows.len());
        for row in rows {
            let no: i64 = row.try_get("grouped")?;
            let group = match group {
                CostGroup::Day => day_text(no)?,
                _ => refs::name_uncached(self.conn(), no).await?,
            };
            costs.push(CostRow { group, requests: row.try_get("requests")?, quantities: read_quantities(&row)? });
        }
        if group == CostGroup::Model { self.by_model(costs).await } else { Ok(costs) }
    }

    async fn by_model(&mut self, by_endpoint: Vec<CostRow>) -> Result<Vec<CostRow>, StoreError> {
        let mut by_model: BTreeMap<String, (i64, Quantities)> = BTreeMap::new();
        for row in by_endpoint {
            let id = row.group.parse();
            let id = id.map_err(|_| StoreError::Corrupt(format!("`{}` is no endpoint", row.group)))?;
            let model = self.model_of(id).await?;
            let (requests, sum) = by_model.entry(model).or_default();
            *requests += row.requests;
            add(sum, &row.quantities)?;
        }
        let row = |(group, (requests, quantities))| CostRow { group, requests, quantities };
        Ok(by_model.into_iter().map(row).collect())
    }

    /// The model behind an endpoint, as its specification names it today; its id where nothing is known of it.
    pub async fn model_of(&mut self, id: EndpointId) -> Result<String, StoreError> {
        let Some(endpoint) = self.even_deleted::<Endpoint>(id).await? else { return Ok(id.to_string()) };
        match endpoint.spec.backend {
            Backend::External { upstream_model, .. } => Ok(upstream_model),
            Backend::Worker { model_id, .. } => {
                let model = self.even_deleted::<Model>(model_id).await?;
                Ok(model.map_or_else(|| model_id.to_string(), |model| model.name))
            }
        }
    }

    async fn even_deleted<K: Kind>(&mut self, id: K::Id) -> Result<Option<K>, StoreError> {
        match self.get::<K>(id).await {
            Ok(found) => Ok(Some(found)),
            Err(StoreError::NotFound { .. }) => match self.get_deleted::<K>(id).await {
                Ok(found) => Ok(Some(found)),
                Err(StoreError::NotFound { .. }) => Ok(None),
                Err(error) => Err(error),
            },
            Err(error) => Err(error),
        }
    }

    /// What every owner has.
    pub async fn balances(&mut self) -> Result<Vec<Balance>, StoreError> {
        let mut balances = Vec::new();
        for row in sqlx::query(BALANCES).fetch_all(self.conn()).await? {
            let owner = owner(&mut *self, row.try_get("owner_no")?).await?;
            balances.push(Balance { owner, quantities: read_quantities(&row)? });
        }
        Ok(balances)
    }
}

impl Store {
    /// See [`Reader::costs`]; all of it at one moment.
    pub async fn costs(&self, filter: &CostFilter, group: CostGroup) -> Result<Vec<CostRow>, StoreError> {
        self.reader().await?.costs(filter, group).await
    }

    /// See [`Reader::balances`]; all of it at one moment.
    pub async fn balances(&self) -> Result<Vec<Balance>, StoreError> {
        self.reader().await?.balances().await
    }
}

pub(super) async fn owner(reader: &mut Reader, no: i64) -> Result<Owner, StoreError> {
    match no {
        METER => Ok(Owner::Meter),
        IDLE => Ok(Owner::Idle),
        OVERHEAD => Ok(Owner::Overhead),
        APPORTIONMENT => Ok(Owner::Apportionment),
        OVERRUN => Ok(Owner::Overrun),
        _ => {
            let name = refs::name_uncached(reader.conn(), no).await?;
            let bad = |_| StoreError::Corrupt(format!("owner `{name}` is no {}", Project::NAME));
            Ok(Owner::Project { project_id: name.parse().map_err(bad)? })
        }
    }
}

fn day_number(date: Date) -> i64 {
    // Days since 1970-01-01; the span between two civil dates is exact.
    let epoch = jiff::civil::date(1970, 1, 1);
    i64::from(date.since((jiff::Unit::Day, epoch)).map_or(0, |span| span.get_days()))
}

fn day_text(day: i64) -> Result<String, StoreError> {
    let bad = || StoreError::Corrupt(format!("{day} is not a day"));
    let days = jiff::Span::new().try_days(day).map_err(|_| bad())?;
    Ok(jiff::civil::date(1970, 1, 1).checked_add(days).map_err(|_| bad())?.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_day_reads_back_from_its_number() {
        for text in ["1970-01-01", "2024-02-29", "2026-11-22", "1969-12-31"] {
            let date: Date = text.parse().expect("a date");
            assert_eq!(day_text(day_number(date)).expect("a day"), text);
        }
        assert_eq!(day_number(jiff::civil::date(2026, 11, 22)), 20_779);
    }
}

//! Data of schema 8: energy and carbon spent before budgets could limit them, added up from the sums by day.

use std::collections::BTreeMap;

use futures_util::TryStreamExt;
use sqlx::{AnyConnection, Row};

use crate::error::StoreError;
use crate::ledger::spending::{TOTAL, month_of};
use crate::ledger::{settle, too_large};
use crate::resource::instant;

/// The schema version that brings the columns.
pub(super) const VERSION: i64 = 8;

const DAYS: &str = "SELECT day, tenant_no, project_no, key_no, CAST(SUM(millijoules) AS BIGINT) AS millijoules, \
    CAST(SUM(co2e_micrograms) AS BIGINT) AS co2e_micrograms FROM usage_daily GROUP BY day, tenant_no, project_no, key_no";
const FILL: &str =
    "UPDATE spending SET millijoules = $3, co2e_micrograms = $4 WHERE subject_no = $1 AND period_start = $2";

/// Fills the columns. Every subject and month of a day has its row: money was counted there.
pub(super) async fn fill(conn: &mut AnyConnection) -> Result<(), StoreError> {
    let mut sums: BTreeMap<(i64, i64), (i64, i64)> = BTreeMap::new();
    let mut rows = sqlx::query(DAYS).fetch(&mut *conn);
    while let Some(row) = rows.try_next().await? {
        let day: i64 = row.try_get("day")?;
        let at = instant(day.checked_mul(settle::MICROS_PER_DAY).ok_or_else(too_large)?)?;
        let month = month_of(at).0.as_microsecond();
        let (energy, carbon): (i64, i64) = (row.try_get("millijoules")?, row.try_get("co2e_micrograms")?);
        for subject in ["tenant_no", "project_no", "key_no"] {
            let subject: i64 = row.try_get(subject)?;
            for period in [TOTAL, month] {
                let sum = sums.entry((subject, period)).or_default();
                sum.0 = sum.0.checked_add(energy).ok_or_else(too_large)?;
                sum.1 = sum.1.checked_add(carbon).ok_or_else(too_large)?;
            }
        }
    }
    drop(rows);
    for ((subject, period), (energy, carbon)) in sums {
        sqlx::query(FILL).bind(subject).bind(period).bind(energy).bind(carbon).execute(&mut *conn).await?;
    }
    Ok(())
}

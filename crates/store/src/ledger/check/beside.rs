//! The sums kept beside the records: by day for cost reports, by spender and month for budgets.

use std::collections::{BTreeMap, BTreeSet};

use futures_util::TryStreamExt;
use galerne_model::ledger::Quantities;
use jiff::Timestamp;
use sqlx::Row;
use sqlx::any::AnyRow;

use super::fingerprint::{Fingerprint, Group};
use super::{Check, NAMED_MAX, at, sql};
use crate::error::StoreError;
use crate::ledger::spending::{Counted, TOTAL, month_of};
use crate::ledger::{OVERRUN, add, negated, read_quantities, refs, settle, too_large};
use crate::resource::instant;
use crate::store::Reader;

/// The charge of a record that was reversed.
#[derive(Debug)]
pub(super) struct Reversed {
    project_no: i64,
    group: Group,
    pub(super) charged: Quantities,
}

/// Requests and quantities of a group.
type Sum = (i64, Quantities);

/// What the sums by day add up to.
#[derive(Debug, Default)]
struct Days {
    projects: BTreeMap<i64, Project>,
    /// What budgets count, by subject and start of the period.
    spent: BTreeMap<(i64, i64), Counted>,
}

#[derive(Debug, Default)]
struct Project {
    requests: i64,
    quantities: Quantities,
    fingerprint: i64,
}

pub(super) async fn reversed(reader: &mut Reader) -> Result<Vec<Reversed>, StoreError> {
    let rows = sqlx::query(sql::REVERSED).fetch_all(reader.conn()).await?;
    rows.iter()
        .map(|row| {
            Ok(Reversed { project_no: row.try_get("project_no")?, group: group(row)?, charged: read_quantities(row)? })
        })
        .collect()
}

impl Check<'_> {
    /// Compares the sums by day with balances and records, and the sums by spender with those by day.
    pub(super) async fn sums_beside(
        &mut self,
        balances: &BTreeMap<i64, Quantities>,
        reversed: &[Reversed],
    ) -> Result<(), StoreError> {
        let days = self.days().await?;
        let mut expected: BTreeMap<i64, (i64, i64)> =
            self.sums.usage.iter().map(|(no, sums)| (*no, (sums.count, sums.fingerprint))).collect();
        for one in reversed {
            let (_, print) = expected.entry(one.project_no).or_default();
            let back = self.sums.fingerprint.of(&one.group, 0, &negated(&one.charged))?;
            *print = Fingerprint::sum(*print, back);
        }
        let projects: BTreeSet<i64> = balances
            .keys()
            .filter(|owner| **owner > OVERRUN)
            .chain(days.projects.keys())
            .chain(expected.keys())
            .copied()
            .collect();
        let none = Project::default();
        for no in projects {
            let kept = days.projects.get(&no).unwrap_or(&none);
            let (requests, fingerprint) = expected.get(&no).copied().unwrap_or_default();
            let balance = at(balances, no);
            if kept.quantities == balance && kept.requests == requests && kept.fingerprint == fingerprint {
                continue;
            }
            let name = refs::name_uncached(self.reader.conn(), no).await?;
            self.same("daily", &format!("the days of `{name}`"), &kept.quantities, "its transfers", &balance);
            if kept.requests != requests {
                let text = format!("the days of `{name}` count {} requests, its usage {requests}", kept.requests);
                self.find("daily", text);
            }
            self.name_days(no, reversed).await?;
        }
        self.spending(&days.spent).await
    }

    /// Adds up the sums by day.
    async fn days(&mut self) -> Result<Days, StoreError> {
        let mut days = Days::default();
        let mut months: BTreeMap<i64, i64> = BTreeMap::new();
        let Self { reader, sums, .. } = self;
        let mut rows = sqlx::query(sql::DAILY).bind(Option::<i64>::None).fetch(reader.conn());
        while let Some(row) = rows.try_next().await? {
            let (project_no, group) = (row.try_get("project_no")?, group(&row)?);
            let (requests, sum) = sum(&row)?;
            let project = days.projects.entry(project_no).or_default();
            project.requests += requests;
            add(&mut project.quantities, &sum)?;
            project.fingerprint = Fingerprint::sum(project.fingerprint, sums.fingerprint.of(&group, requests, &sum)?);
            let month = match months.get(&group.day) {
                Some(month) => *month,
                None => {
                    let month = month_of(first_instant(group.day)?).0.as_microsecond();
                    months.insert(group.day, month);
                    month
                }
            };
            for subject in [group.tenant_no, project_no, group.key_no] {
                for period in [TOTAL, month] {
                    days.spent.entry((subject, period)).or_default().add(&Counted::of(&sum))?;
                }
            }
        }
        Ok(days)
    }

    /// Finds the days behind a difference in one project, by grouping its records.
    async fn name_days(&mut self, project_no: i64, reversed: &[Reversed]) -> Result<(), StoreError> {
        let mut from_records: BTreeMap<Group, Sum> = BTreeMap::new();
        for row in sqlx::query(sql::GROUPED).bind(project_no).fetch_all(self.reader.conn()).await? {
            from_records.insert(group(&row)?, sum(&row)?);
        }
        for one in reversed.iter().filter(|one| one.project_no == project_no) {
            add(&mut from_records.entry(one.group).or_default().1, &negated(&one.charged))?;
        }
        let mut kept: BTreeMap<Group, Sum> = BTreeMap::new();
        for row in sqlx::query(sql::DAILY).bind(Some(project_no)).fetch_all(self.reader.conn()).await? {
            kept.insert(group(&row)?, sum(&row)?);
        }
        let groups: BTreeSet<Group> = kept.keys().chain(from_records.keys()).copied().collect();
        let mut named = 0;
        for group in groups {
            let (kept, records) = (sum_at(&kept, group), sum_at(&from_records, group));
            if kept == records || named == NAMED_MAX {
                continue;
            }
            named += 1;
            let day = first_instant(group.day)?.to_zoned(jiff::tz::TimeZone::UTC).date();
            let key = refs::name_uncached(self.reader.conn(), group.key_no).await?;
            let endpoint = refs::name_uncached(self.reader.conn(), group.endpoint_no).await?;
            let kept_name = format!("the sums of {day} for `{key}` on `{endpoint}`");
            if kept.0 != records.0 {
                let text = format!("{kept_name} count {} requests, usage records {}", kept.0, records.0);
                self.find("daily", text);
            }
            self.same("daily", &kept_name, &kept.1, "its usage records", &records.1);
        }
        Ok(())
    }

    /// Compares what budgets see with what the days add up to, for every tenant, project and key, in all and by month.
    async fn spending(&mut self, days: &BTreeMap<(i64, i64), Counted>) -> Result<(), StoreError> {
        let mut seen = BTreeMap::new();
        for row in sqlx::query(sql::SPENDING).fetch_all(self.reader.conn()).await? {
            let key: (i64, i64) = (row.try_get("subject_no")?, row.try_get("period_start")?);
            seen.insert(key, Counted::read(&row)?);
        }
        let all: BTreeSet<(i64, i64)> = seen.keys().chain(days.keys()).copied().collect();
        let mut named = 0;
        for (subject, period) in all {
            let budgets = seen.get(&(subject, period)).copied().unwrap_or_default();
            let usage = days.get(&(subject, period)).copied().unwrap_or_default();
            if budgets == usage || named == NAMED_MAX {
                continue;
            }
            named += 1;
            let name = refs::name_uncached(self.reader.conn(), subject).await?;
            let when = if period == TOTAL {
                "in all".to_owned()
            } else {
                format!("in the month from {}", instant(period)?.to_zoned(jiff::tz::TimeZone::UTC).date())
            };
            let text = format!("`{name}` spent {usage} {when}, budgets see {budgets}");
            self.find("spending", text);
        }
        Ok(())
    }
}

fn sum_at(sums: &BTreeMap<Group, Sum>, group: Group) -> Sum {
    sums.get(&group).copied().unwrap_or_default()
}

fn group(row: &AnyRow) -> Result<Group, StoreError> {
    Ok(Group {
        day: row.try_get("day")?,
        key_no: row.try_get("key_no")?,
        endpoint_no: row.try_get("endpoint_no")?,
        principal_no: row.try_get("principal_no")?,
        tenant_no: row.try_get("tenant_no")?,
    })
}

fn sum(row: &AnyRow) -> Result<Sum, StoreError> {
    Ok((row.try_get("requests")?, read_quantities(row)?))
}

fn first_instant(day: i64) -> Result<Timestamp, StoreError> {
    instant(day.checked_mul(settle::MICROS_PER_DAY).ok_or_else(too_large)?)
}

//! Many rows in one statement.
//!
//! These are the only texts of this crate made at run time: a constant head and placeholders, in three sizes.
//! The placeholders are each engine's own (`Engine::placeholder`): binding `$n` to SQLite takes time that grows with
//! the square of their number, 20 times the insertion itself at 256 rows.

use std::sync::{Arc, LazyLock};

use sqlx::AnyConnection;
use sqlx::any::AnyArguments;
use sqlx::{Arguments, AssertSqlSafe};

use crate::engine_sql::Engine;
use crate::error::StoreError;

/// Rows per statement, largest first. 256 rows of 35 columns stay below SQLite's 32,766 parameters.
const SIZES: [usize; 3] = [256, 16, 1];

/// An insertion of rows of a fixed number of columns.
pub(crate) struct Bulk {
    columns: usize,
    sqlite: LazyLock<[Arc<str>; 3]>,
    postgres: LazyLock<[Arc<str>; 3]>,
}

macro_rules! bulk {
    ($columns:literal, $head:expr, $tail:expr) => {
        Bulk {
            columns: $columns,
            sqlite: LazyLock::new(|| texts(Engine::Sqlite, $head, $columns, $tail)),
            postgres: LazyLock::new(|| texts(Engine::Postgres, $head, $columns, $tail)),
        }
    };
}

pub(crate) static USAGE: Bulk = bulk!(
    35,
    "INSERT INTO usage (project_no, source, sequence, held_micros, overrun_micros, overrun_picos, prompt_tokens, cached_tokens, \
     completion_tokens, micros, picos, millijoules, co2e_micrograms, request_high, request_low, started_at, \
     duration_micros, tenant_no, principal_no, key_no, endpoint_no, replica_no, price_book_no, operation, outcome, \
     http_status, energy_method, first_token_micros, batch_no, price_percent, \
     prompt_price, cached_price, completion_price, service_tier, country) VALUES ",
    ""
);

pub(crate) static TRANSFER: Bulk = bulk!(
    13,
    "INSERT INTO transfer (to_no, from_no, source, sequence, part, voided_micros, prompt_tokens, cached_tokens, \
     completion_tokens, micros, picos, millijoules, co2e_micrograms) VALUES ",
    ""
);

/// Adds to what owners have.
pub(crate) static BALANCE: Bulk = bulk!(
    8,
    "INSERT INTO balance (owner_no, prompt_tokens, cached_tokens, completion_tokens, micros, picos, millijoules, \
     co2e_micrograms) VALUES ",
    " ON CONFLICT (owner_no) DO UPDATE SET prompt_tokens = balance.prompt_tokens + excluded.prompt_tokens, \
     cached_tokens = balance.cached_tokens + excluded.cached_tokens, \
     completion_tokens = balance.completion_tokens + excluded.completion_tokens, \
     micros = balance.micros + excluded.micros, picos = balance.picos + excluded.picos, \
     millijoules = balance.millijoules + excluded.millijoules, \
     co2e_micrograms = balance.co2e_micrograms + excluded.co2e_micrograms"
);

/// Adds to the sums of days.
pub(crate) static DAILY: Bulk = bulk!(
    14,
    "INSERT INTO usage_daily (day, project_no, endpoint_no, key_no, principal_no, tenant_no, requests, \
     prompt_tokens, cached_tokens, completion_tokens, micros, picos, millijoules, co2e_micrograms) VALUES ",
    " ON CONFLICT (day, project_no, endpoint_no, key_no, principal_no) DO UPDATE SET \
     requests = usage_daily.requests + excluded.requests, \
     prompt_tokens = usage_daily.prompt_tokens + excluded.prompt_tokens, \
     cached_tokens = usage_daily.cached_tokens + excluded.cached_tokens, \
     completion_tokens = usage_daily.completion_tokens + excluded.completion_tokens, \
     micros = usage_daily.micros + excluded.micros, picos = usage_daily.picos + excluded.picos, \
     millijoules = usage_daily.millijoules + excluded.millijoules, \
     co2e_micrograms = usage_daily.co2e_micrograms + excluded.co2e_micrograms"
);

/// Adds to what subjects spent.
pub(crate) static SPENDING: Bulk = bulk!(
    6,
    "INSERT INTO spending (subject_no, period_start, micros, picos, millijoules, co2e_micrograms) VALUES ",
    " ON CONFLICT (subject_no, period_start) DO UPDATE SET micros = spending.micros + excluded.micros, \
     picos = spending.picos + excluded.picos, millijoules = spending.millijoules + excluded.millijoules, \
     co2e_micrograms = spending.co2e_micrograms + excluded.co2e_micrograms"
);

fn texts(engine: Engine, head: &str, columns: usize, tail: &str) -> [Arc<str>; 3] {
    SIZES.map(|rows| {
        let mut text = rows_text(engine, head, columns, rows);
        text.push_str(tail);
        text.into()
    })
}

/// A constant head and the places of so many rows.
pub(crate) fn rows_text(engine: Engine, head: &str, columns: usize, rows: usize) -> String {
    let mut text = String::from(head);
    for row in 0..rows {
        text.push_str(if row == 0 { "(" } else { ", (" });
        for column in 1..=columns {
            text.push_str(if column == 1 { "" } else { ", " });
            engine.placeholder(row * columns + column, &mut text);
        }
        text.push(')');
    }
    text
}

impl Bulk {
    /// Inserts `values`, row after row. Rows that add to others come each once, and in order, so that two writers
    /// take their locks in the same order.
    pub(crate) async fn insert(
        &self,
        engine: Engine,
        conn: &mut AnyConnection,
        values: &[Option<i64>],
    ) -> Result<(), StoreError> {
        let texts = match engine {
            Engine::Sqlite => &self.sqlite,
            Engine::Postgres => &self.postgres,
        };
        let mut rest = values;
        for (size, text) in SIZES.iter().zip(texts.iter()) {
            while rest.len() >= size * self.columns {
                let (rows, after) = rest.split_at(size * self.columns);
                rest = after;
                let mut arguments = AnyArguments::default();
                arguments.reserve(rows.len(), 0);
                for value in rows {
                    arguments.add(*value).map_err(sqlx::Error::Encode)?;
                }
                sqlx::query_with(AssertSqlSafe(Arc::clone(text)), arguments).execute(&mut *conn).await?;
            }
        }
        debug_assert!(rest.is_empty(), "values come in whole rows");
        Ok(())
    }
}

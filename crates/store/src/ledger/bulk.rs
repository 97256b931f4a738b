//! Many rows in one statement.
//!
//! These are the only texts of this crate made at run time: a constant head and numbered placeholders, in three sizes.

use std::fmt::Write;
use std::sync::{Arc, LazyLock};

use sqlx::AnyConnection;
use sqlx::any::AnyArguments;
use sqlx::{Arguments, AssertSqlSafe};

use crate::error::StoreError;

/// Rows per statement, largest first. 256 rows of 27 columns stay below SQLite's 32,766 parameters.
const SIZES: [usize; 3] = [256, 16, 1];

/// An insertion of rows of a fixed number of columns.
pub(crate) struct Bulk {
    columns: usize,
    texts: LazyLock<[Arc<str>; 3]>,
}

pub(crate) static USAGE: Bulk = Bulk {
    columns: 27,
    texts: LazyLock::new(|| {
        texts(
            "INSERT INTO usage (project_no, source, sequence, held_micros, overrun_micros, prompt_tokens, \
             cached_tokens, completion_tokens, micros, picos, millijoules, co2e_micrograms, request_high, \
             request_low, started_at, duration_micros, tenant_no, principal_no, key_no, endpoint_no, replica_no, \
             price_book_no, operation, outcome, http_status, energy_method, first_token_micros) VALUES ",
            27,
        )
    }),
};

pub(crate) static TRANSFER: Bulk = Bulk {
    columns: 13,
    texts: LazyLock::new(|| {
        texts(
            "INSERT INTO transfer (to_no, from_no, source, sequence, part, voided_micros, prompt_tokens, \
             cached_tokens, completion_tokens, micros, picos, millijoules, co2e_micrograms) VALUES ",
            13,
        )
    }),
};

fn texts(head: &str, columns: usize) -> [Arc<str>; 3] {
    SIZES.map(|rows| {
        let mut text = String::from(head);
        for row in 0..rows {
            text.push_str(if row == 0 { "(" } else { ", (" });
            for column in 1..=columns {
                let separator = if column == 1 { "" } else { ", " };
                write!(text, "{separator}${}", row * columns + column).expect("a String takes all text");
            }
            text.push(')');
        }
        text.into()
    })
}

impl Bulk {
    /// Inserts `values`, row after row.
    pub(crate) async fn insert(&self, conn: &mut AnyConnection, values: &[Option<i64>]) -> Result<(), StoreError> {
        let mut rest = values;
        for (size, text) in SIZES.iter().zip(self.texts.iter()) {
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

//! Every table with the texts that read and fill it. A test compares this list with the schema.

use sqlx::AnyConnection;
use sqlx::Row;

use crate::error::StoreError;
use crate::kind::RESOURCE_TABLES;

use Type::{Number, Text};

/// Type of a column; there are no others.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Type {
    Text,
    Number,
}

/// A table.
#[derive(Debug, Clone, Copy)]
pub(super) struct Table {
    pub(super) name: &'static str,
    pub(super) columns: &'static [Type],
    pub(super) select: &'static str,
    pub(super) insert: &'static str,
}

/// The last event's number.
pub(super) const LAST_EVENT: &str = "SELECT value FROM counter WHERE name = 'event'";

/// What the migrations put in and a backup brings again.
const CLEAR: [&str; 2] = ["DELETE FROM counter", "DELETE FROM ledger_ref"];

/// Rows of the tables that no site leaves empty.
const COUNT: &str = "SELECT (SELECT COUNT(*) FROM tenant) + (SELECT COUNT(*) FROM node) + (SELECT COUNT(*) FROM event) \
    + (SELECT COUNT(*) FROM spool_cursor) + (SELECT COUNT(*) FROM reading) AS n";

/// Columns of every resource table, as `kind::Statements::all` reads them.
const RESOURCE_COLUMNS: &[Type] = &[Text, Text, Text, Text, Number, Text, Text, Number, Number, Number];

/// All tables but the one of schema versions.
pub(super) fn all() -> Vec<Table> {
    let resources = RESOURCE_TABLES.iter().map(|(name, statements)| Table {
        name,
        columns: RESOURCE_COLUMNS,
        select: statements.all,
        insert: statements.load,
    });
    resources.chain(OTHERS.iter().copied()).collect()
}

/// All tables as they were at a schema, to be loaded into the newest: later columns take their defaults.
pub(super) fn at(schema: i64) -> Vec<Table> {
    let as_it_was = |table: Table| match table.name {
        "lease" if schema < 6 => Table {
            columns: &[Text, Text, Number, Number],
            insert: "INSERT INTO lease (name, holder, epoch, expires_at) VALUES ($1, $2, $3, $4)",
            ..table
        },
        "spending" if schema < 8 => Table {
            columns: &[Number, Number, Number, Number],
            insert: "INSERT INTO spending (subject_no, period_start, micros, picos) VALUES ($1, $2, $3, $4)",
            ..table
        },
        "usage" if schema < 10 => Table {
            columns: &[Number; 28],
            insert: "INSERT INTO usage (project_no, source, sequence, held_micros, overrun_micros, overrun_picos, prompt_tokens, cached_tokens, completion_tokens, micros, picos, millijoules, co2e_micrograms, request_high, request_low, started_at, duration_micros, tenant_no, principal_no, key_no, endpoint_no, replica_no, price_book_no, operation, outcome, http_status, energy_method, first_token_micros) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18, $19, $20, $21, $22, $23, $24, $25, $26, $27, $28)",
            ..table
        },
        "usage" if schema < 11 => Table {
            columns: &[Number; 30],
            insert: "INSERT INTO usage (project_no, source, sequence, held_micros, overrun_micros, overrun_picos, prompt_tokens, cached_tokens, completion_tokens, micros, picos, millijoules, co2e_micrograms, request_high, request_low, started_at, duration_micros, tenant_no, principal_no, key_no, endpoint_no, replica_no, price_book_no, operation, outcome, http_status, energy_method, first_token_micros, batch_no, price_percent) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18, $19, $20, $21, $22, $23, $24, $25, $26, $27, $28, $29, $30)",
            ..table
        },
        _ => table,
    };
    all().into_iter().map(as_it_was).collect()
}

/// Whether a freshly migrated database is still as the migrations left it.
pub(super) async fn is_empty(conn: &mut AnyConnection) -> Result<bool, StoreError> {
    Ok(sqlx::query(COUNT).fetch_one(conn).await?.try_get::<i64, _>("n")? == 0)
}

pub(super) async fn clear(conn: &mut AnyConnection) -> Result<(), StoreError> {
    for sql in CLEAR {
        sqlx::query(sql).execute(&mut *conn).await?;
    }
    Ok(())
}

const OTHERS: &[Table] = &[
    Table {
        name: "counter",
        columns: &[Text, Number],
        select: "SELECT name, value FROM counter ORDER BY name",
        insert: "INSERT INTO counter (name, value) VALUES ($1, $2)",
    },
    Table {
        name: "event",
        columns: &[Number, Text, Number, Text, Text, Text, Text, Text, Text, Text, Text, Text, Text, Text, Text, Text],
        select: "SELECT sequence, id, at, action, decision, tenant_id, project_id, resource, principal_id, key_id, component, address, request_id, before_digest, after_digest, text FROM event ORDER BY sequence",
        insert: "INSERT INTO event (sequence, id, at, action, decision, tenant_id, project_id, resource, principal_id, key_id, component, address, request_id, before_digest, after_digest, text) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16)",
    },
    Table {
        name: "lease",
        columns: &[Text, Text, Number, Number, Number],
        // Who serves the database is true of this database only.
        select: "SELECT name, holder, epoch, expires_at, since FROM lease WHERE name <> 'server' ORDER BY name",
        insert: "INSERT INTO lease (name, holder, epoch, expires_at, since) VALUES ($1, $2, $3, $4, $5)",
    },
    Table {
        name: "key_line",
        columns: &[Text, Text],
        select: "SELECT key_id, line_id FROM key_line ORDER BY key_id",
        insert: "INSERT INTO key_line (key_id, line_id) VALUES ($1, $2)",
    },
    Table {
        name: "outbox",
        columns: &[Number, Text, Text, Text, Number, Number, Number, Number, Number],
        select: "SELECT id, kind, key, payload, created_at, attempts, not_before, claim_epoch, claimed_until FROM outbox ORDER BY id",
        insert: "INSERT INTO outbox (id, kind, key, payload, created_at, attempts, not_before, claim_epoch, claimed_until) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)",
    },
    Table {
        name: "idempotency",
        columns: &[Text, Text, Text, Number, Text, Number],
        select: "SELECT principal_id, key, digest, status, body, expires_at FROM idempotency ORDER BY principal_id, key",
        insert: "INSERT INTO idempotency (principal_id, key, digest, status, body, expires_at) VALUES ($1, $2, $3, $4, $5, $6)",
    },
    Table {
        name: "ledger_ref",
        columns: &[Number, Text],
        select: "SELECT no, id FROM ledger_ref ORDER BY no",
        insert: "INSERT INTO ledger_ref (no, id) VALUES ($1, $2)",
    },
    Table {
        name: "usage",
        columns: &[Number; 35],
        select: "SELECT project_no, source, sequence, held_micros, overrun_micros, overrun_picos, prompt_tokens, cached_tokens, completion_tokens, micros, picos, millijoules, co2e_micrograms, request_high, request_low, started_at, duration_micros, tenant_no, principal_no, key_no, endpoint_no, replica_no, price_book_no, operation, outcome, http_status, energy_method, first_token_micros, batch_no, price_percent, prompt_price, cached_price, completion_price, service_tier, country FROM usage ORDER BY source, sequence",
        insert: "INSERT INTO usage (project_no, source, sequence, held_micros, overrun_micros, overrun_picos, prompt_tokens, cached_tokens, completion_tokens, micros, picos, millijoules, co2e_micrograms, request_high, request_low, started_at, duration_micros, tenant_no, principal_no, key_no, endpoint_no, replica_no, price_book_no, operation, outcome, http_status, energy_method, first_token_micros, batch_no, price_percent, prompt_price, cached_price, completion_price, service_tier, country) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18, $19, $20, $21, $22, $23, $24, $25, $26, $27, $28, $29, $30, $31, $32, $33, $34, $35)",
    },
    Table {
        name: "transfer",
        columns: &[
            Number, Number, Number, Number, Number, Number, Number, Number, Number, Number, Number, Number, Number,
        ],
        select: "SELECT to_no, from_no, source, sequence, part, voided_micros, prompt_tokens, cached_tokens, completion_tokens, micros, picos, millijoules, co2e_micrograms FROM transfer ORDER BY source, sequence, part",
        insert: "INSERT INTO transfer (to_no, from_no, source, sequence, part, voided_micros, prompt_tokens, cached_tokens, completion_tokens, micros, picos, millijoules, co2e_micrograms) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13)",
    },
    Table {
        name: "balance",
        columns: &[Number, Number, Number, Number, Number, Number, Number, Number],
        select: "SELECT owner_no, prompt_tokens, cached_tokens, completion_tokens, micros, picos, millijoules, co2e_micrograms FROM balance ORDER BY owner_no",
        insert: "INSERT INTO balance (owner_no, prompt_tokens, cached_tokens, completion_tokens, micros, picos, millijoules, co2e_micrograms) VALUES ($1, $2, $3, $4, $5, $6, $7, $8)",
    },
    Table {
        name: "spool_cursor",
        columns: &[Number, Number],
        select: "SELECT source, through FROM spool_cursor ORDER BY source",
        insert: "INSERT INTO spool_cursor (source, through) VALUES ($1, $2)",
    },
    Table {
        name: "spending",
        columns: &[Number, Number, Number, Number, Number, Number],
        select: "SELECT subject_no, period_start, micros, picos, millijoules, co2e_micrograms FROM spending ORDER BY subject_no, period_start",
        insert: "INSERT INTO spending (subject_no, period_start, micros, picos, millijoules, co2e_micrograms) VALUES ($1, $2, $3, $4, $5, $6)",
    },
    Table {
        name: "budget_share",
        columns: &[Number, Text, Text, Number, Number, Number, Number, Number],
        select: "SELECT source, budget_id, subject_id, period_start, micros, picos, millijoules, co2e_micrograms FROM budget_share ORDER BY source, budget_id, subject_id, period_start",
        insert: "INSERT INTO budget_share (source, budget_id, subject_id, period_start, micros, picos, millijoules, co2e_micrograms) VALUES ($1, $2, $3, $4, $5, $6, $7, $8)",
    },
    Table {
        name: "forsaken_spool",
        columns: &[Number, Number],
        select: "SELECT source, forsaken_at FROM forsaken_spool ORDER BY source",
        insert: "INSERT INTO forsaken_spool (source, forsaken_at) VALUES ($1, $2)",
    },
    Table {
        name: "usage_daily",
        columns: &[
            Number, Number, Number, Number, Number, Number, Number, Number, Number, Number, Number, Number, Number,
            Number,
        ],
        select: "SELECT day, project_no, endpoint_no, key_no, principal_no, tenant_no, requests, prompt_tokens, cached_tokens, completion_tokens, micros, picos, millijoules, co2e_micrograms FROM usage_daily ORDER BY day, project_no, endpoint_no, key_no, principal_no",
        insert: "INSERT INTO usage_daily (day, project_no, endpoint_no, key_no, principal_no, tenant_no, requests, prompt_tokens, cached_tokens, completion_tokens, micros, picos, millijoules, co2e_micrograms) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14)",
    },
    Table {
        name: "energy_pending",
        columns: &[Number, Number, Number],
        select: "SELECT node_no, millijoules, co2e_micrograms FROM energy_pending ORDER BY node_no",
        insert: "INSERT INTO energy_pending (node_no, millijoules, co2e_micrograms) VALUES ($1, $2, $3)",
    },
    Table {
        name: "reading",
        columns: &[
            Number, Text, Number, Number, Number, Number, Number, Number, Number, Number, Number, Number, Number,
            Number, Number, Number, Number, Text, Number, Text,
        ],
        select: "SELECT no, id, node_no, started_at, ended_at, millijoules, co2e_micrograms, usage_millijoules, usage_co2e_micrograms, overhead_millijoules, overhead_co2e_micrograms, carry_co2e, carry_overhead, carry_overhead_co2e, pue_thousandths, method, busy_cpu_micros, zone, intensity_mg_per_kwh, intensity_source FROM reading ORDER BY no",
        insert: "INSERT INTO reading (no, id, node_no, started_at, ended_at, millijoules, co2e_micrograms, usage_millijoules, usage_co2e_micrograms, overhead_millijoules, overhead_co2e_micrograms, carry_co2e, carry_overhead, carry_overhead_co2e, pue_thousandths, method, busy_cpu_micros, zone, intensity_mg_per_kwh, intensity_source) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18, $19, $20)",
    },
    Table {
        name: "replica_reading",
        columns: &[Number, Number, Text],
        select: "SELECT reading_no, replica_no, how FROM replica_reading ORDER BY reading_no",
        insert: "INSERT INTO replica_reading (reading_no, replica_no, how) VALUES ($1, $2, $3)",
    },
    Table {
        name: "energy_correction",
        columns: &[Number, Number, Number, Number, Number, Number],
        select: "SELECT source, sequence, reading_no, millijoules, co2e_micrograms, method FROM energy_correction ORDER BY source, sequence",
        insert: "INSERT INTO energy_correction (source, sequence, reading_no, millijoules, co2e_micrograms, method) VALUES ($1, $2, $3, $4, $5, $6)",
    },
    Table {
        name: "reversal",
        columns: &[Number, Number, Number, Number],
        select: "SELECT no, of_source, of_sequence, at FROM reversal ORDER BY no",
        insert: "INSERT INTO reversal (no, of_source, of_sequence, at) VALUES ($1, $2, $3, $4)",
    },
    Table {
        name: "file",
        columns: &[Text, Text, Text, Number, Number, Number, Text],
        select: "SELECT id, project_id, purpose, bytes, expires_at, deleted_at, body FROM file ORDER BY id",
        insert: "INSERT INTO file (id, project_id, purpose, bytes, expires_at, deleted_at, body) VALUES ($1, $2, $3, $4, $5, $6, $7)",
    },
    Table {
        name: "file_storage",
        columns: &[Text, Number, Number],
        select: "SELECT project_id, bytes, files FROM file_storage ORDER BY project_id",
        insert: "INSERT INTO file_storage (project_id, bytes, files) VALUES ($1, $2, $3)",
    },
    Table {
        name: "batch",
        columns: &[Text, Text, Number, Number, Text],
        select: "SELECT id, project_id, ended, cancel_at, body FROM batch ORDER BY id",
        insert: "INSERT INTO batch (id, project_id, ended, cancel_at, body) VALUES ($1, $2, $3, $4, $5)",
    },
    Table {
        name: "batch_segment",
        columns: &[Text, Number, Text, Text, Text, Number],
        select: "SELECT batch_id, number, object, lines, records, settled FROM batch_segment ORDER BY batch_id, number",
        insert: "INSERT INTO batch_segment (batch_id, number, object, lines, records, settled) VALUES ($1, $2, $3, $4, $5, $6)",
    },
];

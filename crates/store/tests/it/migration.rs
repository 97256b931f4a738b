//! Schema versions.

use galerne_model::identity::ApiKey;
use galerne_model::ids::KeyId;
use galerne_model::money::{Budget, BudgetPeriod, BudgetSubject};
use galerne_store::{Engine, EventFilter, Filter, SCHEMA_VERSION, Store, StoreError, StoreUrl};
use sqlx::{AnyConnection, AssertSqlSafe, Connection, Row};

use crate::bed::{Bed, connection};
use crate::sample::{self, later, uuid};

/// Every column and index of a database, one line each, in an order that does not depend on how they were made.
async fn catalogue(conn: &mut AnyConnection, engine: Engine) -> Vec<String> {
    let texts: &[&str] = match engine {
        Engine::Sqlite => &[
            "SELECT m.name || '.' || c.name || ' ' || c.type || ' ' || c.\"notnull\" || ' ' || c.pk AS line \
             FROM sqlite_master m, pragma_table_info(m.name) c WHERE m.type = 'table'",
            "SELECT m.name || ' ' || COALESCE(m.sql, '') AS line FROM sqlite_master m WHERE m.type = 'index'",
            "SELECT m.name || ' without rowid ' || t.wr AS line FROM sqlite_master m, pragma_table_list(m.name) t \
             WHERE m.type = 'table'",
        ],
        Engine::Postgres => &[
            "SELECT table_name || '.' || column_name || ' ' || data_type || ' ' || is_nullable AS line \
             FROM information_schema.columns WHERE table_schema = current_schema()",
            "SELECT CAST(indexdef AS TEXT) AS line FROM pg_indexes WHERE schemaname = current_schema()",
            "SELECT CAST(conrelid::regclass AS TEXT) || ' ' || pg_get_constraintdef(oid) AS line FROM pg_constraint \
             WHERE connamespace = current_schema()::regnamespace",
        ],
    };
    let mut lines = Vec::new();
    for text in texts {
        for row in sqlx::raw_sql(AssertSqlSafe(*text)).fetch_all(&mut *conn).await.expect("the catalogue answers") {
            let line: String = row.try_get("line").expect("a line");
            lines.push(line.split_whitespace().collect::<Vec<_>>().join(" "));
        }
    }
    lines.sort();
    lines
}

pub(crate) async fn migrating_twice_changes_nothing(bed: &Bed) {
    let engine = bed.store.engine();
    let mut tx = bed.store.begin().await.expect("begins");
    tx.insert(&sample::tenant(1)).await.expect("inserts");
    tx.commit().await.expect("commits");
    let before = catalogue(&mut bed.connection().await, engine).await;
    let again = Store::migrate(&bed.url).await.expect("migrates");
    assert_eq!((again.from, again.to, again.copy), (SCHEMA_VERSION, SCHEMA_VERSION, None));
    let store = Store::open(&bed.url).await.expect("opens again");
    assert_eq!(catalogue(&mut bed.connection().await, engine).await, before);
    let tenants = store.list_all::<galerne_model::identity::Tenant>(&galerne_store::Filter::default()).await;
    assert_eq!(tenants.expect("lists").len(), 1);
    store.close().await;
}

pub(crate) async fn a_newer_schema_is_refused(bed: &Bed) {
    bed.store.close().await;
    let newer = SCHEMA_VERSION + 1;
    bed.damage(&format!("INSERT INTO schema_version VALUES ({newer}, 'future', 'x', 0)")).await;
    for refused in [Store::open(&bed.url).await.err(), Store::migrate(&bed.url).await.err()] {
        let right = matches!(refused, Some(StoreError::NewerSchema { found, known })
            if found == newer && known == SCHEMA_VERSION);
        assert!(right, "{refused:?}");
    }
    bed.damage(&format!("DELETE FROM schema_version WHERE version = {newer}")).await;
    bed.damage("UPDATE schema_version SET digest = 'x' WHERE version = 2").await;
    assert!(matches!(Store::open(&bed.url).await, Err(StoreError::Corrupt(_))), "another text was applied");
}

const UNDO_SHARES: &str = "DROP TABLE budget_share; DROP TABLE forsaken_spool";
const UNDO_TERMS: &str = "DROP INDEX usage_started; ALTER TABLE usage DROP COLUMN prompt_price; \
    ALTER TABLE usage DROP COLUMN cached_price; ALTER TABLE usage DROP COLUMN completion_price; \
    ALTER TABLE usage DROP COLUMN service_tier; ALTER TABLE usage DROP COLUMN country";
const UNDO_FILES: &str = "DROP TABLE file; DROP TABLE file_storage; DROP TABLE batch; DROP TABLE batch_segment; \
    ALTER TABLE usage DROP COLUMN batch_no; ALTER TABLE usage DROP COLUMN price_percent";
const UNDO_SPENDING: &str =
    "ALTER TABLE spending DROP COLUMN millijoules; ALTER TABLE spending DROP COLUMN co2e_micrograms";

const UNDO_CORRECTION: &str = "DROP TABLE replica_reading; DROP TABLE energy_correction";

pub(crate) async fn energy_spent_before_budgets_could_limit_it_is_added_up(bed: &Bed) {
    bed.store.settle_batch(1, &sample::records(1, 30)).await.expect("settles");
    let project = BudgetSubject::Project { project_id: sample::project_id(1) };
    let before = bed.store.spent(&project, BudgetPeriod::Month, sample::now()).await.expect("reads");
    assert!(before.spent.millijoules.0 > 0 && before.spent.co2e_micrograms.0 > 0, "{before:?}");
    bed.store.close().await;
    bed.damage(UNDO_SHARES).await;
    bed.damage(UNDO_TERMS).await;
    bed.damage(UNDO_FILES).await;
    bed.damage(UNDO_SPENDING).await;
    bed.damage(UNDO_CORRECTION).await;
    bed.damage("DELETE FROM schema_version WHERE version > 7").await;
    Store::migrate(&bed.url).await.expect("migrates");
    let store = Store::open(&bed.url).await.expect("opens");
    assert_eq!(store.spent(&project, BudgetPeriod::Month, sample::now()).await.expect("reads"), before);
    assert!(store.ledger_check().await.expect("checks").closes(), "days and budgets agree");
    store.close().await;
}

/// Back to the schema that ended with the ledger.
async fn undo_after_the_ledger(bed: &Bed) {
    let undo = [
        UNDO_SHARES,
        UNDO_TERMS,
        UNDO_FILES,
        UNDO_CORRECTION,
        UNDO_SPENDING,
        "DROP INDEX event_request",
        "ALTER TABLE lease DROP COLUMN since",
        "DROP TABLE key_line",
    ];
    assert_eq!(SCHEMA_VERSION, 4 + i64::try_from(undo.len()).expect("few"), "each schema change is undone here");
    for sql in undo {
        bed.damage(sql).await;
    }
    bed.damage("DELETE FROM schema_version WHERE version > 4").await;
}

pub(crate) async fn an_older_schema_is_migrated_at_start_or_on_command(bed: &Bed) {
    bed.store.close().await;
    undo_after_the_ledger(bed).await;
    // Back to the schema before the ledger.
    for table in [
        "ledger_ref",
        "usage",
        "transfer",
        "balance",
        "spool_cursor",
        "spending",
        "usage_daily",
        "energy_pending",
        "reading",
        "reversal",
    ] {
        bed.damage(&format!("DROP TABLE {table}")).await;
    }
    bed.damage("DELETE FROM counter WHERE name IN ('ledger_ref', 'reading', 'reversal')").await;
    assert_eq!(bed.damage("DELETE FROM schema_version WHERE version >= 4").await, 1);
    if bed.store.engine() == Engine::Postgres {
        let refused = Store::open(&bed.url).await.err();
        let right = matches!(refused, Some(StoreError::OldSchema { found: 3, known: SCHEMA_VERSION }));
        assert!(right, "several processes may use it, so a person says when: {refused:?}");
        let migrated = Store::migrate(&bed.url).await.expect("migrates");
        assert_eq!((migrated.from, migrated.to), (3, SCHEMA_VERSION));
    }
    let store = Store::open(&bed.url).await.expect("opens");
    assert!(store.ledger_check().await.expect("checks").closes());
    store.close().await;
}

pub(crate) async fn keys_rotated_before_lines_get_their_line_and_lose_their_copied_budgets(bed: &Bed) {
    let key_id = |n: u64| KeyId::from_uuid(uuid(n));
    let key = |n: u64, made_at: u32, next: Option<u64>| {
        let mut key = sample::api_key(n);
        key.created_at = later(made_at.into());
        key.status.rotated_to = next.map(key_id);
        key
    };
    let budget = |n: u64, on: u64, made_at: u32| {
        let subject = BudgetSubject::Key { key_id: key_id(on) };
        let mut budget = sample::budget(n, subject, BudgetPeriod::Total);
        budget.created_at = later(made_at.into());
        budget
    };
    let mut tx = bed.store.begin().await.expect("begins");
    // 1 → 2 → 3, and a line of its own: 9. Deleted keys stay in their line.
    for made in [key(1, 0, Some(2)), key(2, 10, Some(3)), key(3, 20, None), key(9, 0, None)] {
        tx.insert(&made).await.expect("inserts");
    }
    tx.delete::<ApiKey>(key_id(1), None, later(30)).await.expect("deletes");
    // An original, its copies made with keys 2 and 3, and one that a person set on key 3 later.
    for made in [budget(1, 1, 5), budget(2, 2, 10), budget(3, 3, 20), budget(4, 3, 21)] {
        tx.insert(&made).await.expect("inserts");
    }
    let changed = budget(5, 2, 10);
    tx.insert(&changed).await.expect("inserts");
    tx.update_spec::<Budget>(changed.id, 1, &changed.spec, later(40)).await.expect("changes");
    tx.commit().await.expect("commits");
    bed.store.close().await;
    undo_after_the_ledger(bed).await;
    Store::migrate(&bed.url).await.expect("migrates");
    let store = Store::open(&bed.url).await.expect("opens");
    let mut reader = store.reader().await.expect("reads");
    assert_eq!(reader.keys_of_line(key_id(3)).await.expect("reads"), [key_id(1), key_id(2), key_id(3)]);
    assert_eq!(reader.key_line(key_id(9)).await.expect("reads"), key_id(9));
    let left = reader.list_all::<Budget>(&Filter::default()).await.expect("lists");
    let names: Vec<&str> = left.iter().map(|budget| budget.name.as_str()).collect();
    assert_eq!(names, ["budget-1", "budget-4", "budget-5"], "untouched copies are gone, nothing else");
    let gone = EventFilter { action: Some("budget.delete".to_owned()), ..EventFilter::default() };
    assert_eq!(reader.events(&gone, 10).await.expect("lists").len(), 2, "each with its event");
    drop(reader);
    store.close().await;
}

pub(crate) async fn the_schema_is_the_committed_one(bed: &Bed) {
    let engine = bed.store.engine();
    let migrated = catalogue(&mut bed.connection().await, engine).await;
    let text = include_str!("../../schema.sql");
    let text = match engine {
        Engine::Postgres => text.to_owned(),
        Engine::Sqlite => text.replace("/*sqlite: WITHOUT ROWID */", "WITHOUT ROWID"),
    };
    let mut conn = connection(&bed.second().await).await;
    sqlx::raw_sql(AssertSqlSafe(text)).execute(&mut conn).await.expect("the committed schema is SQL");
    let committed = catalogue(&mut conn, engine).await;
    conn.close().await.expect("closed");
    for (migrated, committed) in migrated.iter().zip(&committed) {
        assert_eq!(migrated, committed, "crates/store/schema.sql is not what the migrations make");
    }
    assert_eq!(migrated.len(), committed.len());
}

#[tokio::test]
async fn a_sqlite_url_without_its_folder_is_refused_by_name() {
    let error = Store::open(&StoreUrl::sqlite("/nonexistent-folder/x.db")).await.expect_err("no such folder");
    assert!(matches!(&error, StoreError::File { path, .. } if path.ends_with("nonexistent-folder")), "{error:?}");
}

#[tokio::test]
async fn a_file_that_is_no_database_is_refused_and_left_alone() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join("galerne ü?.db");
    std::fs::write(&path, "this is a letter, not a database").expect("written");
    let error = Store::open(&StoreUrl::sqlite(&path)).await.expect_err("not a database");
    assert!(matches!(error, StoreError::Corrupt(_)), "{error:?}");
    assert_eq!(std::fs::read_to_string(&path).expect("readable"), "this is a letter, not a database");
}

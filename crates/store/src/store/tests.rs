//! What only the inside can arrange: a database that may not grow, and a schema of yesterday.

use galerne_model::identity::{Empty, Tenant, TenantSpec};
use galerne_model::ids::TenantId;
use jiff::Timestamp;
use uuid::Uuid;

use super::*;
use crate::resource::Filter;

fn tenant(n: u128) -> Tenant {
    let now = Timestamp::UNIX_EPOCH;
    Tenant {
        id: TenantId::from_uuid(Uuid::from_u128(n)),
        tenant_id: None,
        project_id: None,
        name: format!("t{n}"),
        generation: 1,
        created_at: now,
        updated_at: now,
        spec: TenantSpec { description: "x".repeat(20_000) },
        status: Empty {},
    }
}

#[tokio::test]
async fn a_commit_that_does_not_fit_leaves_nothing_and_says_why() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let store = Store::open(&StoreUrl::sqlite(folder.path().join("x.db"))).await.expect("opens");
    let mut conn = store.inner.write.acquire().await.expect("the writer");
    sqlx::raw_sql("PRAGMA max_page_count = 200").execute(&mut *conn).await.expect("limits the file");
    drop(conn);
    let mut committed = 0;
    let error = loop {
        let mut tx = store.begin().await.expect("begins");
        let first = tx.insert(&tenant(2 * committed + 1)).await;
        let done = match first {
            Ok(_) => tx.insert(&tenant(2 * committed + 2)).await.map(|_| ()),
            Err(error) => Err(error),
        };
        match done {
            Ok(()) => tx.commit().await.expect("what fits is committed"),
            Err(error) => break error,
        };
        committed += 1;
    };
    assert!(matches!(error, StoreError::DiskFull(_)), "{error:?}");
    let left = store.list_all::<Tenant>(&Filter::default()).await.expect("still readable");
    assert_eq!(left.len() as u128, 2 * committed, "both of a transaction or none");
    assert!(committed > 3);
    let mut tx = store.begin().await.expect("the store goes on");
    tx.delete::<Tenant>(left[0].id, None, Timestamp::UNIX_EPOCH).await.expect("small writes still fit");
    tx.commit().await.expect("commits");
}

#[tokio::test]
async fn an_older_file_is_copied_and_then_migrated() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join("x.db");
    let store = Store::open(&StoreUrl::sqlite(&path)).await.expect("opens");
    let mut tx = store.begin().await.expect("begins");
    tx.insert(&tenant(1)).await.expect("inserts");
    tx.commit().await.expect("commits");
    // Back to the schema that ended with the ledger.
    let mut conn = store.inner.write.acquire().await.expect("the writer");
    migration::forget_all_after_the_ledger(&mut conn).await;
    drop(conn);
    store.close().await;
    let migrated = Store::migrate(&StoreUrl::sqlite(&path)).await.expect("migrates");
    assert_eq!((migrated.from, migrated.to), (4, SCHEMA_VERSION));
    let copy = migrated.copy.expect("a file with data is copied first");
    let store = Store::open(&StoreUrl::sqlite(&path)).await.expect("opens");
    assert_eq!(store.list_all::<Tenant>(&Filter::default()).await.expect("lists").len(), 1);
    assert!(store.ledger_check().await.expect("checks").closes());
    let mut copied = options(&sqlite_driver_url(&copy)).expect("a path").connect().await.expect("the copy opens");
    let version = migration::version(Engine::Sqlite, &mut copied).await.expect("reads");
    assert_eq!(version, 4, "the copy is what was there before");
}

//! What is on a database before a server: another server, which is refused by name, and the schema of a newer release.

use std::time::Duration;

use galerne_api::error::Code;
use galerne_model::ids::BackupId;
use galerne_server::{StoreError, restore};
use galerne_store::{SERVER_LEASE, Store, StoreUrl};
use jiff::{SignedDuration, Timestamp};
use serde_json::json;
use sqlx::Connection;

use crate::postgres::Server;
use crate::site::{self, Client};

#[tokio::test]
async fn a_database_of_a_newer_release_is_refused_as_newer_on_both_engines() {
    let server = Server::start().await;
    let folder = tempfile::tempdir().expect("a folder");
    let sqlite = format!("sqlite:{}", folder.path().join("data/galerne.db").display());
    for database in [sqlite, server.database("newer").await] {
        let flags = [("database", database.clone())];
        let data = folder.path().join("data");
        site::start(&data, &flags).await.expect("it starts").drain().await;
        let driver_url = database.replace("sqlite:", "sqlite://");
        let mut conn = sqlx::AnyConnection::connect(&driver_url).await.expect("the database answers");
        // A newer release may have replaced an older text as well: that must not hide what there is to do.
        let newer = "INSERT INTO schema_version VALUES (9000, 'future', 'x', 0); \
            UPDATE schema_version SET digest = 'y' WHERE version = 4";
        sqlx::raw_sql(newer).execute(&mut conn).await.expect("written");
        let refused = site::start(&data, &flags).await.err().expect("refused");
        assert_eq!(refused.code(), Code::DataDirNewer, "{database}");
        let source = std::error::Error::source(&refused).expect("the store says it").to_string();
        assert!(source.contains("schema version 9000"), "{source}");
        assert!(refused.hint().is_some_and(|hint| hint.contains("newer version")));
        sqlx::raw_sql("DELETE FROM schema_version WHERE version = 9000").execute(&mut conn).await.expect("written");
        let damaged = site::start(&data, &flags).await.err().expect("refused");
        let source = std::error::Error::source(&damaged).expect("the store says it").to_string();
        assert!(source.contains("schema change 4 was applied with another text"), "{source}");
        conn.close().await.expect("closed");
    }
}

#[tokio::test]
async fn one_server_serves_a_postgresql_database() {
    let server = Server::start().await;
    let database = server.database("shared").await;
    let url: StoreUrl = database.parse().expect("a store");
    let (first, second) = (tempfile::tempdir().expect("a folder"), tempfile::tempdir().expect("a folder"));
    let flags = [("database", database.clone())];
    let running = site::start(first.path(), &flags).await.expect("it starts");

    let refused = site::start(second.path(), &flags).await.err().expect("refused");
    assert_eq!(refused.code(), Code::DatabaseInUse);
    let source = std::error::Error::source(&refused).expect("the store says it").to_string();
    let names_it = source.contains("host `test-host`") && source.contains(&first.path().display().to_string());
    assert!(names_it && source.contains(" since 2"), "{source}");
    assert!(refused.hint().is_some_and(|hint| hint.contains("--database")));

    // A restore would take the place of a server: it is refused in the same words.
    let store = Store::open(&url).await.expect("opens beside");
    let backup = second.path().join("backup");
    let id = BackupId::from_uuid(uuid::Uuid::now_v7());
    store.backup(&backup, id, Timestamp::now()).await.expect("backs up");
    let refused = restore(&backup, &url).await.err();
    assert!(matches!(&refused, Some(StoreError::Served { holder, .. }) if holder.contains("test-host")), "{refused:?}");

    // The first one did not notice anything.
    let http = reqwest::Client::new();
    let operator = Client { http, url: running.url.clone(), key: running.first_key.clone() };
    operator.made("/api/v1/projects", &json!({"name": "kept", "spec": {}})).await;
    running.drain().await;
    let running = site::start(second.path(), &flags).await.expect("the first one has gone");
    running.drain().await;

    // A server that was killed: its lease stands, and nobody renews it.
    let lease = store.lease_acquire(SERVER_LEASE, "killed", SignedDuration::from_secs(3), Timestamp::now()).await;
    lease.expect("asks").expect("it is free");
    let asked = std::time::Instant::now();
    let mut running = site::start(second.path(), &flags).await.expect("nobody renews it");
    assert!(asked.elapsed() > Duration::from_secs(2), "not before the lease has ended");

    // Somebody takes the database over from a server that lives: it stops, and says who.
    let mut conn = sqlx::AnyConnection::connect(&database).await.expect("the database answers");
    let theft = "UPDATE lease SET holder = 'thief', epoch = epoch + 1, expires_at = expires_at + 60000000 \
        WHERE name = 'server'";
    sqlx::raw_sql(theft).execute(&mut conn).await.expect("stolen");
    let ended = tokio::time::timeout(Duration::from_secs(20), running.failed()).await.expect("it notices");
    assert_eq!(ended.code(), Code::DatabaseInUse);
    running.drain().await;
    let left = store.lease(SERVER_LEASE, Timestamp::now()).await.expect("reads").expect("the thief's");
    assert_eq!(left.holder, "thief", "a fenced server gives back nothing that is not its own");
    store.close().await;
}

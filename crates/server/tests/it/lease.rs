//! What is on a database before a server: another server, which is refused by name, and the schema of a newer release.

use std::time::Duration;

use galerne_api::error::Code;
use galerne_model::ids::BackupId;
use galerne_server::{StoreError, restore};
use galerne_store::{SERVER_LEASE, Store, StoreUrl};
use jiff::{SignedDuration, Timestamp};
use serde_json::json;
use sqlx::Connection;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

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

#[tokio::test]
async fn a_lease_that_nobody_can_hold_keeps_no_server_from_its_own_directory() {
    let folder = tempfile::tempdir().expect("a folder");
    site::start(folder.path(), &[]).await.expect("it starts").drain().await;
    // Killed under another host name, by a clock that was an hour ahead.
    let store = Store::open(&StoreUrl::sqlite(folder.path().join("galerne.db"))).await.expect("opens beside");
    let lease = store.lease_acquire(SERVER_LEASE, "before", SignedDuration::from_hours(1), Timestamp::now()).await;
    lease.expect("asks").expect("it is free");
    store.close().await;
    site::start(folder.path(), &[]).await.expect("the directory's lock says that nobody lives").drain().await;
}

#[tokio::test]
async fn directories_that_share_a_database_by_a_link_are_not_two_servers() {
    let (first, second) = (tempfile::tempdir().expect("a folder"), tempfile::tempdir().expect("a folder"));
    let shared = tempfile::tempdir().expect("a folder").keep().join("shared.db");
    drop(Store::open(&StoreUrl::sqlite(&shared)).await.expect("a new store"));
    for folder in [&first, &second] {
        std::os::unix::fs::symlink(&shared, folder.path().join("galerne.db")).expect("linked");
    }
    let running = site::start(first.path(), &[]).await.expect("it starts");
    let refused = site::start(second.path(), &[]).await.err().expect("refused");
    assert_eq!(refused.code(), Code::DatabaseInUse);
    running.drain().await;
    std::fs::remove_dir_all(shared.parent().expect("a folder")).expect("removed");
}

#[tokio::test(flavor = "multi_thread")]
async fn questions_take_one_connection_each_however_many_come_at_once() {
    const AT_ONCE: usize = 40;
    let server = Server::start().await;
    let database = server.database("questions").await;
    let folders = [tempfile::tempdir().expect("a folder"), tempfile::tempdir().expect("a folder")];
    for (folder, flags) in folders.iter().zip([vec![], vec![("database", database)]]) {
        let running = site::start(folder.path(), &flags).await.expect("it starts");
        let operator =
            Client { http: reqwest::Client::new(), url: running.url.clone(), key: running.first_key.clone() };
        let whose = operator.got("/api/v1/whoami").await["tenant"]["id"].clone();
        let spec = json!({"subject": {"kind": "tenant", "tenant_id": whose}, "limit_micros": 3, "period": "total"});
        operator.made("/api/v1/budgets", &json!({"name": "cap", "spec": spec})).await;
        let asked = std::time::Instant::now();
        let questions = (0..AT_ONCE).map(|n| {
            let operator = &operator;
            async move {
                let request = format!("request/request_{}", uuid::Uuid::now_v7().simple());
                let (what, status) = if n % 2 == 0 { (request.as_str(), 404) } else { ("budget/cap", 200) };
                let reply = operator.get(&format!("/api/v1/why/{what}")).await;
                assert_eq!(reply.status, status, "{}", reply.text);
            }
        });
        futures_util::future::join_all(questions).await;
        assert!(asked.elapsed() < Duration::from_secs(20), "they waited for each other: {:?}", asked.elapsed());
        running.drain().await;
    }
}

/// Stands before a database; once it is cancelled nothing is answered, and nothing is refused.
async fn between(socket: String) -> (u16, CancellationToken) {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let port = listener.local_addr().expect("bound").port();
    let away = CancellationToken::new();
    let silent = away.clone();
    TaskTracker::new().spawn(async move {
        let tasks = TaskTracker::new();
        loop {
            let (mut near, _) = listener.accept().await.expect("accepts");
            let (socket, silent) = (socket.clone(), silent.clone());
            tasks.spawn(async move {
                let mut far = tokio::net::UnixStream::connect(socket).await.expect("the database listens");
                tokio::select! {
                    biased;
                    () = silent.cancelled() => std::future::pending().await,
                    copied = tokio::io::copy_bidirectional(&mut near, &mut far) => drop(copied),
                }
            });
        }
    });
    (port, away)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_ends_although_the_database_is_away() {
    let server = Server::start().await;
    let folder = tempfile::tempdir().expect("a folder");
    let database = server.database("away").await;
    let socket = format!("{}/.s.PGSQL.5432", database.split_once("host=").expect("a socket").1);
    let (port, away) = between(socket).await;
    let flags = [("database", format!("postgres://postgres@127.0.0.1:{port}/away?sslmode=disable"))];
    let running = site::start(folder.path(), &flags).await.expect("it starts");
    let stranger = Client { http: reqwest::Client::new(), url: running.url.clone(), key: None };
    assert_eq!(stranger.get("/v1/models").await.status, 401);
    away.cancel();
    let asked = std::time::Instant::now();
    running.drain().await;
    assert!(asked.elapsed() < Duration::from_secs(50), "{:?}", asked.elapsed());
}

//! A fresh store for one case.

use std::path::PathBuf;

use galerne_store::{Store, StoreUrl};
use sqlx::{AnyConnection, AssertSqlSafe, Connection};
use tempfile::TempDir;

use crate::postgres::Server;

pub(crate) struct Bed {
    pub(crate) store: Store,
    pub(crate) url: StoreUrl,
    folder: TempDir,
}

impl Bed {
    pub(crate) async fn sqlite() -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let url = StoreUrl::sqlite(folder.path().join("galerne.db"));
        let store = Store::open(&url).await.expect("a new store");
        Self { store, url, folder }
    }

    pub(crate) async fn postgres(server: &Server, name: &str) -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let name: String = name.chars().take(50).collect();
        let url = StoreUrl::Postgres(server.database(&name).await);
        let store = Store::open(&url).await.expect("a new store");
        Self { store, url, folder }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// URL of an empty database of the same engine.
    pub(crate) async fn second(&self) -> StoreUrl {
        let StoreUrl::Postgres(url) = &self.url else { return StoreUrl::sqlite(self.path("second.db")) };
        let mut conn = self.connection().await;
        let (before, after) = url.split_once('?').expect("the socket is in the query");
        let (server, name) = before.rsplit_once('/').expect("a database is named");
        let create = format!("CREATE DATABASE {name}_2");
        sqlx::raw_sql(AssertSqlSafe(create)).execute(&mut conn).await.expect("a new database");
        conn.close().await.expect("closed");
        StoreUrl::Postgres(format!("{server}/{name}_2?{after}"))
    }

    /// A connection that goes past the store, to break things.
    pub(crate) async fn connection(&self) -> AnyConnection {
        connection(&self.url).await
    }

    /// Breaks something; says how many rows.
    pub(crate) async fn damage(&self, sql: &str) -> u64 {
        let mut conn = self.connection().await;
        let done = sqlx::raw_sql(AssertSqlSafe(sql)).execute(&mut conn).await.expect("the damage is done");
        conn.close().await.expect("closed");
        done.rows_affected()
    }
}

pub(crate) async fn connection(url: &StoreUrl) -> AnyConnection {
    sqlx::any::install_default_drivers();
    let url = match url {
        StoreUrl::Sqlite(path) => format!("sqlite://{}?mode=rwc", path.display()),
        StoreUrl::Postgres(url) => url.clone(),
    };
    AnyConnection::connect(&url).await.expect("the database answers")
}

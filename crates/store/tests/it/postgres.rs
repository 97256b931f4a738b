//! A PostgreSQL server for one test process, from the system's programs.
//!
//! It listens on a socket in its own folder only, and syncs its writes, so a kill means what it means in earnest.

use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use sqlx::{AnyConnection, AssertSqlSafe, Connection};
use tempfile::TempDir;

/// Longest start of a server on a busy machine.
const START_LIMIT: Duration = Duration::from_secs(60);

pub(crate) struct Server {
    programs: PathBuf,
    folder: TempDir,
    account: Option<(u32, u32)>,
    process: Child,
}

impl Server {
    pub(crate) async fn start() -> Self {
        sqlx::any::install_default_drivers();
        let programs = programs();
        let folder = tempfile::Builder::new().prefix("gpg").tempdir().expect("a temporary folder");
        let account = account(folder.path());
        let mut initdb = command(&programs.join("initdb"), account, folder.path());
        initdb.args(["--auth=trust", "--username=postgres", "--encoding=UTF8", "--locale=C", "--pgdata"]);
        let made = initdb.arg(folder.path().join("data")).stdout(Stdio::null()).output().expect("initdb runs");
        assert!(made.status.success(), "initdb failed: {}", String::from_utf8_lossy(&made.stderr));
        let process = launch(&programs, folder.path(), account);
        let server = Self { programs, folder, account, process };
        server.wait_until_ready().await;
        server
    }

    /// The URL of a database on this server.
    pub(crate) fn url(&self, database: &str) -> String {
        format!("postgres://postgres@localhost/{database}?host={}", self.folder.path().display())
    }

    /// Makes an empty database and returns its URL.
    pub(crate) async fn database(&self, name: &str) -> String {
        // PostgreSQL cuts names at 63 bytes; cases differ well before.
        let name: String = name.chars().take(60).collect();
        let mut conn = AnyConnection::connect(&self.url("postgres")).await.expect("the server answers");
        let create = format!("CREATE DATABASE {name}");
        sqlx::raw_sql(AssertSqlSafe(create)).execute(&mut conn).await.expect("a new database");
        conn.close().await.expect("closed");
        self.url(&name)
    }

    /// Ends the server at once, as a power cut would, and starts it again.
    pub(crate) async fn crash_and_restart(&mut self) {
        signal(&self.process, Signal::QUIT);
        self.process.wait().expect("the server ends");
        self.process = launch(&self.programs, self.folder.path(), self.account);
        self.wait_until_ready().await;
    }

    async fn wait_until_ready(&self) {
        let start = Instant::now();
        loop {
            match AnyConnection::connect(&self.url("postgres")).await {
                Ok(conn) => {
                    conn.close().await.expect("closed");
                    return;
                }
                Err(error) if start.elapsed() > START_LIMIT => panic!("PostgreSQL does not start: {error}"),
                Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
            }
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        signal(&self.process, Signal::QUIT);
        self.process.wait().expect("the server ends");
    }
}

fn signal(process: &Child, signal: Signal) {
    let id = i32::try_from(process.id()).expect("process ids fit");
    let id = Pid::from_raw(id).expect("a process id is not 0");
    kill_process(id, signal).expect("the server is our child");
}

fn launch(programs: &Path, folder: &Path, account: Option<(u32, u32)>) -> Child {
    let log = std::fs::File::create(folder.join("log")).expect("a log file");
    let mut server = command(&programs.join("postgres"), account, folder);
    server.arg("-D").arg(folder.join("data")).arg("-k").arg(folder);
    server.args(["-c", "listen_addresses=", "-c", "fsync=on", "-c", "shared_buffers=32MB", "-c", "max_connections=60"]);
    server.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log).spawn().expect("postgres runs")
}

/// PostgreSQL refuses to run as root: then an account without rights runs it.
fn command(program: &Path, account: Option<(u32, u32)>, folder: &Path) -> Command {
    let mut command = Command::new(program);
    command.current_dir(folder);
    if let Some((user, group)) = account {
        command.uid(user).gid(group);
    }
    command
}

fn account(folder: &Path) -> Option<(u32, u32)> {
    if !rustix::process::geteuid().is_root() {
        return None;
    }
    let accounts = std::fs::read_to_string("/etc/passwd").expect("a list of accounts");
    let ids = |name: &str| {
        let line = accounts.lines().find(|line| line.split(':').next() == Some(name))?;
        let mut fields = line.split(':').skip(2);
        Some((fields.next()?.parse().ok()?, fields.next()?.parse().ok()?))
    };
    let account: (u32, u32) = ids("postgres").or_else(|| ids("nobody")).expect("an account other than root");
    std::os::unix::fs::chown(folder, Some(account.0), Some(account.1)).expect("root gives folders away");
    Some(account)
}

/// The folder with `initdb` and `postgres`: what `pg_config` says, else the newest where distributions put them.
fn programs() -> PathBuf {
    let mut folders: Vec<PathBuf> = Vec::new();
    if let Ok(output) = Command::new("pg_config").arg("--bindir").output() {
        folders.push(PathBuf::from(String::from_utf8_lossy(&output.stdout).trim()));
    }
    let mut versions: Vec<PathBuf> =
        std::fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten().map(|entry| entry.path()).collect();
    versions.sort();
    folders.extend(versions.iter().rev().map(|version| version.join("bin")));
    folders.extend(["/usr/local/bin", "/usr/bin"].map(PathBuf::from));
    let complete = |folder: &&PathBuf| folder.join("initdb").is_file() && folder.join("postgres").is_file();
    let found = folders.iter().find(complete).cloned();
    found.expect("PostgreSQL's programs are missing: install the package `postgresql` (`make test` does)")
}

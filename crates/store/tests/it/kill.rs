//! Kill -9 in the middle of writing: nothing acknowledged is lost, nothing is half there.
//!
//! A child writes and acknowledges; it is killed after a time drawn from a seed. Then all of it is read back.

use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use galerne_model::identity::Project;
use galerne_store::{EventFilter, Filter, Store, StoreUrl};

use crate::bed::Bed;
use crate::postgres::Server;

const KILLS: u64 = 60;
/// Of the kills on PostgreSQL, every this many ends the server instead of the writer.
const SERVER_EVERY: u64 = 3;

/// Fewer writes than this would mean that the kills fell on starting programs.
const ACKNOWLEDGED_MIN: usize = 100;

/// What a writer said is durable.
#[derive(Debug, Default)]
struct Acknowledged {
    project: i64,
    settled: i64,
    total: usize,
}

#[tokio::test]
async fn sixty_killed_writers_lose_nothing_on_sqlite() {
    let bed = Bed::sqlite().await;
    bed.store.close().await;
    let mut acknowledged = Acknowledged::default();
    for kill in 0..KILLS {
        let mut child = start(&bed.url, acknowledged.project + 1);
        let reader = first_words(&mut child, &mut acknowledged);
        std::thread::sleep(pause(kill));
        end(child, reader, &mut acknowledged);
        verify(&bed.url, &mut acknowledged).await;
    }
    assert!(acknowledged.total > ACKNOWLEDGED_MIN, "{acknowledged:?}: the kills came before anything was written");
    println!("{KILLS} kills, {} writes acknowledged, 0 lost", acknowledged.total);
}

#[tokio::test]
async fn sixty_killed_writers_and_servers_lose_nothing_on_postgres() {
    let mut server = Server::start().await;
    let url = StoreUrl::Postgres(server.database("killed").await);
    Store::open(&url).await.expect("a new store").close().await;
    let mut acknowledged = Acknowledged::default();
    for kill in 0..KILLS {
        let mut child = start(&url, acknowledged.project + 1);
        let reader = first_words(&mut child, &mut acknowledged);
        std::thread::sleep(pause(kill));
        if kill % SERVER_EVERY == 0 {
            server.crash_and_restart().await;
        }
        end(child, reader, &mut acknowledged);
        verify(&url, &mut acknowledged).await;
    }
    assert!(acknowledged.total > ACKNOWLEDGED_MIN, "{acknowledged:?}: the kills came before anything was written");
    println!("{KILLS} kills, {} writes acknowledged, 0 lost", acknowledged.total);
}

/// The writer, an example of this crate that is built with its tests.
pub(crate) fn writer() -> PathBuf {
    let tests = std::env::current_exe().expect("a test has a file");
    let folder = tests.parent().and_then(|deps| deps.parent()).expect("tests lie in target/PROFILE/deps");
    let path = folder.join("examples").join("store_writer");
    assert!(path.is_file(), "build the writer first: cargo build -p galerne-store --examples");
    path
}

fn start(url: &StoreUrl, from: i64) -> Child {
    let url = match url {
        StoreUrl::Sqlite(path) => format!("sqlite:{}", path.display()),
        StoreUrl::Postgres(url) => url.clone(),
    };
    let mut command = Command::new(writer());
    command.arg("write").arg(url).arg(from.to_string());
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().expect("the writer starts")
}

type Words = std::io::Lines<BufReader<std::process::ChildStdout>>;

/// Waits until the writer writes, so that no kill falls into its start only.
fn first_words(child: &mut Child, acknowledged: &mut Acknowledged) -> Words {
    let mut words = BufReader::new(child.stdout.take().expect("its output is a pipe")).lines();
    let first = words.next().expect("the writer says something").expect("text");
    acknowledged.hear(&first);
    words
}

/// Between 0 and 60 milliseconds, the same in every run.
fn pause(kill: u64) -> Duration {
    Duration::from_micros((kill + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15) % 60_000)
}

fn end(mut child: Child, words: Words, acknowledged: &mut Acknowledged) {
    // `kill` is SIGKILL; a writer whose server died has ended by itself.
    child.kill().expect("the writer is our child");
    child.wait().expect("the writer ends");
    for word in words {
        acknowledged.hear(&word.expect("text"));
    }
}

impl Acknowledged {
    fn hear(&mut self, line: &str) {
        let number = |rest: &str| rest.parse().expect("a number");
        match line.split_once(' ') {
            Some(("project", n)) => self.project = number(n),
            Some(("settled", n)) => self.settled = number(n),
            _ => panic!("the writer said `{line}`"),
        }
        self.total += 1;
    }
}

async fn verify(url: &StoreUrl, acknowledged: &mut Acknowledged) {
    let store = Store::open(url).await.expect("opens after a kill");
    let mut reader = store.reader().await.expect("reads");
    let projects = reader.list_all::<Project>(&Filter::default()).await.expect("lists");
    let count = i64::try_from(projects.len()).expect("few");
    // One more than acknowledged may be there: committed, but killed before it could say so.
    assert!(count == acknowledged.project || count == acknowledged.project + 1, "{count} projects, {acknowledged:?}");
    let newest = reader.events(&EventFilter::default(), 500).await.expect("lists");
    let last = newest.first().map_or(0, |event| event.sequence);
    assert_eq!(last, count, "a project without its event, or an event without its project");
    assert!(newest.iter().rev().map(|event| event.sequence).eq((1.max(last - 499))..=last), "a gap");
    drop(reader);
    let through = store.settled_through(1).await.expect("reads");
    assert!(through == acknowledged.settled || through == acknowledged.settled + 7, "{through}, {acknowledged:?}");
    let report = store.ledger_check().await.expect("checks");
    assert!(report.closes(), "{:#?}", report.findings);
    assert_eq!(report.records, through);
    store.close().await;
    acknowledged.project = count;
    acknowledged.settled = through;
}

//! kill -9: a child process serves requests from a spool and is killed again and again; the ledger counts each request once.

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use galerne_gateway::SpoolLimits;
use galerne_model::ledger::Outcome;
use serde_json::json;
use tokio_util::task::TaskTracker;

use crate::engine::Engine;
use crate::site::{Ledger, Site, chat_body, receive, snapshot};

/// Rounds of the campaign.
const KILLS: usize = 12;
/// Small segments, so that rotation and deletion happen between kills.
const LIMITS: SpoolLimits = SpoolLimits { max_bytes: 8 * 1024 * 1024, segment_bytes: 64 * 1024 };
const CHILD_DIR: &str = "GALERNE_TEST_SPOOL";

/// Not a test of its own: what the killed process runs. Writes every answered request's id to `answered`, once answered.
#[test]
fn the_process_that_is_killed() {
    #[expect(clippy::disallowed_methods, reason = "the parent test hands the directory over this way")]
    let Some(dir) = std::env::var_os(CHILD_DIR) else { return };
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("a runtime");
    runtime.block_on(serve_until_killed(Path::new(&dir)));
}

async fn serve_until_killed(dir: &Path) {
    use std::io::Write as _;
    let ledger = Arc::new(Mutex::new(read_ledger(dir)));
    let engine = Engine::start(&TaskTracker::new()).await;
    let site = Site::start_in(&dir.join("spool"), snapshot(&[&engine.url]), LIMITS, Arc::clone(&ledger)).await;
    let answered = Arc::new(Mutex::new(append(&dir.join("answered"))));
    for client in 0..6 {
        let answered = Arc::clone(&answered);
        let requests: Vec<_> = (0..2000)
            .map(|n| {
                let body = chat_body(json!({"stream": (n + client) % 2 == 0, "max_tokens": 3}));
                site.post("/v1/chat/completions", &body)
            })
            .collect();
        site.tasks.spawn(async move {
            for request in requests {
                let reply = receive(request).await;
                if reply.status == 200 {
                    let line = format!("{}\n", reply.header("x-request-id"));
                    answered.lock().expect("whole").write_all(line.as_bytes()).expect("written");
                }
            }
        });
    }
    std::future::pending::<()>().await;
}

fn append(path: &Path) -> std::fs::File {
    std::fs::OpenOptions::new().append(true).create(true).open(path).expect("opens")
}

/// What the ledger of the last process had on its disk; a line cut by the kill is not there.
fn read_ledger(dir: &Path) -> Ledger {
    let path = dir.join("ledger");
    let text = std::fs::read_to_string(&path).unwrap_or_default();
    let whole = text.rfind('\n').map_or(0, |end| end + 1);
    if whole < text.len() {
        std::fs::write(&path, &text[..whole]).expect("written");
    }
    let mut ledger = Ledger::default();
    let records: Vec<_> = text[..whole].lines().map(|line| serde_json::from_str(line).expect("a record")).collect();
    ledger.settle(&records);
    ledger.journal = Some(append(&path));
    ledger
}

fn start_child(dir: &Path) -> Child {
    Command::new(std::env::current_exe().expect("this test"))
        .args(["crash::the_process_that_is_killed", "--exact", "--nocapture"])
        .env(CHILD_DIR, dir)
        .stdout(Stdio::null())
        .spawn()
        .expect("starts")
}

fn count_lines(path: &Path) -> usize {
    std::fs::read_to_string(path).map_or(0, |text| text.lines().count())
}

#[tokio::test]
async fn requests_are_counted_exactly_once_across_kill_9() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let answered = dir.path().join("answered");
    for round in 0..KILLS {
        let before = count_lines(&answered);
        let mut child = start_child(dir.path());
        // Kill in the middle of work, each round at another point of it.
        let wanted = before + 15 + round * 7;
        for _ in 0..3000 {
            if count_lines(&answered) >= wanted {
                break;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        assert!(count_lines(&answered) >= wanted, "round {round}: the process did not get to work");
        child.kill().expect("SIGKILL");
        child.wait().expect("ended");
    }
    let ledger = Arc::new(Mutex::new(read_ledger(dir.path())));
    let site = Site::start_in(&dir.path().join("spool"), snapshot(&[]), LIMITS, Arc::clone(&ledger)).await;
    site.gateway.drain(Duration::from_secs(10)).await;
    let ledger = ledger.lock().expect("whole");
    let text = std::fs::read_to_string(&answered).expect("readable");
    let whole = &text[..text.rfind('\n').map_or(0, |end| end + 1)];
    for line in whole.lines() {
        let found = ledger.records.values().filter(|record| record.request_id.to_string() == line);
        let outcomes: Vec<Outcome> = found.map(|record| record.outcome).collect();
        assert_eq!(outcomes, [Outcome::Completed], "request {line} was answered");
    }
    let interrupted = ledger.records.values().filter(|record| record.outcome == Outcome::Interrupted).count();
    assert!(interrupted > 0, "some of {} requests were cut by {KILLS} kills", ledger.records.len());
}

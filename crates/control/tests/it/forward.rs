//! Events on their way to a receiver that is a process of its own: away, moody, killed; and a sender that is killed.

use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use galerne_control::clock::Clock;
use galerne_control::forward::{self, ForwardingSeen};
use galerne_drivers::webhook::{Receiver, Webhook};
use galerne_model::event::{Actor, Decision, Event};
use galerne_model::ids::EventId;
use galerne_store::{Store, StoreUrl};
use jiff::Timestamp;
use tokio::runtime::{Builder, Runtime};
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use uuid::Uuid;

const SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
/// Longest wait for something that must come, on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

struct Bed {
    folder: tempfile::TempDir,
    port: u16,
}

/// A receiver that runs; killed when dropped.
struct Siem(Child);

impl Drop for Siem {
    fn drop(&mut self) {
        self.0.kill().expect("it is our child");
        self.0.wait().expect("it ends");
    }
}

impl Bed {
    fn new() -> Self {
        let free = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
        let port = free.local_addr().expect("bound").port();
        Self { folder: tempfile::tempdir().expect("a temporary folder"), port }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Starts the receiver and waits until it listens.
    async fn siem(&self) -> Siem {
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/it/receiver.py");
        let process = Command::new("python3")
            .arg(script)
            .args([self.port.to_string(), SECRET.to_owned()])
            .args([self.path("kept"), self.path("mood")])
            .stdin(Stdio::null())
            .spawn()
            .expect("python3 runs");
        let siem = Siem(process);
        let begun = Instant::now();
        while tokio::net::TcpStream::connect(("127.0.0.1", self.port)).await.is_err() {
            assert!(begun.elapsed() < PATIENCE, "the receiver does not listen");
            sleep(Duration::from_millis(20)).await;
        }
        siem
    }

    fn mood(&self, status: Option<u16>) {
        match status {
            Some(status) => std::fs::write(self.path("mood"), status.to_string()).expect("written"),
            None => std::fs::remove_file(self.path("mood")).expect("it was moody"),
        }
    }

    fn slow(&self, seconds: u32) {
        std::fs::write(self.path("mood"), format!("slow {seconds}")).expect("written");
    }

    async fn store(&self) -> Store {
        Store::open(&StoreUrl::sqlite(self.path("x.db"))).await.expect("opens")
    }

    fn sender(&self, store: &Store, tasks: &TaskTracker, cancel: &CancellationToken) -> ForwardingSeen {
        let url = format!("http://127.0.0.1:{}/events?token=t", self.port);
        let webhook = Webhook::new(Receiver::new(&url, SECRET).expect("sound")).expect("a client");
        let clock = Clock::system();
        forward::start(store.clone(), clock, webhook, "test".into(), tasks, cancel.clone())
    }

    /// Numbers of the events that the receiver took, in the order in which it took them.
    fn kept(&self) -> Vec<i64> {
        let text = std::fs::read_to_string(self.path("kept")).unwrap_or_default();
        text.lines().filter_map(|line| line.split_once(' ')?.0.parse().ok()).collect()
    }

    /// Waits until event `last` was taken; none is missing and none was overtaken.
    async fn took(&self, first: i64, last: i64) {
        let begun = Instant::now();
        while self.kept().last() != Some(&last) {
            assert!(begun.elapsed() < PATIENCE, "event {last} does not come: {:?}", self.kept().last());
            sleep(Duration::from_millis(20)).await;
        }
        let mut seen = Vec::new();
        for sequence in self.kept() {
            if !seen.contains(&sequence) {
                seen.push(sequence);
            }
        }
        assert_eq!(seen, (first..=last).collect::<Vec<_>>());
    }
}

async fn write(store: &Store, count: usize) -> i64 {
    let mut last = 0;
    for _ in 0..count {
        let mut tx = store.begin().await.expect("begins");
        for _ in 0..2 {
            tx.record(Event {
                id: EventId::from_uuid(Uuid::now_v7()),
                sequence: 0,
                at: Timestamp::now(),
                actor: Actor::component("test"),
                action: "test.happen".into(),
                tenant_id: None,
                project_id: None,
                resource: None,
                decision: Decision::Allowed,
                before_digest: None,
                after_digest: None,
                text: "é \"quoted\"\n".into(),
            });
        }
        last = tx.commit().await.expect("commits");
    }
    last
}

#[tokio::test(flavor = "multi_thread")]
async fn events_reach_the_receiver_in_order_through_its_outages() {
    let bed = Bed::new();
    let store = bed.store().await;
    assert_eq!(write(&store, 2).await, 4, "before anybody asked for events");
    store.forward_events().await.expect("from now on");
    let (tasks, cancel) = (TaskTracker::new(), CancellationToken::new());
    let seen = bed.sender(&store, &tasks, &cancel);
    let siem = bed.siem().await;
    write(&store, 20).await;
    bed.took(5, 44).await;
    // It dies; events go on; it comes back.
    drop(siem);
    write(&store, 40).await;
    let begun = Instant::now();
    while seen.now().trouble.is_none() || seen.now().backlog < 80 {
        assert!(begun.elapsed() < PATIENCE, "trouble is seen: {:?}", seen.now());
        sleep(Duration::from_millis(20)).await;
    }
    let (_, why) = seen.now().trouble.expect("seen above");
    assert!(why.contains("cannot be reached") && !why.contains("token"), "{why}");
    let siem = bed.siem().await;
    bed.took(5, 124).await;
    // It answers, but takes nothing.
    for status in [500, 503] {
        bed.mood(Some(status));
        let failures = seen.now().failures;
        let last = write(&store, 5).await;
        let begun = Instant::now();
        while seen.now().failures == failures {
            assert!(begun.elapsed() < PATIENCE, "it is asked");
            sleep(Duration::from_millis(20)).await;
        }
        assert!(seen.now().trouble.is_some_and(|(_, why)| why.contains(&format!("HTTP {status}"))));
        bed.mood(None);
        bed.took(5, last).await;
    }
    let begun = Instant::now();
    while seen.now().backlog > 0 || seen.now().trouble.is_some() {
        assert!(begun.elapsed() < PATIENCE, "{:?}", seen.now());
        sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(bed.kept().len(), 140, "without a kill nothing comes twice");
    assert_eq!(seen.now().delivered, 140);
    // Idle, it writes nothing but the renewal of its lease.
    let mut changed = store.changed();
    changed.mark_unchanged();
    let before = *changed.borrow();
    sleep(Duration::from_secs(1)).await;
    assert!(*changed.borrow() - before <= 2, "{} commits of an idle loop", *changed.borrow() - before);
    cancel.cancel();
    tasks.close();
    tasks.wait().await;
    drop(siem);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_that_is_taken_later_than_a_lease_lasts_is_sent_once() {
    let bed = Bed::new();
    let store = bed.store().await;
    store.forward_events().await.expect("from now on");
    let siem = bed.siem().await;
    bed.slow(7);
    let last = write(&store, 1).await;
    let (tasks, cancel) = (TaskTracker::new(), CancellationToken::new());
    let seen = bed.sender(&store, &tasks, &cancel);
    let begun = Instant::now();
    while store.forward_backlog().await.expect("reads") > 0 {
        assert!(begun.elapsed() < PATIENCE, "it is never marked: {:?}, taken {:?}", seen.now(), bed.kept());
        sleep(Duration::from_millis(50)).await;
    }
    assert_eq!(bed.kept(), (1..=last).collect::<Vec<_>>(), "each came once");
    assert!(begun.elapsed() > Duration::from_secs(12), "the receiver was slow");
    assert_eq!((seen.now().delivered, seen.now().failures), (2, 0));
    let lease = store.lease("forward", Timestamp::now()).await.expect("reads").expect("it is held");
    assert_eq!(lease.epoch, 1, "it never changed hands");
    cancel.cancel();
    tasks.close();
    tasks.wait().await;
    drop(siem);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_taken_while_the_lease_was_lost_is_marked_when_it_is_held_again() {
    let bed = Bed::new();
    let store = bed.store().await;
    store.forward_events().await.expect("from now on");
    let siem = bed.siem().await;
    bed.slow(2);
    let last = write(&store, 1).await;
    let (tasks, cancel) = (TaskTracker::new(), CancellationToken::new());
    let seen = bed.sender(&store, &tasks, &cancel);
    let begun = Instant::now();
    while store.lease("forward", Timestamp::now()).await.expect("reads").is_none() {
        assert!(begun.elapsed() < PATIENCE, "it starts");
        sleep(Duration::from_millis(10)).await;
    }
    // As a process that was stopped for longer than its lease: it ended, and nobody else came.
    store.leases_end().await.expect("ends");
    let begun = Instant::now();
    while store.forward_backlog().await.expect("reads") > 0 {
        assert!(begun.elapsed() < PATIENCE, "it is never marked: {:?}, taken {:?}", seen.now(), bed.kept());
        sleep(Duration::from_millis(50)).await;
    }
    assert_eq!(bed.kept(), (1..=last).collect::<Vec<_>>(), "each came once");
    cancel.cancel();
    tasks.close();
    tasks.wait().await;
    drop(siem);
}

#[tokio::test(flavor = "multi_thread")]
async fn events_that_were_not_queued_come_from_the_log() {
    let bed = Bed::new();
    let store = bed.store().await;
    store.forward_events().await.expect("from now on");
    write(&store, 3).await;
    // A start without the option, a migration: nothing is queued, and yet nothing may be missing.
    let plain = bed.store().await;
    write(&plain, 60).await;
    let last = write(&store, 3).await;
    let (tasks, cancel) = (TaskTracker::new(), CancellationToken::new());
    let siem = bed.siem().await;
    bed.sender(&store, &tasks, &cancel);
    bed.took(1, last).await;
    assert_eq!(last, 132);
    // Marked after the receiver's answer: an end before that would leave the last ones to be sent again.
    let begun = Instant::now();
    while store.forward_backlog().await.expect("reads") > 0 {
        assert!(begun.elapsed() < PATIENCE, "it is never marked: taken {:?}", bed.kept());
        sleep(Duration::from_millis(10)).await;
    }
    cancel.cancel();
    tasks.close();
    tasks.wait().await;
    drop(siem);
}

/// A runtime whose tasks all vanish between two of their steps, as with a killed process.
fn runtime() -> Runtime {
    Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("a runtime")
}

#[test]
fn nothing_is_lost_or_overtaken_when_the_sender_is_killed_again_and_again() {
    let bed = Bed::new();
    let outside = runtime();
    let siem = outside.block_on(bed.siem());
    let mut last = 0;
    for life in 0..12_u64 {
        let inside = runtime();
        last = inside.block_on(async {
            let store = bed.store().await;
            store.forward_events().await.expect("from now on");
            let seen = bed.sender(&store, &TaskTracker::new(), &CancellationToken::new());
            let last = write(&store, 15).await;
            // Each life ends elsewhere: while nothing, some, or nearly all was sent.
            let enough = life * 3;
            let begun = Instant::now();
            while seen.now().delivered < enough && begun.elapsed() < Duration::from_secs(8) {
                tokio::task::yield_now().await;
            }
            last
        });
        inside.shutdown_background();
    }
    outside.block_on(async {
        let store = bed.store().await;
        store.forward_events().await.expect("from now on");
        let (tasks, cancel) = (TaskTracker::new(), CancellationToken::new());
        bed.sender(&store, &tasks, &cancel);
        bed.took(1, last).await;
        assert_eq!(last, 360);
        cancel.cancel();
        tasks.close();
        tasks.wait().await;
    });
    drop(siem);
}

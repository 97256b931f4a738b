//! The lease of the database: one server at a time, the dead one's place is free, the fenced one admits nothing.

use std::time::Duration;

use galerne_control::clock::Clock;
use galerne_control::site_lease::SiteLease;
use galerne_store::{SERVER_LEASE, Store, StoreError, StoreUrl};
use jiff::{SignedDuration, Timestamp};
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;

async fn store(folder: &tempfile::TempDir) -> Store {
    Store::open(&StoreUrl::sqlite(folder.path().join("x.db"))).await.expect("opens")
}

#[tokio::test]
async fn a_second_server_is_refused_while_the_first_lives_and_let_in_when_it_has_ended() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let store = store(&folder).await;
    let clock = Clock::system();
    let first = SiteLease::take(&store, "first".into(), &clock).await.expect("it is free");
    let gate = first.gate();
    let stop = CancellationToken::new();
    let running = tokio_util::task::TaskTracker::new().spawn(first.run(stop.clone()));
    assert!(gate.is_open());
    let refused = SiteLease::take(&store, "second".into(), &clock).await.err();
    assert!(matches!(&refused, Some(StoreError::Served { holder, .. }) if holder == "first"), "{refused:?}");
    assert!(gate.is_open(), "the first one goes on");
    stop.cancel();
    assert_eq!(running.await.expect("no panic"), None);
    assert!(!gate.is_open());
    let asked = Instant::now();
    SiteLease::take(&store, "second".into(), &clock).await.expect("given back");
    assert!(asked.elapsed() < Duration::from_secs(2), "it need not wait");
}

#[tokio::test]
async fn the_lease_of_a_killed_server_ends_and_its_own_restart_need_not_wait() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let store = store(&folder).await;
    let clock = Clock::system();
    // It is dropped as a killed process leaves it: neither renewed nor given back.
    drop(SiteLease::take(&store, "killed".into(), &clock).await.expect("it is free"));
    let asked = Instant::now();
    drop(SiteLease::take(&store, "killed".into(), &clock).await.expect("its own"));
    assert!(asked.elapsed() < Duration::from_secs(1), "the same server takes its own place at once");
    let lease = SiteLease::take(&store, "next".into(), &clock).await.expect("nobody renews it");
    assert!(asked.elapsed() > Duration::from_secs(5), "not before the lease has ended");
    assert!(lease.gate().is_open());
}

#[tokio::test]
async fn a_server_whose_lease_another_took_admits_no_more_and_says_whose_it_is() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let store = store(&folder).await;
    let clock = Clock::system();
    let fenced = SiteLease::take(&store, "fenced".into(), &clock).await.expect("it is free");
    let gate = fenced.gate();
    // A clock that is ahead takes the lease for ended: so it is for a holder that was stopped and goes on.
    let ahead = Timestamp::now() + SignedDuration::from_secs(60);
    let thief = store.lease_acquire(SERVER_LEASE, "thief", SignedDuration::from_secs(90), ahead).await;
    thief.expect("asks").expect("its clock says so");
    let running = fenced.run(CancellationToken::new());
    let by = timeout(Duration::from_secs(20), running).await.expect("it notices").expect("somebody has it");
    assert_eq!(by.holder, "thief");
    assert!(!gate.is_open());
}

#[tokio::test]
async fn a_gate_closes_before_the_lease_ends_when_nobody_renews() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let store = store(&folder).await;
    let lease = SiteLease::take(&store, "hung".into(), &Clock::system()).await.expect("it is free");
    let gate = lease.gate();
    // The process hangs: no renewal runs, and yet nothing is admitted once another one may have the lease.
    let mut was_open = false;
    loop {
        let is_held = store.lease(SERVER_LEASE, Timestamp::now()).await.expect("reads").is_some();
        if !gate.is_open() {
            assert!(is_held, "the gate closes while the lease still stands");
            break;
        }
        was_open = true;
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert!(was_open);
}

#[tokio::test]
async fn a_gate_is_closed_after_a_sleep_that_the_steady_clock_did_not_see() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let store = store(&folder).await;
    let start = Timestamp::now();
    let clock = Clock::manual(start);
    let lease = SiteLease::take(&store, "asleep".into(), &clock).await.expect("it is free");
    let gate = lease.gate();
    assert!(gate.is_open());
    clock.set(start + SignedDuration::from_secs(5));
    assert!(gate.is_open(), "the lease stands");
    clock.set(start + SignedDuration::from_secs(6));
    assert!(!gate.is_open(), "another one may have it");
}

//! The endpoint loop with real processes.

use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use galerne_control::Activity;
use galerne_model::inference::{Abilities, Backend, Endpoint, EndpointState, Replica, ReplicaState};
use galerne_store::Filter;

use crate::site::{PATIENCE, Site, now};

fn kill(pid: &str) {
    let status = Command::new("kill").args(["-9", pid]).status().expect("kill exists");
    assert!(status.success());
}

async fn eventually(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let wait = async {
        while !holds().await {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    assert!(tokio::time::timeout(PATIENCE, wait).await.is_ok(), "never {what}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_endpoint_becomes_ready_and_a_killed_worker_comes_back_with_its_reason() {
    let site = Site::new().await;
    site.good_worker();
    let loops = site.start().await;
    let id = site.endpoint(site.backend(), |_| {}).await;
    let entry = loops.ready(id).await;
    assert_eq!((entry.replicas[0].url.as_str(), entry.context_tokens), (site.engine.url.as_str(), 1024));
    assert_eq!(entry.abilities, Abilities { fills_gaps: true, calls_functions: false });
    let first = site.living_worker().expect("a worker runs");
    kill(&first);
    let gone = loops.entry(id, "without replica", |entry| entry.replicas.is_empty()).await;
    assert!(gone.wakes, "one crash is no reason to refuse: requests wait for the next start");
    loops.ready(id).await;
    assert_ne!(site.living_worker().expect("a worker runs"), first);
    let told = site.events("replica.state").await;
    assert!(told.iter().any(|text| text.contains("signal 9")), "{told:?}");
    let replicas = site.store.list_all::<Replica>(&Filter::default()).await.expect("rows");
    assert_eq!((replicas.len(), replicas[0].status.restarts), (1, 1));
    loops.stop().await;
    assert_eq!(site.living_worker(), None, "workers end with the loops");
}

#[tokio::test(flavor = "multi_thread")]
async fn after_a_restart_no_stale_replica_is_published_and_the_same_row_comes_back() {
    let site = Site::new().await;
    site.good_worker();
    let loops = site.start().await;
    let id = site.endpoint(site.backend(), |_| {}).await;
    let before = loops.ready(id).await.replicas[0].id;
    loops.stop().await;
    let row = site.store.get::<Replica>(before).await.expect("the row stays");
    assert_eq!(row.status.state, ReplicaState::Ready, "nobody had time to say goodbye");

    let loops = site.start().await;
    let first = Arc::clone(&loops.snapshot.borrow().endpoints[&id]);
    assert!(first.wakes, "requests wait for it");
    assert!(first.replicas.is_empty() || site.living_worker().is_some(), "they are not sent to a dead port");
    assert_eq!(loops.ready(id).await.replicas[0].id, before);
    loops.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn it_sleeps_when_idle_and_wakes_for_a_waiting_request() {
    let site = Site::new().await;
    site.good_worker();
    let loops = site.start().await;
    let id = site.endpoint(site.backend(), |spec| (spec.replicas_min, spec.idle_seconds) = (0, 1)).await;
    let entry = loops.entry(id, "asleep", |entry| entry.not_ready_because.contains("scaled to zero")).await;
    assert!(entry.wakes && entry.replicas.is_empty());
    assert_eq!(site.living_worker(), None);
    loops.handle.wake(id);
    loops.ready(id).await;
    // While something is in flight, it stays however long that takes.
    loops.handle.set_activity(Arc::new(move || {
        vec![Activity { endpoint_id: id, in_flight: 1, last_request_at: now(), oldest_at: None }]
    }));
    let endpoint = site.store.get::<Endpoint>(id).await.expect("a row");
    assert_eq!(endpoint.status.replicas_wanted, 1);
    let ended_at = now();
    loops.handle.set_activity(Arc::new(move || {
        vec![Activity { endpoint_id: id, in_flight: 0, last_request_at: ended_at, oldest_at: None }]
    }));
    loops.entry(id, "asleep again", |entry| entry.replicas.is_empty()).await;
    eventually("ended", async || site.living_worker().is_none()).await;
    loops.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refusal_reaches_the_gateway_and_the_status() {
    let site = Site::new().await;
    let refusal = r#"{"ready":false,"code":"engine_memory","message":"it needs 90 GB and 1 GB is free","hint":"choose a smaller model"}"#;
    site.worker(&format!("echo '{refusal}'\nexit 3"));
    let loops = site.start().await;
    let id = site.endpoint(site.backend(), |_| {}).await;
    let entry = loops.entry(id, "refused", |entry| entry.not_ready_because.contains("90 GB")).await;
    assert!(!entry.wakes, "a request is told at once instead of waiting for what will not come");
    let endpoint = site.store.get::<Endpoint>(id).await.expect("a row");
    assert_eq!(endpoint.status.state, EndpointState::Degraded);
    let part = &endpoint.status.reason.because[0];
    assert_eq!((part.code.as_str(), part.next[0].text.as_str()), ("not_enough_memory", "choose a smaller model"));
    loops.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn readiness_is_the_last_probe() {
    let site = Site::new().await;
    site.good_worker();
    let loops = site.start().await;
    let id = site.endpoint(site.backend(), |_| {}).await;
    loops.ready(id).await;
    site.engine.is_healthy.store(false, Ordering::SeqCst);
    loops.entry(id, "unready", |entry| entry.replicas.is_empty()).await;
    assert!(site.living_worker().is_some(), "one failed probe is no reason to restart");
    site.engine.is_healthy.store(true, Ordering::SeqCst);
    loops.ready(id).await;
    loops.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deleted_endpoint_leaves_no_process_and_no_row() {
    let site = Site::new().await;
    site.good_worker();
    let loops = site.start().await;
    let id = site.endpoint(site.backend(), |_| {}).await;
    loops.ready(id).await;
    let mut tx = site.store.begin().await.expect("a transaction");
    tx.delete::<Endpoint>(id, None, now()).await.expect("it is there");
    tx.commit().await.expect("committed");
    eventually("gone", async || {
        let rows = site.store.list_all::<Replica>(&Filter::default()).await.expect("rows");
        rows.is_empty() && site.living_worker().is_none()
    })
    .await;
    assert_eq!(site.events("replica.remove").await.len(), 1);
    loops.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_external_server_is_probed_and_routed_to() {
    let site = Site::new().await;
    let loops = site.start().await;
    let external = |model: &str| Backend::External {
        urls: vec![site.engine.url.clone()],
        upstream_model: model.to_owned(),
        context_tokens: 4096,
        power: None,
        residency: None,
    };
    let id = site.endpoint(external("upstream"), |_| {}).await;
    let entry = loops.ready(id).await;
    assert_eq!((entry.upstream_model.as_str(), entry.context_tokens, entry.wakes), ("upstream", 4096, false));
    // A server that does not know the model is no replica of it.
    let endpoint = site.store.get::<Endpoint>(id).await.expect("a row");
    let mut spec = endpoint.spec.clone();
    spec.backend = external("elsewhere");
    let mut tx = site.store.begin().await.expect("a transaction");
    tx.update_spec::<Endpoint>(id, endpoint.generation, &spec, now()).await.expect("nobody else changes it");
    tx.commit().await.expect("committed");
    eventually("unknown there", async || {
        let status = site.store.get::<Endpoint>(id).await.expect("a row").status;
        status.reason.because.iter().any(|part| part.text.contains("does not know the model `elsewhere`"))
    })
    .await;
    loops.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_loop_that_was_fenced_off_ends_its_engines() {
    let site = Site::new().await;
    site.good_worker();
    let first = site.start().await;
    let id = site.endpoint(site.backend(), |_| {}).await;
    first.ready(id).await;
    let old = site.living_worker().expect("a worker runs");
    // The same host again, as after a pause in which it was believed dead.
    let second = site.start().await;
    second.ready(id).await;
    eventually("ended", async || !std::path::Path::new("/proc").join(&old).exists()).await;
    assert!(site.living_worker().is_some_and(|pid| pid != old));
    first.stop().await;
    assert!(site.living_worker().is_some(), "the new leader's worker is not the old one's to end");
    second.stop().await;
}

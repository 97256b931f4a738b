//! Downloads that become models.

use std::fs;

use galerne_model::ids::PullId;
use galerne_model::inference::{Model, Pull, PullSpec, PullState, PullStatus, Quantisation, Reach};
use galerne_model::units::Bytes;
use galerne_store::{Filter, StoreError};
use uuid::Uuid;

use crate::site::{PATIENCE, Site, now, row};

fn text(value: &str) -> Vec<u8> {
    let mut out = (value.len() as u64).to_le_bytes().to_vec();
    out.extend(value.as_bytes());
    out
}

/// The smallest file that is a model: an architecture and one F32 tensor of 32 numbers.
fn gguf(architecture: &str) -> Vec<u8> {
    let mut out = b"GGUF".to_vec();
    out.extend(3u32.to_le_bytes());
    out.extend(1u64.to_le_bytes());
    out.extend(2u64.to_le_bytes());
    out.extend(text("general.architecture"));
    out.extend(8u32.to_le_bytes());
    out.extend(text(architecture));
    out.extend(text(&format!("{architecture}.context_length")));
    out.extend(4u32.to_le_bytes());
    out.extend(2048u32.to_le_bytes());
    out.extend(text("token_embd.weight"));
    out.extend(1u32.to_le_bytes());
    out.extend(32u64.to_le_bytes());
    out.extend(0u32.to_le_bytes());
    out.extend(0u64.to_le_bytes());
    out.resize(out.len().next_multiple_of(32) + 128, 0);
    out
}

async fn pull(site: &Site, name: &str, spec: PullSpec, state: PullState) -> PullId {
    let id = PullId::from_uuid(Uuid::now_v7());
    let status = PullStatus { state, reach: Reach::Public, done: Bytes(0), total: None, model_id: None, reason: None };
    let pull: Pull = row(id, (Some(site.tenant_id), Some(site.project_id)), name, spec, status);
    site.insert(&pull).await;
    id
}

async fn ended(site: &Site, id: PullId) -> Pull {
    let mut changed = site.store.changed();
    let wait = async {
        loop {
            let pull = site.store.get::<Pull>(id).await.expect("a row");
            match pull.status.state {
                PullState::Done | PullState::Failed | PullState::Cancelled => return pull,
                PullState::Pending | PullState::Fetching | PullState::Importing => {}
            }
            changed.changed().await.expect("the store lives");
        }
    };
    tokio::time::timeout(PATIENCE, wait).await.expect("it ends")
}

fn from(site: &Site, file: &str) -> PullSpec {
    let path = site.directory.path().join(file);
    PullSpec { source: format!("file://{}", path.display()), sha256: None, requantise: None }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_becomes_a_model_with_the_facts_of_its_header() {
    let site = Site::new().await;
    fs::write(site.directory.path().join("m.gguf"), gguf("llama")).expect("a file");
    let loops = site.start().await;
    let id = pull(&site, "mine", from(&site, "m.gguf"), PullState::Pending).await;
    let done = ended(&site, id).await;
    assert_eq!((done.status.state, done.status.reason.clone()), (PullState::Done, None));
    let model = site.store.get::<Model>(done.status.model_id.expect("it made one")).await.expect("a row");
    assert_eq!((model.name.as_str(), model.project_id), ("mine", Some(site.project_id)));
    assert_eq!((model.spec.facts.architecture.as_str(), model.spec.facts.context_tokens), ("llama", 2048));
    assert_eq!(model.spec.licence, "unknown");
    assert!(site.directory.path().join(&model.status.blob).is_file(), "{}", model.status.blob);
    assert_eq!(site.events("pull.done").await, ["download `mine` is done"]);
    loops.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn weights_that_no_model_names_go_once_no_download_is_at_work() {
    let site = Site::new().await;
    let loops = site.start().await;
    let mut blobs = Vec::new();
    for (name, architecture) in [("gone", "llama"), ("kept", "qwen2")] {
        fs::write(site.directory.path().join(name), gguf(architecture)).expect("a file");
        let done = ended(&site, pull(&site, name, from(&site, name), PullState::Pending).await).await;
        let model = site.store.get::<Model>(done.status.model_id.expect("it made one")).await.expect("a row");
        blobs.push((model.id, site.directory.path().join(&model.status.blob)));
    }
    // Nobody answers there: it is at work until somebody ends it.
    let silent = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    let source = format!("http://{}/m.gguf", silent.local_addr().expect("bound"));
    let id = PullId::from_uuid(Uuid::now_v7());
    let (state, reach) = (PullState::Pending, Reach::Anywhere);
    let status = PullStatus { state, reach, done: Bytes(0), total: None, model_id: None, reason: None };
    let spec = PullSpec { source, sha256: None, requantise: None };
    let waiting: Pull = row(id, (Some(site.tenant_id), Some(site.project_id)), "waiting", spec, status);
    site.insert(&waiting).await;
    let mut tx = site.store.begin().await.expect("a transaction");
    tx.delete::<Model>(blobs[0].0, None, now()).await.expect("it is there");
    tx.commit().await.expect("committed");
    loops.handle.remove_unnamed_weights().await;
    assert!(blobs[0].1.is_file(), "a download may be about to name them");
    let mut tx = site.store.begin().await.expect("a transaction");
    tx.delete::<Pull>(id, None, now()).await.expect("it is there");
    tx.commit().await.expect("committed");
    let gone = async {
        while blobs[0].1.is_file() {
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
            loops.handle.remove_unnamed_weights().await;
        }
    };
    assert!(tokio::time::timeout(PATIENCE, gone).await.is_ok(), "nobody is about to name them any more");
    assert!(blobs[1].1.is_file(), "a model names these");
    loops.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_download_that_was_cut_off_by_a_kill_goes_on_after_the_start() {
    let site = Site::new().await;
    fs::write(site.directory.path().join("m.gguf"), gguf("llama")).expect("a file");
    // The rows as an earlier process left them.
    let fetching = pull(&site, "a", from(&site, "m.gguf"), PullState::Fetching).await;
    let importing = pull(&site, "b", from(&site, "m.gguf"), PullState::Importing).await;
    let loops = site.start().await;
    for id in [fetching, importing] {
        assert_eq!(ended(&site, id).await.status.state, PullState::Done);
    }
    loops.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_a_model_fails_with_a_code_and_a_next_step() {
    let site = Site::new().await;
    fs::write(site.directory.path().join("m.gguf"), gguf("llama")).expect("a file");
    fs::write(site.directory.path().join("junk.gguf"), b"GGUF and then nothing").expect("a file");
    let loops = site.start().await;
    let wrong_digest = PullSpec { sha256: Some("0".repeat(64)), ..from(&site, "m.gguf") };
    let unknown = PullSpec { source: "smolm2".into(), sha256: None, requantise: None };
    for (name, spec) in [
        ("absent", from(&site, "absent.gguf")),
        ("junk", from(&site, "junk.gguf")),
        ("digest", wrong_digest),
        ("unknown", unknown),
    ] {
        let id = pull(&site, name, spec, PullState::Pending).await;
        let failed = ended(&site, id).await;
        assert_eq!(failed.status.state, PullState::Failed, "{name}");
        let reason = failed.status.reason.expect("a failure has a reason");
        assert!(!reason.code.is_empty() && !reason.next.is_empty(), "{name}: {reason:?}");
    }
    assert!(site.store.find::<Model>(&Filter::default().named("junk")).await.expect("rows").is_none());
    loops.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_name_for_other_weights_is_refused_and_for_the_same_ones_it_is_done() {
    let site = Site::new().await;
    fs::write(site.directory.path().join("one.gguf"), gguf("llama")).expect("a file");
    fs::write(site.directory.path().join("two.gguf"), gguf("qwen2")).expect("a file");
    let loops = site.start().await;
    let first = pull(&site, "mine", from(&site, "one.gguf"), PullState::Pending).await;
    let model = ended(&site, first).await.status.model_id;
    let mut tx = site.store.begin().await.expect("a transaction");
    tx.delete::<Pull>(first, None, now()).await.expect("it is there");
    tx.commit().await.expect("committed");
    let other = pull(&site, "mine", from(&site, "two.gguf"), PullState::Pending).await;
    let failed = ended(&site, other).await;
    assert_eq!(failed.status.reason.expect("a reason").code, "already_exists");
    let mut tx = site.store.begin().await.expect("a transaction");
    tx.delete::<Pull>(other, None, now()).await.expect("it is there");
    tx.commit().await.expect("committed");
    let again = pull(&site, "mine", from(&site, "one.gguf"), PullState::Pending).await;
    assert_eq!(ended(&site, again).await.status.model_id, model);
    loops.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn requantised_weights_say_so_on_the_model_card() {
    let site = Site::new().await;
    fs::write(site.directory.path().join("m.gguf"), gguf("llama")).expect("a file");
    // The stand-in for the engine copies its input: other bytes, same shape.
    site.worker(r#"{ cat "$2"; echo; } > "$3""#);
    let loops = site.start().await;
    let spec = PullSpec { requantise: Some(Quantisation::Q8_0), ..from(&site, "m.gguf") };
    let id = pull(&site, "mine", spec, PullState::Pending).await;
    let done = ended(&site, id).await;
    assert_eq!(done.status.state, PullState::Done, "{:?}", done.status.reason);
    let model = site.store.get::<Model>(done.status.model_id.expect("it made one")).await.expect("a row");
    assert!(model.spec.notes[0].starts_with("requantised at import from F32"), "{:?}", model.spec.notes);
    assert!(model.spec.source_sha256.is_some_and(|source| source != model.spec.sha256));
    loops.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_requantisation_that_was_cut_off_by_a_kill_is_done_again() {
    let site = Site::new().await;
    fs::write(site.directory.path().join("m.gguf"), gguf("llama")).expect("a file");
    // As the real worker: it writes no file that exists.
    site.worker(r#"[ -e "$3" ] && exit 3; { cat "$2"; echo; } > "$3""#);
    let spec = PullSpec { requantise: Some(Quantisation::Q8_0), ..from(&site, "m.gguf") };
    let id = pull(&site, "mine", spec, PullState::Importing).await;
    let blobs = galerne_drivers::fetch::Blobs::open(&site.directory.path().join("blobs"), 0).expect("the store");
    fs::write(blobs.scratch(&format!("{id} Q8_0")), b"half a model").expect("a leftover");
    let loops = site.start().await;
    let done = ended(&site, id).await;
    assert_eq!(done.status.state, PullState::Done, "{:?}", done.status.reason);
    loops.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_download_waits_for_another_one_of_its_source() {
    let site = Site::new().await;
    let path = site.directory.path().join("m.gguf");
    fs::write(&path, gguf("llama")).expect("a file");
    // The other one holds the part file, as one under another name of the same place does.
    let key = galerne_drivers::fetch::Sha256Digest::of(format!("file://{}", path.display()).as_bytes()).to_string();
    let partial = site.directory.path().join("blobs/partial");
    fs::create_dir_all(&partial).expect("the folder");
    let held = fs::File::create(partial.join(format!("{}.part", &key[..32]))).expect("a file");
    held.lock().expect("nobody else has it");
    let loops = site.start().await;
    let id = pull(&site, "mine", from(&site, "m.gguf"), PullState::Pending).await;
    let mut changed = site.store.changed();
    let mut tries = std::collections::BTreeSet::new();
    let wait = async {
        while tries.len() < 2 {
            let pull = site.store.get::<Pull>(id).await.expect("a row");
            assert_ne!(pull.status.state, PullState::Failed, "{:?}", pull.status.reason);
            if pull.status.state == PullState::Fetching {
                tries.insert(pull.updated_at);
            }
            changed.changed().await.expect("the store lives");
        }
    };
    tokio::time::timeout(PATIENCE, wait).await.expect("it tries again");
    drop(held);
    assert_eq!(ended(&site, id).await.status.state, PullState::Done);
    loops.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn weights_that_are_slow_here_say_so_on_the_model_card() {
    let site = Site::new().await;
    // 32 weights as Q4_1: type 3, one block of 20 bytes.
    let mut bytes = gguf("llama");
    let kind_at = bytes.len() - 128 - 12;
    let kind_at = (0..=kind_at).rev().find(|at| bytes[*at..].starts_with(&32u64.to_le_bytes())).expect("the size") + 8;
    bytes[kind_at..kind_at + 4].copy_from_slice(&3u32.to_le_bytes());
    fs::write(site.directory.path().join("m.gguf"), bytes).expect("a file");
    let loops = site.start().await;
    let id = pull(&site, "mine", from(&site, "m.gguf"), PullState::Pending).await;
    let done = ended(&site, id).await;
    let model = site.store.get::<Model>(done.status.model_id.expect("it made one")).await.expect("a row");
    assert_eq!(model.spec.facts.quantisation, "Q4_1");
    assert!(model.spec.notes.iter().any(|note| note.contains("--requantise q8_0")), "{:?}", model.spec.notes);
    loops.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancelled_download_stops_and_leaves_no_model() {
    let site = Site::new().await;
    fs::write(site.directory.path().join("m.gguf"), gguf("llama")).expect("a file");
    // Requantising never ends by itself, so there is time to cancel.
    site.worker("exec cat >/dev/null");
    let loops = site.start().await;
    let spec = PullSpec { requantise: Some(Quantisation::Q4_0), ..from(&site, "m.gguf") };
    let id = pull(&site, "mine", spec, PullState::Pending).await;
    let mut changed = site.store.changed();
    loop {
        let pull = site.store.get::<Pull>(id).await.expect("a row");
        let status = PullStatus { state: PullState::Cancelled, ..pull.status.clone() };
        if pull.status.state == PullState::Importing {
            let mut tx = site.store.begin().await.expect("a transaction");
            let cancelled = tx.update_status_if::<Pull>(id, pull.updated_at, &status, now()).await;
            match cancelled {
                Ok(_) => drop(tx.commit().await.expect("committed")),
                Err(StoreError::Conflict { .. }) => continue,
                Err(error) => panic!("{error}"),
            }
            break;
        }
        changed.changed().await.expect("the store lives");
    }
    loops.stop().await;
    assert_eq!(site.store.get::<Pull>(id).await.expect("a row").status.state, PullState::Cancelled);
    assert!(site.store.find::<Model>(&Filter::default().named("mine")).await.expect("rows").is_none());
}

//! Backup and restore, inside one engine and across.

use std::path::Path;

use galerne_model::identity::Tenant;
use galerne_model::ids::{BackupId, KeyId, NodeId};
use galerne_model::ledger::UsageRecord;
use galerne_store::{EventFilter, Filter, Store, StoreError, StoreUrl, restore};
use sha2::Digest;

use crate::bed::Bed;
use crate::sample::{self, later, now, reading, record, records, uuid};

fn id() -> BackupId {
    BackupId::from_uuid(uuid(1))
}

async fn furnish(store: &Store) {
    let mut tx = store.begin().await.expect("begins");
    for n in 1..=20 {
        tx.insert(&sample::tenant(n)).await.expect("inserts");
        tx.record(sample::event("tenant.create"));
    }
    tx.delete::<Tenant>(sample::tenant_id(3), None, later(1)).await.expect("deletes");
    tx.insert(&sample::replica(1, Some(NodeId::from_uuid(uuid(1))))).await.expect("inserts");
    tx.commit().await.expect("commits");
    store.settle_batch(1, &records(1, 500)).await.expect("settles");
    store.post_reading(&reading(1, 1_000_000), 1_150).await.expect("books");
    let transfer = store.usage_transfer(record(9).request_id).await.expect("reads").expect("is there");
    store.reverse(transfer, later(3)).await.expect("reverses");
}

async fn same(a: &Store, b: &Store) {
    let filter = Filter::default();
    let (left, right) = (a.list_all::<Tenant>(&filter).await, b.list_all::<Tenant>(&filter).await);
    assert_eq!(left.expect("lists"), right.expect("lists"));
    let events = EventFilter::default();
    assert_eq!(a.events(&events, 500).await.expect("lists"), b.events(&events, 500).await.expect("lists"));
    assert_eq!(a.balances().await.expect("reads"), b.balances().await.expect("reads"));
    assert_eq!(a.ledger_check().await.expect("checks"), b.ledger_check().await.expect("checks"));
    let gone = b.get_deleted::<Tenant>(sample::tenant_id(3)).await.expect("deleted rows are kept");
    assert_eq!(gone.name, "tenant-3");
}

pub(crate) async fn a_backup_restores_into_either_engine(bed: &Bed) {
    furnish(&bed.store).await;
    assert_eq!(bed.store.objects_mark(3).await.expect("draws"), 3);
    let folder = bed.path("backup");
    let manifest = bed.store.backup(&folder, id(), now()).await.expect("backs up");
    assert_eq!((manifest.last_event, manifest.rows["usage"], manifest.rows["tenant"]), (20, 500, 20));
    let sqlite = StoreUrl::sqlite(bed.path("other-engine.db"));
    let second = bed.second().await;
    for target in [&second, &sqlite] {
        assert_eq!(restore(&folder, target).await.expect("restores"), manifest);
        let restored = Store::open(target).await.expect("opens");
        same(&bed.store, &restored).await;
        // It goes on where the other stopped.
        let mut tx = restored.begin().await.expect("begins");
        tx.record(sample::event("site.restore"));
        assert_eq!(tx.commit().await.expect("commits"), 21);
        let settled = restored.settle_batch(1, &records(490, 510)).await.expect("settles");
        assert_eq!((settled.settled, settled.duplicates), (10, 11));
        assert!(restored.ledger_check().await.expect("checks").closes());
        assert_eq!(restored.objects_mark(4).await.expect("draws"), 4, "it does not know the objects of later");
        restored.close().await;
        let again = restore(&folder, target).await;
        assert!(matches!(again, Err(StoreError::Backup(_))), "a restore must not mix: {again:?}");
    }
    let twice = bed.store.backup(&folder, id(), now()).await;
    assert!(matches!(twice, Err(StoreError::Backup(_))), "a backup is not overwritten: {twice:?}");
}

pub(crate) async fn a_backup_that_was_touched_is_refused(bed: &Bed) {
    furnish(&bed.store).await;
    let folder = bed.path("backup");
    bed.store.backup(&folder, id(), now()).await.expect("backs up");
    let rows = folder.join("rows.jsonl");
    let text = std::fs::read_to_string(&rows).expect("readable");
    std::fs::write(&rows, text.replacen("tenant-7", "tenant-8x", 1)).expect("written");
    let target = StoreUrl::sqlite(bed.path("restored.db"));
    let error = restore(&folder, &target).await.expect_err("it was changed");
    assert!(error.to_string().contains("was changed since"), "{error}");
    assert!(!bed.path("restored.db").exists(), "nothing appears under the name");
    std::fs::remove_file(folder.join("manifest.json")).expect("removed");
    assert!(matches!(restore(&folder, &target).await, Err(StoreError::File { .. })), "unfinished backups are refused");
}

pub(crate) async fn a_ledger_that_does_not_close_is_not_restored(bed: &Bed) {
    furnish(&bed.store).await;
    let sound = bed.path("sound");
    bed.store.backup(&sound, id(), now()).await.expect("backs up");
    bed.damage("UPDATE transfer SET voided_micros = 0 WHERE source = 1 AND sequence = 12").await;
    let folder = bed.path("backup");
    bed.store.backup(&folder, id(), now()).await.expect("backs up");
    let second = bed.second().await;
    let error = restore(&folder, &second).await.expect_err("it does not close");
    assert!(error.to_string().contains("does not close"), "{error}");
    assert!(!bed.path("second.db").exists());
    restore(&sound, &second).await.expect("nothing of the other one is left behind");
}

pub(crate) async fn a_backup_of_an_older_schema_is_brought_up_to_date(bed: &Bed) {
    furnish(&bed.store).await;
    let (old, new) = (KeyId::from_uuid(uuid(1)), KeyId::from_uuid(uuid(2)));
    let mut tx = bed.store.begin().await.expect("begins");
    let mut rotated = sample::api_key(1);
    rotated.status.rotated_to = Some(new);
    tx.insert(&rotated).await.expect("inserts");
    tx.insert(&sample::api_key(2)).await.expect("inserts");
    tx.commit().await.expect("commits");
    let lease = bed.store.lease_acquire("loops", "a", jiff::SignedDuration::from_secs(9), jiff::Timestamp::now()).await;
    lease.expect("asks").expect("it is free");
    let folder = bed.path("backup");
    bed.store.backup(&folder, id(), now()).await.expect("backs up");
    // As the release before terms were kept wrote it.
    age(&folder, 10, &[("usage", 5)]);
    let target = StoreUrl::sqlite(bed.path("without-terms.db"));
    restore(&folder, &target).await.expect("restores");
    let restored = Store::open(&target).await.expect("opens");
    same(&bed.store, &restored).await;
    let kept = restored.usage_by_request(record(9).request_id).await.expect("reads").expect("is there");
    assert!(record(9).terms.is_some(), "it is shown by a record that had some");
    assert_eq!(kept, UsageRecord { terms: None, ..record(9) });
    restored.close().await;
    // As the release before lines of keys wrote it: no such table, a lease of four columns, spending of money alone, usage without
    // batches.
    age(&folder, 4, &[("lease", 1), ("spending", 2), ("usage", 2)]);
    let second = bed.second().await;
    restore(&folder, &second).await.expect("restores");
    let restored = Store::open(&second).await.expect("opens");
    same(&bed.store, &restored).await;
    let mut reader = restored.reader().await.expect("reads");
    assert_eq!(reader.keys_of_line(new).await.expect("reads"), [old, new]);
    drop(reader);
    restored.close().await;
}

/// Makes a backup one of an older schema: so many columns at the end of some tables came later.
fn age(folder: &Path, schema: i64, later: &[(&str, usize)]) {
    let rows = folder.join("rows.jsonl");
    let text = std::fs::read_to_string(&rows).expect("readable");
    let older: String = text
        .lines()
        .map(|line| {
            let gone = later.iter().find(|(table, _)| line.starts_with(&format!("[\"{table}\",")));
            let Some((_, gone)) = gone else { return format!("{line}\n") };
            let kept = (0..*gone).fold(line, |line, _| line.rsplit_once(',').expect("a later column").0);
            format!("{kept}]]\n")
        })
        .collect();
    std::fs::write(&rows, &older).expect("written");
    let path = folder.join("manifest.json");
    let manifest = std::fs::read_to_string(&path).expect("readable");
    let mut manifest: serde_json::Value = serde_json::from_str(&manifest).expect("JSON");
    manifest["schema_version"] = schema.into();
    if schema < 5 {
        manifest["rows"].as_object_mut().expect("counts").remove("key_line");
    }
    manifest["files"][0]["bytes"] = older.len().into();
    manifest["files"][0]["sha256"] = hex::encode(sha2::Sha256::digest(older.as_bytes())).into();
    std::fs::write(&path, manifest.to_string()).expect("written");
}

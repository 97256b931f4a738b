//! Backup and restore, inside one engine and across.

use galerne_model::identity::Tenant;
use galerne_model::ids::{BackupId, NodeId};
use galerne_store::{EventFilter, Filter, Store, StoreError, StoreUrl, restore};

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

#[tokio::test]
async fn a_ledger_that_does_not_close_is_not_restored() {
    let bed = Bed::sqlite().await;
    furnish(&bed.store).await;
    bed.damage("UPDATE transfer SET voided_micros = 0 WHERE source = 1 AND sequence = 12").await;
    let folder = bed.path("backup");
    bed.store.backup(&folder, id(), now()).await.expect("backs up");
    let error = restore(&folder, &bed.second().await).await.expect_err("it does not close");
    assert!(error.to_string().contains("does not close"), "{error}");
    assert!(!bed.path("second.db").exists());
}

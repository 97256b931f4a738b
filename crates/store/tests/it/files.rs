//! Files and batches.

use galerne_model::batch::{Batch, BatchEnd, BatchState, BatchStatus, Surface};
use galerne_model::file::{File, Kept, Origin, Purpose, Visibility};
use galerne_model::ids::{BatchId, FileId, KeyId, PrincipalId, RequestId};
use galerne_model::ledger::Operation;
use galerne_store::{BatchQuery, FileQuery, FileRefused, Order, Segment, StoreError};

use crate::bed::Bed;
use crate::sample::{self, later, now, project_id, tenant_id, uuid};

const ROOM: Kept = Kept { bytes: 1_000, files: 5 };

fn file(n: u64, bytes: u64) -> File {
    File {
        id: FileId::from_uuid(uuid(n)),
        tenant_id: tenant_id(1),
        project_id: project_id(1),
        principal_id: PrincipalId::from_uuid(uuid(7)),
        filename: format!("é {n}.jsonl"),
        purpose: if n.is_multiple_of(2) { Purpose::Batch } else { Purpose::UserData },
        visibility: Visibility::Principal,
        origin: Origin::Upload,
        bytes,
        sha256: "0".repeat(64),
        media_type: Some("application/jsonl".to_owned()),
        lines: Some(3),
        created_at: now(),
        expires_at: (n == 3).then(|| later(60)),
    }
}

async fn keep(bed: &Bed, file: &File) -> Result<(), FileRefused> {
    let mut tx = bed.store.begin().await.expect("begins");
    let kept = tx.file_insert(file, ROOM).await.expect("asks");
    if kept.is_ok() {
        tx.commit().await.expect("commits");
    }
    kept
}

pub(crate) async fn a_project_keeps_files_up_to_its_limit_and_no_byte_more(bed: &Bed) {
    let store = &bed.store;
    assert_eq!(keep(bed, &file(1, 1_001)).await, Err(FileRefused { kept: Kept::default() }), "not even the first");
    assert_eq!(store.file_storage(project_id(1)).await.expect("reads"), Kept::default());
    keep(bed, &file(2, 600)).await.expect("fits");
    let full = Kept { bytes: 600, files: 1 };
    assert_eq!(keep(bed, &file(3, 401)).await, Err(FileRefused { kept: full }));
    keep(bed, &file(3, 400)).await.expect("fits exactly");
    assert_eq!(store.file(file(3, 400).id).await.expect("reads"), Some(file(3, 400)));
    let mut tx = store.begin().await.expect("begins");
    let other = File { project_id: project_id(2), ..file(4, 1_000) };
    tx.file_insert(&other, ROOM).await.expect("asks").expect("another project's limit is its own");
    tx.commit().await.expect("commits");

    let mut tx = store.begin().await.expect("begins");
    assert_eq!(tx.file_delete(file(2, 600).id, now()).await.expect("deletes"), Some(file(2, 600)));
    assert_eq!(tx.file_delete(file(2, 600).id, now()).await.expect("asks"), None, "it is deleted once");
    tx.commit().await.expect("commits");
    assert_eq!(store.file_storage(project_id(1)).await.expect("reads"), Kept { bytes: 400, files: 1 });
    assert_eq!(store.file(file(2, 600).id).await.expect("reads"), None);
    assert_eq!(store.files_deleted(9).await.expect("reads"), [file(2, 600).id], "its object is to be removed");
    assert!(store.file_is_known(file(2, 600).id).await.expect("reads"));
    store.file_forget(file(2, 600).id).await.expect("forgets");
    store.file_forget(file(3, 400).id).await.expect("a living one stays");
    assert!(!store.file_is_known(file(2, 600).id).await.expect("reads"));
    assert!(store.file_is_known(file(3, 400).id).await.expect("reads"));
    for n in 10..14 {
        keep(bed, &file(n, 0)).await.expect("five files fit");
    }
    assert_eq!(keep(bed, &file(15, 0)).await, Err(FileRefused { kept: Kept { bytes: 400, files: 5 } }));
}

pub(crate) async fn eight_writers_do_not_pass_a_limit_together(bed: &Bed) {
    let writers = (0..8).map(|n| async move { keep(bed, &file(20 + n, 300)).await.is_ok() });
    let kept = futures_util::future::join_all(writers).await;
    assert_eq!(kept.iter().filter(|kept| **kept).count(), 3);
    assert_eq!(bed.store.file_storage(project_id(1)).await.expect("reads"), Kept { bytes: 900, files: 3 });
}

pub(crate) async fn files_are_listed_in_either_order_from_any_of_them(bed: &Bed) {
    for n in 1..=5 {
        keep(bed, &file(n, 10)).await.expect("fits");
    }
    let list = async |after: Option<u64>, purpose, order, limit, at| {
        let after = after.map(|n| file(n, 10).id);
        let query = FileQuery { project_id: project_id(1), after, purpose, order, limit };
        let files = bed.store.files(&query, later(at)).await.expect("lists");
        files.into_iter().map(|found| (1..=5).find(|n| file(*n, 10).id == found.id).expect("ours")).collect::<Vec<_>>()
    };
    assert_eq!(list(None, None, Order::Newest, 9, 0).await, [5, 4, 3, 2, 1]);
    assert_eq!(list(Some(4), None, Order::Newest, 2, 0).await, [3, 2]);
    assert_eq!(list(Some(2), None, Order::Oldest, 2, 0).await, [3, 4]);
    assert_eq!(list(None, Some(Purpose::Batch), Order::Oldest, 9, 0).await, [2, 4]);
    assert_eq!(list(None, None, Order::Oldest, 9, 60).await, [1, 2, 4, 5], "the third is over");
    let over = bed.store.files_expired(later(60), None, 9).await.expect("reads");
    assert_eq!(over, [file(3, 10)]);
    assert_eq!(bed.store.files_expired(later(59), None, 9).await.expect("reads"), []);
}

pub(crate) async fn files_that_are_over_are_paged_through_by_the_end_of_their_time(bed: &Bed) {
    let ends = [(1, 30), (2, 10), (3, 20), (4, 20), (5, 90)];
    let over = |(n, ends)| File { expires_at: Some(later(ends)), ..file(n, 10) };
    for each in ends {
        keep(bed, &over(each)).await.expect("fits");
    }
    let (mut after, mut found) = (None, Vec::new());
    loop {
        let page = bed.store.files_expired(later(60), after.as_ref(), 1).await.expect("reads");
        let Some(file) = page.into_iter().next() else { break };
        found.push(file.clone());
        after = Some(file);
    }
    assert_eq!(found, [(2, 10), (3, 20), (4, 20), (1, 30)].map(over));
}

pub(crate) async fn the_mark_of_objects_is_drawn_once(bed: &Bed) {
    assert_eq!(bed.store.objects_mark(-7).await.expect("draws"), -7);
    assert_eq!(bed.store.objects_mark(8).await.expect("reads"), -7);
}

fn batch(n: u64) -> Batch {
    Batch {
        id: BatchId::from_uuid(uuid(n)),
        tenant_id: tenant_id(1),
        project_id: project_id(1),
        principal_id: PrincipalId::from_uuid(uuid(7)),
        key_id: KeyId::from_uuid(uuid(8)),
        surface: Surface::OpenAi,
        operation: Operation::Chat,
        model: None,
        inputs: vec![file(1, 0).id],
        visibility: Visibility::Principal,
        metadata: [("a".to_owned(), "b".to_owned())].into(),
        output_life_seconds: None,
        countries: vec!["FR".to_owned()],
        created_at: now(),
        expires_at: later(86_400),
        status: BatchStatus::default(),
    }
}

pub(crate) async fn a_batch_is_cancelled_beside_its_engine_and_forgotten_after_its_end(bed: &Bed) {
    let store = &bed.store;
    let mut tx = store.begin().await.expect("begins");
    for n in 1..=2 {
        tx.batch_insert(&batch(n)).await.expect("inserts");
    }
    assert!(tx.batch_cancel(batch(1).id, later(1)).await.expect("cancels"));
    assert!(!tx.batch_cancel(batch(1).id, later(2)).await.expect("asks"), "once");
    // The engine, which has not seen it yet.
    let mut running = batch(1);
    running.status.state = BatchState::Running;
    tx.batch_update(&running).await.expect("updates");
    tx.commit().await.expect("commits");
    let found = store.batch(batch(1).id).await.expect("reads").expect("is there");
    assert_eq!((found.status.state, found.status.cancel_at), (BatchState::Running, Some(later(1))));
    assert_eq!(store.batches_open().await.expect("reads").len(), 2);
    let mut reader = store.reader().await.expect("reads");
    assert_eq!(reader.batch_reading(file(1, 0).id).await.expect("reads"), Some(batch(1).id));
    assert_eq!(reader.batches_open_in(project_id(1)).await.expect("reads"), 2);
    drop(reader);
    let mut tx = store.begin().await.expect("begins");
    assert!(!tx.batch_delete(batch(1).id).await.expect("asks"), "it runs");
    let mut ended = found;
    (ended.status.state, ended.status.end) = (BatchState::Ended, Some(BatchEnd::Cancelled));
    tx.batch_update(&ended).await.expect("updates");
    assert!(!tx.batch_cancel(ended.id, later(3)).await.expect("asks"), "it has ended");
    let again = tx.batch_update(&running).await;
    assert!(matches!(again, Err(StoreError::NotFound { .. })), "what has ended stays as it is: {again:?}");
    tx.commit().await.expect("commits");
    let query = |after, order| BatchQuery { project_id: project_id(1), after, order, limit: 9 };
    let ids = async |after, order| -> Vec<BatchId> {
        store.batches(&query(after, order)).await.expect("lists").into_iter().map(|batch| batch.id).collect()
    };
    assert_eq!(ids(None, Order::Newest).await, [batch(2).id, batch(1).id]);
    assert_eq!(ids(Some(batch(2).id), Order::Newest).await, [batch(1).id]);
    assert_eq!(ids(Some(batch(1).id), Order::Oldest).await, [batch(2).id]);
    let mut tx = store.begin().await.expect("begins");
    assert!(tx.batch_delete(batch(1).id).await.expect("deletes"));
    tx.commit().await.expect("commits");
    assert_eq!(store.batch(batch(1).id).await.expect("reads"), None);
}

pub(crate) async fn segments_keep_their_records_until_the_gateway_has_them(bed: &Bed) {
    let store = &bed.store;
    let id = batch(1).id;
    let segment =
        |number: i64| Segment { number, object: format!("batches/{id}/{number}"), lines: vec![number.unsigned_abs()] };
    let record = |n: i64| {
        let mut record = sample::record(n);
        record.request_id = RequestId::from_uuid(uuid(n.unsigned_abs()));
        record
    };
    for number in 1..=3 {
        let mut tx = store.begin().await.expect("begins");
        tx.segment_insert(id, &segment(number), &[record(number)]).await.expect("inserts");
        tx.commit().await.expect("commits");
    }
    assert_eq!(store.segments(id).await.expect("reads"), [segment(1), segment(2), segment(3)]);
    let mut tx = store.begin().await.expect("begins");
    tx.segments_settled(id, 2).await.expect("marks");
    tx.commit().await.expect("commits");
    let left = store.records_unsettled().await.expect("reads");
    assert_eq!(left.into_values().collect::<Vec<_>>(), [record(3)]);
    assert!(store.segment_is_known(&segment(2).object).await.expect("reads"));
    let mut tx = store.begin().await.expect("begins");
    tx.segments_delete(id).await.expect("deletes");
    tx.commit().await.expect("commits");
    assert_eq!(store.segments(id).await.expect("reads"), []);
    assert!(!store.segment_is_known(&segment(2).object).await.expect("reads"));
}

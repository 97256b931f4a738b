use std::path::Path;

use galerne_model::ids::{EndpointId, KeyId, PrincipalId, ProjectId, TenantId};
use galerne_model::ledger::{Operation, Outcome};
use galerne_model::units::Micros;
use uuid::Uuid;

use super::*;

const SMALL: SpoolLimits = SpoolLimits { max_bytes: 4 * 1024 * 1024, segment_bytes: 32 * 1024 };

fn now() -> Timestamp {
    Timestamp::from_second(1_780_000_000).expect("in range")
}

fn hold(n: u128) -> Hold {
    Hold {
        request_id: RequestId::from_uuid(Uuid::from_u128(n)),
        started_at: now(),
        tenant_id: TenantId::from_uuid(Uuid::from_u128(1)),
        project_id: ProjectId::from_uuid(Uuid::from_u128(2)),
        principal_id: PrincipalId::from_uuid(Uuid::from_u128(3)),
        key_id: KeyId::from_uuid(Uuid::from_u128(4)),
        endpoint_id: EndpointId::from_uuid(Uuid::from_u128(5)),
        operation: Operation::Chat,
        held_micros: Micros(100),
        price_book_id: None,
        batch: None,
    }
}

fn open(dir: &Path) -> (Arc<Spool>, Recovered) {
    Spool::open(dir, SMALL, 0, &BTreeMap::new(), now()).expect("the directory is ours")
}

/// Admits and settles requests `range`.
fn fill(spool: &Spool, range: std::ops::Range<u128>) {
    for n in range {
        spool.admit(hold(n)).expect("there is room");
        let mut record = hold(n).unsettled(now());
        record.outcome = Outcome::Completed;
        spool.settle(record);
    }
}

fn read_all(spool: &Spool, settled: i64) -> Vec<UsageRecord> {
    assert!(spool.sync());
    let mut cursor = spool.first_cursor(settled);
    let mut all = Vec::new();
    loop {
        let (next, records) = spool.read_batch(cursor).expect("readable");
        if records.is_empty() {
            return all;
        }
        cursor = next;
        all.extend(records);
    }
}

fn sequences(records: &[UsageRecord]) -> Vec<i64> {
    records.iter().map(|record| record.sequence).collect()
}

fn segments(dir: &Path) -> Vec<u64> {
    segment::list(dir).expect("listable")
}

#[test]
fn records_are_read_in_order_across_segments_and_batches() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let (spool, _) = open(dir.path());
    fill(&spool, 0..200);
    assert!(segments(dir.path()).len() > 3, "200 requests fill several segments of 32 KiB");
    let records = read_all(&spool, 0);
    assert_eq!(sequences(&records), (1..=200).collect::<Vec<i64>>());
    assert!(records.iter().all(|record| record.source == spool.source()));
}

#[test]
fn a_batch_that_was_not_taken_is_the_same_when_it_is_read_again() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let (spool, _) = open(dir.path());
    fill(&spool, 0..100);
    assert!(spool.sync());
    let cursor = spool.first_cursor(0);
    let (_, first) = spool.read_batch(cursor).expect("from memory");
    assert!(spool.lock().recent.is_empty(), "they are in memory once");
    let (next, again) = spool.read_batch(cursor).expect("from the file");
    assert_eq!((first.len(), &first), (100, &again));
    fill(&spool, 100..110);
    assert!(spool.sync());
    let (_, more) = spool.read_batch(next).expect("from memory again");
    assert_eq!(sequences(&more), (101..=110).collect::<Vec<i64>>());
}

#[test]
fn what_is_not_synced_is_not_shipped_from_memory_either() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let (spool, _) = open(dir.path());
    let cursor = spool.first_cursor(0);
    {
        let _no_sync = spool.syncing.lock().expect("nobody panicked");
        fill(&spool, 0..5);
        assert_eq!(spool.read_batch(cursor).expect("readable").1, []);
    }
    assert!(spool.sync());
    assert_eq!(spool.read_batch(cursor).expect("readable").1.len(), 5);
}

#[test]
fn more_records_than_memory_keeps_are_read_from_the_file() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let limits = SpoolLimits { max_bytes: 64 * 1024 * 1024, segment_bytes: 1024 * 1024 };
    let (spool, _) = Spool::open(dir.path(), limits, 0, &BTreeMap::new(), now()).expect("the directory is ours");
    let most = u128::try_from(RECENT_MAX).expect("small");
    fill(&spool, 0..most + 10);
    assert_eq!(spool.lock().recent.len(), 10);
    let last = i64::try_from(most).expect("small") + 10;
    assert_eq!(sequences(&read_all(&spool, 0)), (1..=last).collect::<Vec<i64>>());
    assert!(spool.lock().recent.is_empty(), "what was read from the file is kept no longer");
}

#[test]
fn sequences_and_source_go_on_after_a_restart() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let source = {
        let (spool, _) = open(dir.path());
        fill(&spool, 0..70);
        spool.source()
    };
    let (spool, recovered) = Spool::open(dir.path(), SMALL, 30, &BTreeMap::new(), now()).expect("opens again");
    assert_eq!(spool.source(), source);
    assert_eq!(sequences(&recovered.unsettled), (31..=70).collect::<Vec<i64>>());
    fill(&spool, 70..80);
    assert_eq!(sequences(&read_all(&spool, 30)), (31..=80).collect::<Vec<i64>>());
}

#[test]
fn a_hold_without_a_record_becomes_one_interrupted_record() {
    let dir = tempfile::tempdir().expect("temporary directory");
    {
        let (spool, _) = open(dir.path());
        fill(&spool, 0..3);
        spool.admit(hold(7)).expect("there is room");
    }
    let (_, recovered) = open(dir.path());
    assert_eq!(recovered.interrupted, 1);
    let last = recovered.unsettled.last().expect("four records");
    assert_eq!((last.sequence, last.outcome, last.request_id), (4, Outcome::Interrupted, hold(7).request_id));
    assert_eq!((last.held_micros, last.quantities), (Micros(100), galerne_model::ledger::Quantities::default()));
    let (_, again) = open(dir.path());
    assert_eq!((again.interrupted, again.unsettled.len()), (0, 4), "the second start finds it settled");
}

#[test]
fn a_hold_whose_record_is_known_ends_with_it_and_only_once() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let known = |n: u128| {
        let mut record = hold(n).unsettled(now());
        (record.outcome, record.http_status) = (Outcome::Completed, 200);
        (record.request_id, record)
    };
    {
        let (spool, _) = open(dir.path());
        // Settled already; only held; never seen here.
        fill(&spool, 1..2);
        spool.admit(hold(2)).expect("there is room");
        spool.admit(hold(3)).expect("there is room");
    }
    let all = BTreeMap::from([known(1), known(2), known(9)]);
    let (_, recovered) = Spool::open(dir.path(), SMALL, 0, &all, now()).expect("opens again");
    assert_eq!(recovered.interrupted, 1);
    let told: Vec<_> =
        recovered.unsettled.iter().map(|record| (record.sequence, record.request_id, record.outcome)).collect();
    let id = |n| hold(n).request_id;
    let wanted = [(1, id(1), Outcome::Completed), (2, id(2), Outcome::Completed), (3, id(3), Outcome::Interrupted)];
    assert_eq!(told, wanted, "one record each, and none for a request that was never admitted here");
    let (_, again) = Spool::open(dir.path(), SMALL, 0, &all, now()).expect("opens again");
    assert_eq!((again.interrupted, again.unsettled.len()), (0, 3));
}

#[test]
fn acknowledged_segments_go_and_the_sequence_stays() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let (spool, _) = open(dir.path());
    fill(&spool, 0..100);
    let before = segments(dir.path());
    spool.acknowledge(50);
    let after = segments(dir.path());
    assert!(after.len() < before.len() && after.last() == before.last());
    assert_eq!(sequences(&read_all(&spool, 50)), (51..=100).collect::<Vec<i64>>());
    spool.acknowledge(100);
    assert_eq!(segments(dir.path()), [*before.last().expect("some")]);
    drop(spool);
    let (spool, recovered) = Spool::open(dir.path(), SMALL, 100, &BTreeMap::new(), now()).expect("opens again");
    assert_eq!(recovered.unsettled, []);
    fill(&spool, 100..101);
    assert_eq!(sequences(&read_all(&spool, 100)), [101]);
}

#[test]
fn a_long_request_does_not_pin_old_segments_and_is_still_found_after_a_crash() {
    let dir = tempfile::tempdir().expect("temporary directory");
    {
        let (spool, _) = open(dir.path());
        spool.admit(hold(9_999)).expect("there is room");
        for round in 0..10 {
            fill(&spool, round * 50..round * 50 + 50);
            let through = i64::try_from(round).expect("small") * 50 + 50;
            spool.acknowledge(through);
            assert!(segments(dir.path()).len() <= 4, "old segments went");
        }
    }
    let (_, recovered) = Spool::open(dir.path(), SMALL, 500, &BTreeMap::new(), now()).expect("opens again");
    assert_eq!(recovered.interrupted, 1);
    assert_eq!(recovered.unsettled.last().map(|record| record.request_id), Some(hold(9_999).request_id));
}

#[test]
fn a_full_spool_stops_admission_and_never_a_settlement() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let limits = SpoolLimits { max_bytes: 100 * 1024, segment_bytes: 32 * 1024 };
    let (spool, _) = Spool::open(dir.path(), limits, 0, &BTreeMap::new(), now()).expect("opens");
    let mut admitted = Vec::new();
    let refused = loop {
        match spool.admit(hold(admitted.len() as u128)) {
            Ok(()) => admitted.push(admitted.len() as u128),
            Err(full) => break full,
        }
    };
    assert!(!admitted.is_empty());
    for n in &admitted {
        spool.settle(hold(*n).unsettled(now()));
    }
    assert_eq!(read_all(&spool, 0).len(), admitted.len(), "every admitted request has its record: {refused}");
    assert!(spool.bytes() <= limits.max_bytes);
}

#[test]
fn a_record_the_disk_refused_is_kept_in_order_and_written_later() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let (spool, _) = open(dir.path());
    fill(&spool, 0..2);
    spool.admit(hold(2)).expect("there is room");
    spool.admit(hold(3)).expect("there is room");
    let good = {
        let mut log = spool.lock();
        // A file opened for reading refuses every write.
        let read_only = std::fs::File::open(dir.path().join("SOURCE")).expect("exists");
        std::mem::replace(&mut log.active.file, Arc::new(read_only))
    };
    spool.settle(hold(2).unsettled(now()));
    spool.settle(hold(3).unsettled(now()));
    assert_eq!(spool.admit(hold(4)), Err(SpoolFull::Disk), "nothing new while records wait");
    spool.lock().active.file = good;
    assert!(spool.sync());
    assert_eq!(sequences(&read_all(&spool, 0)), [1, 2, 3, 4]);
    assert!(spool.admit(hold(4)).is_ok());
}

/// A spool of two requests that is closed, its only segment, and where each of its four frames ends.
fn two_requests() -> (tempfile::TempDir, std::path::PathBuf, Vec<u8>, Vec<usize>) {
    let dir = tempfile::tempdir().expect("temporary directory");
    let (spool, _) = open(dir.path());
    fill(&spool, 0..2);
    spool.stop();
    drop(spool);
    let file = dir.path().join(format!("{:020}.seg", segments(dir.path())[0]));
    let whole = std::fs::read(&file).expect("readable");
    let mut frames = frame::Frames::new(&whole[16..]);
    let ends: Vec<usize> = std::iter::from_fn(|| frames.next().map(|_| frames.at + 16)).collect();
    assert_eq!(ends.len(), 4, "two holds, two records");
    (dir, file, whole, ends)
}

#[test]
fn a_spool_torn_at_any_byte_reads_every_whole_entry() {
    let (dir, file, whole, ends) = two_requests();
    for cut in 0..=whole.len() {
        std::fs::write(&file, &whole[..cut]).expect("written");
        let scan = recover::scan(dir.path()).expect("readable");
        let kept = ends.iter().filter(|end| **end <= cut).count();
        // Holds and records alternate.
        assert_eq!((scan.recovered.unsettled.len(), scan.open.len()), (kept / 2, kept % 2), "cut at byte {cut}");
        assert_eq!(scan.recovered.damaged_bytes, 0, "cut at byte {cut}");
    }
}

#[test]
fn a_torn_spool_goes_on_where_it_was_whole() {
    let (dir, file, whole, ends) = two_requests();
    let cuts = [0, 15, 16, ends[0] - 1, ends[0], ends[1] + 3, ends[1] + 9, ends[2] + 1, ends[3] - 1];
    for cut in cuts {
        let torn = tempfile::tempdir().expect("temporary directory");
        std::fs::copy(dir.path().join("SOURCE"), torn.path().join("SOURCE")).expect("copied");
        std::fs::write(torn.path().join(file.file_name().expect("a file")), &whole[..cut]).expect("written");
        let (spool, recovered) = open(torn.path());
        let kept = ends.iter().filter(|end| **end <= cut).count();
        assert_eq!(
            (recovered.unsettled.len(), recovered.interrupted),
            (kept.div_ceil(2), kept % 2),
            "cut at byte {cut}"
        );
        fill(&spool, 10..11);
        let expected = i64::try_from(kept.div_ceil(2) + 1).expect("small");
        assert_eq!(sequences(&read_all(&spool, 0)), (1..=expected).collect::<Vec<i64>>(), "cut at byte {cut}");
        spool.stop();
    }
}

#[test]
fn a_damaged_record_leaves_an_empty_one_in_its_place_so_the_rest_can_be_settled() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let (spool, _) = open(dir.path());
    fill(&spool, 0..3);
    spool.stop();
    drop(spool);
    let file = dir.path().join(format!("{:020}.seg", segments(dir.path())[0]));
    let mut bytes = std::fs::read(&file).expect("readable");
    let mut frames = frame::Frames::new(&bytes[16..]);
    let third_end = (0..3).filter_map(|_| frames.next().map(|_| frames.at)).last().expect("three frames");
    // Byte 40 of the fourth frame: the record of the second request.
    bytes[16 + third_end + 40] ^= 1;
    std::fs::write(&file, &bytes).expect("written");
    let (spool, recovered) = open(dir.path());
    assert!(recovered.damaged_bytes > 0);
    let records = read_all(&spool, 0);
    assert_eq!(sequences(&records), [1, 2, 3, 4]);
    assert_eq!((records[1].outcome, records[1].held_micros), (Outcome::Interrupted, Micros(0)));
    let nobody = (TenantId::from_uuid(Uuid::nil()), ProjectId::from_uuid(Uuid::nil()));
    assert_eq!((records[1].tenant_id, records[1].project_id), nobody, "not the owner of the record after it");
    assert_eq!(records[2].tenant_id, hold(2).tenant_id);
    assert_eq!(records[3].request_id, hold(1).request_id, "its hold has lost its record and is interrupted");
    assert_eq!(records[3].tenant_id, hold(1).tenant_id, "under its own owner");
}

#[test]
fn a_ledger_older_than_the_spool_is_refused_with_the_numbers() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let (spool, _) = open(dir.path());
    fill(&spool, 0..100);
    spool.acknowledge(100);
    spool.stop();
    drop(spool);
    let refused = Spool::open(dir.path(), SMALL, 3, &BTreeMap::new(), now())
        .expect_err("records 4 and on are gone from the spool");
    assert!(matches!(refused, SpoolError::LedgerBehind { settled: 3, .. }), "{refused}");
}

#[test]
fn a_spool_older_than_its_ledger_takes_no_number_twice() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let (spool, _) = open(dir.path());
    fill(&spool, 0..2);
    spool.stop();
    drop(spool);
    let (spool, _) = Spool::open(dir.path(), SMALL, 40, &BTreeMap::new(), now()).expect("opens");
    fill(&spool, 2..3);
    assert_eq!(sequences(&read_all(&spool, 40)), [41]);
}

#[test]
fn a_segment_that_cannot_be_removed_keeps_the_younger_ones_until_it_can() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let (spool, _) = open(dir.path());
    fill(&spool, 0..100);
    let before = segments(dir.path());
    let (oldest, aside) = (dir.path().join(format!("{:020}.seg", before[0])), dir.path().join("aside"));
    std::fs::rename(&oldest, &aside).expect("renamed");
    // A directory is not removed as a file is.
    std::fs::create_dir(&oldest).expect("made");
    spool.acknowledge(100);
    assert_eq!(segments(dir.path()), before, "no younger one went before the oldest");
    std::fs::remove_dir(&oldest).expect("removed");
    std::fs::rename(&aside, &oldest).expect("renamed back");
    spool.acknowledge(100);
    assert_eq!(segments(dir.path()), [*before.last().expect("some")], "tried again");
}

#[test]
fn a_segment_that_could_not_be_synced_at_its_end_is_the_last() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let (spool, _) = open(dir.path());
    fill(&spool, 0..2);
    {
        let mut log = spool.lock();
        // A pipe cannot be synced.
        let (_reader, writer) = std::io::pipe().expect("a pipe");
        let pipe = std::fs::File::from(std::os::fd::OwnedFd::from(writer));
        let good = std::mem::replace(&mut log.active.file, Arc::new(pipe));
        assert!(log.rotate(dir.path()).is_err());
        log.active.file = good;
        assert!(log.rotate(dir.path()).is_err(), "a second try does not claim that the first data is there");
    }
    assert_eq!(segments(dir.path()).len(), 1);
    assert!(!spool.sync(), "nor does the sync thread");
    assert_eq!(spool.admit(hold(2)), Err(SpoolFull::Disk));
}

#[test]
fn the_hold_of_a_record_that_waits_for_the_disk_is_not_removed() {
    let dir = tempfile::tempdir().expect("temporary directory");
    {
        let (spool, _) = open(dir.path());
        spool.admit(hold(9_999)).expect("there is room");
        fill(&spool, 0..100);
        // A file opened for reading refuses every write.
        let read_only = std::fs::File::open(dir.path().join("SOURCE")).expect("exists");
        spool.lock().active.file = Arc::new(read_only);
        spool.settle(hold(9_999).unsettled(now()));
        spool.acknowledge(100);
        spool.stop();
    }
    let (_, recovered) = Spool::open(dir.path(), SMALL, 100, &BTreeMap::new(), now()).expect("opens again");
    assert_eq!(recovered.unsettled.last().map(|record| record.request_id), Some(hold(9_999).request_id));
    assert_eq!(recovered.interrupted, 1, "the hold was found again");
}

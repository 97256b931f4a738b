//! The shipper: reads synced records in order and offers them in batches until somebody has settled them.
//!
//! What was written just now is still in memory and is not read again; what is not, because nobody took it for too long or
//! an earlier process wrote it, is read from the file.
//! After a restart everything still on disk above the ledger's watermark is sent again; the ledger knows what it has.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use galerne_model::ids::{EndpointId, KeyId, PrincipalId, ProjectId, RequestId, TenantId};
use galerne_model::ledger::{EnergyMethod, Outcome, Quantities, UsageRecord};
use galerne_model::limits;
use galerne_model::units::Micros;
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::frame::{Entry, FRAME_MAX_BYTES, Frames};
use super::{Position, Spool, segment};

/// Bytes read at once; holds two full batches.
const READ_MAX_BYTES: u64 = 8 * 1024 * 1024;
/// Time given to the ledger for one batch; a batch that took longer is sent again and found to be there already.
const ACK_DEADLINE: Duration = Duration::from_secs(30);
/// Pause after a batch that was not taken.
const RETRY_INTERVAL: Duration = Duration::from_secs(1);

/// Usage records in order, for the ledger.
#[derive(Debug)]
pub struct UsageBatch {
    /// At most [`limits::SETTLE_BATCH_MAX`], sequences without a gap.
    pub records: Vec<UsageRecord>,
    /// Tells the spool the last sequence that is settled durably. Dropped without a word, the batch is sent again.
    pub ack: oneshot::Sender<i64>,
}

/// Where the shipper reads next.
#[derive(Debug, Clone, Copy)]
pub(super) struct Cursor {
    at: Position,
    /// Sequence of the next record to ship.
    expected: i64,
}

/// Ships until `stop`, then once more what is left, as long as it is taken at once.
pub(crate) async fn ship(spool: Arc<Spool>, settled: i64, batches: mpsc::Sender<UsageBatch>, stop: CancellationToken) {
    // What the last process left is there before anything is written, so no sync will announce it.
    let mut cursor = ship_what_is_there(&spool, spool.first_cursor(settled), &batches, &stop).await;
    let mut stopping = false;
    while !stopping {
        let tick = Instant::now() + Duration::from_millis(limits::SHIP_INTERVAL_MS);
        tokio::select! {
            () = stop.cancelled() => stopping = true,
            () = async { spool.synced.notified().await; tokio::time::sleep_until(tick).await } => {}
        }
        if stopping {
            let spool = Arc::clone(&spool);
            blocking(move || spool.sync()).await;
        }
        cursor = ship_what_is_there(&spool, cursor, &batches, &stop).await;
    }
}

async fn ship_what_is_there(
    spool: &Arc<Spool>,
    mut cursor: Cursor,
    batches: &mpsc::Sender<UsageBatch>,
    stop: &CancellationToken,
) -> Cursor {
    loop {
        let reader = Arc::clone(spool);
        let (next, records) = match blocking(move || reader.read_batch(cursor)).await {
            Some(Ok(read)) => read,
            Some(Err(error)) => {
                tracing::error!(%error, "spool could not be read; its records wait");
                return cursor;
            }
            None => return cursor,
        };
        if records.is_empty() {
            return next;
        }
        if let Some(through) = offer(records, batches).await {
            cursor = next;
            let spool = Arc::clone(spool);
            blocking(move || spool.acknowledge(through)).await;
        } else if stop.is_cancelled() {
            // What is left is on disk, and the next start sends it.
            return cursor;
        } else {
            tracing::warn!("ledger did not take a batch of usage records; it is sent again");
            tokio::time::sleep(RETRY_INTERVAL).await;
        }
    }
}

async fn offer(records: Vec<UsageRecord>, batches: &mpsc::Sender<UsageBatch>) -> Option<i64> {
    let last = records.last()?.sequence;
    let (ack, settled) = oneshot::channel();
    let batch = UsageBatch { records, ack };
    timeout(ACK_DEADLINE, batches.send(batch)).await.ok()?.ok()?;
    let through = timeout(ACK_DEADLINE, settled).await.ok()?.ok()?;
    (through >= last).then_some(through)
}

/// Runs file work off the async threads; nothing when the runtime is shutting down.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Option<T> {
    tokio::task::spawn_blocking(work).await.ok()
}

impl Spool {
    /// The oldest record on disk; records up to `settled` are passed over.
    pub(super) fn first_cursor(&self, settled: i64) -> Cursor {
        let log = self.lock();
        let segment = log.sealed.front().map_or(log.active.number, |oldest| oldest.number);
        Cursor { at: Position { segment, offset: segment::HEAD_BYTES }, expected: settled + 1 }
    }

    /// Reads at most one batch of synced records.
    pub(super) fn read_batch(&self, mut cursor: Cursor) -> io::Result<(Cursor, Vec<UsageRecord>)> {
        let mut records = self.recent(&mut cursor);
        if !records.is_empty() {
            return Ok((cursor, records));
        }
        while records.len() < limits::SETTLE_BATCH_MAX {
            let Some(end) = self.readable_end(&mut cursor.at) else { break };
            let length = (end - cursor.at.offset).min(READ_MAX_BYTES);
            let whole = cursor.at.offset + length == end;
            let size = usize::try_from(length).expect("at most READ_MAX_BYTES");
            let bytes = segment::read_part(&self.dir, cursor.at.segment, cursor.at.offset, size)?;
            let mut frames = Frames::new(&bytes);
            while records.len() < limits::SETTLE_BATCH_MAX {
                match frames.next() {
                    Some(Entry::Usage(record)) => self.take(*record, &mut cursor, &mut records),
                    Some(Entry::Hold(_)) => {}
                    None => break,
                }
            }
            let full = records.len() >= limits::SETTLE_BATCH_MAX;
            // A frame cut by the read's end is read again; an unreadable end of a segment is passed over.
            let skip = !full && (whole || frames.at + FRAME_MAX_BYTES < bytes.len());
            cursor.at.offset += if skip { length } else { frames.at as u64 };
        }
        Ok((cursor, records))
    }

    /// At most one batch of synced records from memory; none when the next one is not there.
    fn recent(&self, cursor: &mut Cursor) -> Vec<UsageRecord> {
        let mut log = self.lock();
        let synced = log.synced;
        while log.recent.pop_front_if(|(_, record)| record.sequence < cursor.expected).is_some() {}
        let mut records = Vec::new();
        while records.len() < limits::SETTLE_BATCH_MAX {
            let is_next =
                |(end, record): &mut (Position, UsageRecord)| record.sequence == cursor.expected && *end <= synced;
            let Some((end, record)) = log.recent.pop_front_if(is_next) else { break };
            *cursor = Cursor { at: end, expected: record.sequence + 1 };
            records.push(record);
        }
        records
    }

    /// Moves to the next segment where one ends; the end of what may be read there, or nothing when all was read.
    fn readable_end(&self, at: &mut Position) -> Option<u64> {
        let log = self.lock();
        loop {
            if at.segment >= log.synced.segment {
                let synced = log.synced;
                return (at.segment == synced.segment && at.offset < synced.offset).then_some(synced.offset);
            }
            match log.sealed.iter().find(|sealed| sealed.number == at.segment) {
                Some(sealed) if at.offset < sealed.end => return Some(sealed.end),
                _ => *at = Position { segment: at.segment + 1, offset: segment::HEAD_BYTES },
            }
        }
    }

    /// Adds `record`, and before it one empty record for each sequence that damage took: the ledger accepts no gap.
    fn take(&self, mut record: UsageRecord, cursor: &mut Cursor, records: &mut Vec<UsageRecord>) {
        record.source = self.source;
        if record.sequence < cursor.expected {
            return;
        }
        while cursor.expected < record.sequence {
            let sequence = cursor.expected;
            tracing::error!(
                sequence,
                "usage record was lost by damage to the spool; an empty one, of no tenant, takes its place"
            );
            records.push(stand_in(&record, sequence));
            cursor.expected += 1;
        }
        cursor.expected += 1;
        records.push(record);
    }
}

/// The empty record in place of a lost one, from the time of the one after it.
///
/// Whose the lost one was is not known, so it is nobody's: all its ids are nil. Its request is not lost with it: the hold
/// that stays without a record is ended under its own owner when the spool is opened.
fn stand_in(after: &UsageRecord, sequence: i64) -> UsageRecord {
    let nobody = Uuid::nil();
    UsageRecord {
        source: after.source,
        sequence,
        request_id: RequestId::from_uuid(Uuid::now_v7()),
        started_at: after.started_at,
        ended_at: after.started_at,
        tenant_id: TenantId::from_uuid(nobody),
        project_id: ProjectId::from_uuid(nobody),
        principal_id: PrincipalId::from_uuid(nobody),
        key_id: KeyId::from_uuid(nobody),
        endpoint_id: EndpointId::from_uuid(nobody),
        replica_id: None,
        operation: after.operation,
        outcome: Outcome::Interrupted,
        http_status: 0,
        held_micros: Micros::ZERO,
        quantities: Quantities::default(),
        energy_method: EnergyMethod::Unknown,
        price_book_id: None,
        first_token_micros: None,
        work: None,
        batch: None,
        terms: None,
    }
}

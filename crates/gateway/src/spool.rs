//! The usage spool: what was used, on disk before the answer's last byte, counted once, also across kill -9 and power loss.
//!
//! A request writes a hold when it is admitted and a usage record when it ends. A hold without a record, found at start,
//! becomes an `Interrupted` record. Records are shipped in order and their segments deleted once they are in the ledger.
//!
//! INVARIANT: sequences are assigned under one lock, in file order, without gaps.
//! INVARIANT: a record is shipped only after it was synced, so the ledger never holds a sequence that a power loss takes back.
//! INVARIANT: a segment is deleted only after every older one, so no hold is found whose record was deleted.
//! INVARIANT: space for the record of every open hold is reserved at admission; a full disk stops admission, not settlement.
//! Deliberately absent: SQL, prices, HTTP.

mod frame;
#[cfg(feature = "fuzz")]
pub(crate) mod fuzz;
mod recover;
mod segment;
mod ship;
mod source;
mod sync;

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use galerne_model::ids::RequestId;
use galerne_model::ledger::UsageRecord;
use galerne_model::limits;
use jiff::Timestamp;
use tokio::sync::Notify;

use frame::FRAME_MAX_BYTES;
use segment::Segment;

pub use frame::Hold;
pub use ship::UsageBatch;
pub(crate) use ship::ship;

/// Size of a segment: at 1.2 kB per request about 7 000 requests, so that deleting acknowledged ones keeps pace.
const SEGMENT_BYTES: u64 = 8 * 1024 * 1024;

/// Records kept in memory for the shipper, a few hundred bytes each. When nobody takes that many it reads them from the file.
const RECENT_MAX: usize = 4_096;

/// Frames of room kept beyond the promised ones: the end of a segment wastes less than one, a carried hold takes one.
const SLACK_FRAMES: u64 = 4;

/// Why the spool cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum SpoolError {
    /// The directory or a file in it failed.
    #[error("the usage spool in `{dir}` cannot be used: {doing} failed")]
    Io {
        /// Where.
        dir: PathBuf,
        /// At which step.
        doing: &'static str,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The ledger has not settled records that this spool has already deleted as settled: it is an older copy.
    #[error(
        "the ledger has settled this spool up to record {settled}, but the spool in `{dir}` begins at record {first}: the ledger is an older copy; hint: move `{dir}` away to go on without the records between"
    )]
    LedgerBehind {
        /// Where.
        dir: PathBuf,
        /// The ledger's watermark.
        settled: i64,
        /// First record of the spool.
        first: i64,
    },
}

/// Why no request can be admitted now.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SpoolFull {
    /// Nobody has taken records for too long.
    #[error("the usage spool holds {held_bytes} bytes of records that the ledger has not taken yet")]
    Limit {
        /// Bytes on disk.
        held_bytes: u64,
    },
    /// The disk has no room, or fails.
    #[error("the disk of the usage spool is full or failing")]
    Disk,
}

/// Sizes of a spool.
#[derive(Debug, Clone, Copy)]
pub struct SpoolLimits {
    /// Bytes kept when nobody takes records; past it admission stops.
    pub max_bytes: u64,
    /// Bytes of one segment.
    pub segment_bytes: u64,
}

impl Default for SpoolLimits {
    fn default() -> Self {
        Self { max_bytes: limits::SPOOL_MAX_BYTES, segment_bytes: SEGMENT_BYTES }
    }
}

/// A spool open for writing; one per directory and process.
#[derive(Debug)]
pub struct Spool {
    dir: PathBuf,
    source: i64,
    limits: SpoolLimits,
    log: Mutex<Log>,
    /// One sync at a time: a second one must not call durable what the first has not finished.
    syncing: Mutex<()>,
    /// Wakes the sync thread.
    dirty: Condvar,
    /// Wakes the shipper after a sync.
    synced: Notify,
}

/// What was found when a spool was opened.
#[derive(Debug, Default)]
pub struct Recovered {
    /// Records that the ledger may not have yet, in order; those above its watermark still count against budgets.
    pub unsettled: Vec<UsageRecord>,
    /// Holds without a record, now recorded as interrupted (they are in `unsettled` too).
    pub interrupted: usize,
    /// Bytes of a half-written last frame, cut off.
    pub torn_bytes: usize,
    /// Bytes between whole frames that could not be read, skipped.
    pub damaged_bytes: usize,
}

/// A place in the spool.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Position {
    segment: u64,
    offset: u64,
}

#[derive(Debug)]
struct Log {
    active: Segment,
    spare: Option<File>,
    /// Oldest first.
    sealed: VecDeque<Sealed>,
    open: HashMap<RequestId, Open>,
    next_sequence: i64,
    /// Records that could not be written yet; bounded by the requests in flight, because it stops admission.
    late: VecDeque<UsageRecord>,
    /// The last records that were written, without a gap, each with where its frame ends.
    recent: VecDeque<(Position, UsageRecord)>,
    /// Everything before is on disk for good.
    synced: Position,
    renamed: bool,
    failed: bool,
    stopping: bool,
    /// The sync thread has nothing to do and must be woken.
    idle: bool,
}

/// A segment that will not be written again.
#[derive(Debug, Clone, Copy)]
struct Sealed {
    number: u64,
    /// First sequence of the segment after it.
    next_sequence: i64,
    end: u64,
}

#[derive(Debug)]
struct Open {
    hold: Hold,
    segment: u64,
}

impl Spool {
    /// The number of the spool in `dir`, which is made when absent. The ledger knows the spool by it.
    pub fn source_of(dir: &Path) -> Result<i64, SpoolError> {
        source::read_or_create(dir).map_err(|source| SpoolError::Io {
            dir: dir.into(),
            doing: "reading `SOURCE`",
            source,
        })
    }

    /// Opens the spool in `dir`, ends what a killed process left open, and starts the sync thread.
    ///
    /// `settled` is the ledger's watermark for this spool; `known` are records of requests whose answers are kept although
    /// they were not settled; `now` is when the other interrupted requests are said to have ended.
    pub fn open(
        dir: &Path,
        limits: SpoolLimits,
        settled: i64,
        known: &BTreeMap<RequestId, UsageRecord>,
        now: Timestamp,
    ) -> Result<(Arc<Self>, Recovered), SpoolError> {
        let source = Self::source_of(dir)?;
        let (log, mut recovered) = recover::open(dir, limits, settled)?;
        let spool = Arc::new(Self {
            dir: dir.into(),
            source,
            limits,
            log: Mutex::new(log),
            syncing: Mutex::new(()),
            dirty: Condvar::new(),
            synced: Notify::new(),
        });
        spool.end_open_holds(known, now, &mut recovered);
        for record in &mut recovered.unsettled {
            record.source = source;
        }
        sync::start(&spool).map_err(|source| SpoolError::Io {
            dir: dir.into(),
            doing: "starting its thread",
            source,
        })?;
        Ok((spool, recovered))
    }

    /// The number of this spool.
    pub fn source(&self) -> i64 {
        self.source
    }

    /// Writes the hold of a request that is being admitted and reserves room for its record.
    pub fn admit(&self, hold: Hold) -> Result<(), SpoolFull> {
        let frame = frame::hold_frame(&hold);
        let mut log = self.lock();
        if log.failed || !log.late.is_empty() {
            return Err(SpoolFull::Disk);
        }
        let held_bytes = log.bytes();
        if held_bytes + log.promised(2) > self.limits.max_bytes {
            return Err(SpoolFull::Limit { held_bytes });
        }
        if log.room(self.limits.segment_bytes) < log.promised(2) {
            // The sync thread is behind: a burst used up the spare segment.
            log.ensure_spare(&self.dir, self.limits.segment_bytes).map_err(|_| SpoolFull::Disk)?;
            if log.room(self.limits.segment_bytes) < log.promised(2) {
                return Err(SpoolFull::Disk);
            }
        }
        log.append(&self.dir, self.limits.segment_bytes, &frame).map_err(|error| {
            tracing::error!(%error, "hold could not be written; no request is admitted until the disk has room");
            SpoolFull::Disk
        })?;
        let segment = log.active.number;
        log.open.insert(hold.request_id, Open { hold, segment });
        self.wake(&mut log);
        Ok(())
    }

    /// Writes the record of an admitted request and gives it its sequence. Nothing makes it fail: what the disk does
    /// not take now is kept in memory, in order, and written as soon as it does.
    pub fn settle(&self, mut record: UsageRecord) -> UsageRecord {
        record.source = self.source;
        let mut log = self.lock();
        record.sequence = log.next_sequence;
        log.next_sequence += 1;
        log.open.remove(&record.request_id);
        log.late.push_back(record.clone());
        if let Err(error) = log.write_late(&self.dir, self.limits.segment_bytes) {
            tracing::error!(%error, "usage record could not be written yet; no request is admitted until it is");
        }
        self.wake(&mut log);
        record
    }

    /// Ends every hold that has no record: with the one that is known, else its request was cut by the end of the process.
    fn end_open_holds(&self, known: &BTreeMap<RequestId, UsageRecord>, now: Timestamp, recovered: &mut Recovered) {
        let mut holds: Vec<Hold> = self.lock().open.values().map(|open| open.hold.clone()).collect();
        holds.sort_unstable_by_key(|hold| hold.request_id);
        recovered.interrupted = holds.iter().filter(|hold| !known.contains_key(&hold.request_id)).count();
        let record = |hold: &Hold| {
            let known = known.get(&hold.request_id).cloned();
            known.unwrap_or_else(|| hold.unsettled(now.max(hold.started_at)))
        };
        recovered.unsettled.extend(holds.iter().map(|hold| self.settle(record(hold))));
    }

    /// Removes what the ledger has: whole segments, oldest first. Syncs, so it is not for async threads.
    pub fn acknowledge(&self, through: i64) {
        let mut done = Vec::new();
        {
            let mut log = self.lock();
            if !log.late.is_empty() {
                // Of a request whose record is not written, the disk has only the hold, which is no longer carried.
                return;
            }
            while let Some(next) = log.sealed.get(done.len()).copied() {
                if next.next_sequence > through + 1 || !log.carry_holds(&self.dir, self.limits, next.number) {
                    break;
                }
                done.push(next.number);
            }
        }
        // A carried hold must be durable before its first copy goes, or a power loss would take both.
        if done.is_empty() || !self.sync() {
            return;
        }
        for number in done {
            match segment::remove(&self.dir, number) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    tracing::warn!(%error, number, "settled spool segment could not be removed; it and those after it are kept");
                    return;
                }
                Ok(()) | Err(_) => self.lock().sealed.retain(|sealed| sealed.number != number),
            }
        }
    }

    /// Ends the sync thread after a last sync.
    pub fn stop(&self) {
        self.lock().stopping = true;
        self.dirty.notify_all();
    }

    /// Bytes of records and holds on disk.
    pub fn bytes(&self) -> u64 {
        self.lock().bytes()
    }

    fn wake(&self, log: &mut Log) {
        if std::mem::take(&mut log.idle) {
            self.dirty.notify_one();
        }
    }

    fn lock(&self) -> MutexGuard<'_, Log> {
        // A panic while the lock was held leaves at worst an unwritten frame, which the next append overwrites.
        self.log.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Log {
    fn bytes(&self) -> u64 {
        self.active.end + self.sealed.iter().map(|sealed| sealed.end).sum::<u64>()
    }

    /// Bytes needed if every open request ended now and `more` frames came besides.
    fn promised(&self, more: u64) -> u64 {
        (self.open.len() as u64 + more + SLACK_FRAMES) * FRAME_MAX_BYTES as u64
    }

    /// Bytes that can be written into space already reserved.
    fn room(&self, segment_bytes: u64) -> u64 {
        let spare = if self.spare.is_some() { segment_bytes - segment::HEAD_BYTES } else { 0 };
        segment_bytes.saturating_sub(self.active.end) + spare
    }

    fn append(&mut self, dir: &Path, segment_bytes: u64, frame: &[u8]) -> io::Result<()> {
        if self.active.end + frame.len() as u64 > segment_bytes {
            self.rotate(dir)?;
        }
        self.active.append(frame)
    }

    /// Makes the spare segment when there is none. Under the log's lock, because two makers would make the same file.
    fn ensure_spare(&mut self, dir: &Path, segment_bytes: u64) -> io::Result<()> {
        if self.spare.is_none() {
            self.spare = Some(segment::create_spare(dir, segment_bytes)?);
        }
        Ok(())
    }

    /// Seals the active segment and goes on in the spare one.
    fn rotate(&mut self, dir: &Path) -> io::Result<()> {
        if self.failed {
            return Err(io::Error::other("an earlier sync failed"));
        }
        if self.spare.is_none() {
            return Err(io::ErrorKind::StorageFull.into());
        }
        // A few milliseconds once per segment: if the next one had data while this one's end was not on disk, a power
        // loss would leave a gap in the sequences. The sync thread has already taken all but the last 50 ms of it.
        if let Err(error) = self.active.file.sync_data() {
            // As in `Spool::sync`: another try would claim what is not true.
            self.failed = true;
            tracing::error!(%error, "spool segment could not be synced; no request is admitted until the next start");
            return Err(error);
        }
        let spare = self.spare.take().expect("looked at above, under the same lock");
        let next = Segment::begin(dir, spare, self.active.number + 1, self.unwritten_sequence())?;
        self.sealed.push_back(Sealed {
            number: self.active.number,
            next_sequence: next.first_sequence,
            end: self.active.end,
        });
        self.synced = Position { segment: next.number, offset: 0 };
        self.active = next;
        self.renamed = true;
        Ok(())
    }

    /// Sequence of the next record that goes to the file.
    fn unwritten_sequence(&self) -> i64 {
        self.late.front().map_or(self.next_sequence, |record| record.sequence)
    }

    fn write_late(&mut self, dir: &Path, segment_bytes: u64) -> io::Result<()> {
        while let Some(record) = self.late.front() {
            let frame = frame::usage_frame(record);
            self.append(dir, segment_bytes, &frame)?;
            let written = self.late.pop_front();
            let end = Position { segment: self.active.number, offset: self.active.end };
            if self.recent.len() >= RECENT_MAX {
                self.recent.clear();
            }
            self.recent.extend(written.map(|record| (end, record)));
        }
        Ok(())
    }

    /// Copies the open holds of segment `number` into the active one, so that a long request does not pin old segments.
    fn carry_holds(&mut self, dir: &Path, limits: SpoolLimits, number: u64) -> bool {
        let held: Vec<RequestId> =
            self.open.iter().filter(|(_, open)| open.segment == number).map(|(&id, _)| id).collect();
        for id in held {
            let Some(open) = self.open.get(&id) else { continue };
            let frame = frame::hold_frame(&open.hold);
            if self.room(limits.segment_bytes) < self.promised(2) {
                return false;
            }
            if let Err(error) = self.append(dir, limits.segment_bytes, &frame) {
                tracing::warn!(%error, "open hold could not be carried to a new spool segment");
                return false;
            }
            let segment = self.active.number;
            if let Some(open) = self.open.get_mut(&id) {
                open.segment = segment;
            }
        }
        true
    }
}

#[cfg(test)]
mod tests;

//! Opening a spool: read every segment, cut a torn tail, find holds without a record.

use std::collections::{HashMap, VecDeque};
use std::io;
use std::path::Path;

use super::frame::{Entry, Frames};
use super::segment::{self, HEAD_BYTES, Segment};
use super::{Log, Open, Position, Recovered, Sealed, SpoolError, SpoolLimits};

/// What reading the segments has found so far.
pub(super) struct Scan {
    pub(super) recovered: Recovered,
    pub(super) open: HashMap<galerne_model::ids::RequestId, Open>,
    sealed: VecDeque<Sealed>,
    next_sequence: i64,
    first_sequence: Option<i64>,
}

/// Reads the spool in `dir` and makes it ready for writing.
pub(super) fn open(dir: &Path, limits: SpoolLimits, settled: i64) -> Result<(Log, Recovered), SpoolError> {
    let failed = |doing: &'static str| move |source: io::Error| SpoolError::Io { dir: dir.into(), doing, source };
    let mut scan = scan(dir).map_err(failed("reading its segments"))?;
    scan.check_watermark(dir, settled)?;
    let active = match scan.sealed.pop_back() {
        Some(last) => {
            let first = scan.first_of_last(last);
            Segment::resume(dir, last.number, first, last.end, limits.segment_bytes)
        }
        None => segment::create_spare(dir, limits.segment_bytes)
            .and_then(|spare| Segment::begin(dir, spare, 1, scan.next_sequence)),
    }
    .map_err(failed("preparing a segment for writing"))?;
    let spare = segment::create_spare(dir, limits.segment_bytes).map_err(failed("reserving space for a segment"))?;
    segment::sync_dir(dir).map_err(failed("syncing the directory"))?;
    active.file.sync_data().map_err(failed("syncing a segment"))?;
    let synced = Position { segment: active.number, offset: active.end };
    let log = Log {
        active,
        spare: Some(spare),
        sealed: scan.sealed,
        open: scan.open,
        next_sequence: scan.next_sequence,
        late: VecDeque::new(),
        recent: VecDeque::new(),
        synced,
        renamed: false,
        failed: false,
        stopping: false,
        idle: false,
    };
    Ok((log, scan.recovered))
}

/// Reads every segment and changes nothing.
pub(super) fn scan(dir: &Path) -> io::Result<Scan> {
    let mut scan = Scan {
        recovered: Recovered::default(),
        open: HashMap::new(),
        sealed: VecDeque::new(),
        next_sequence: 1,
        first_sequence: None,
    };
    for number in segment::list(dir)? {
        scan.segment(dir, number)?;
    }
    Ok(scan)
}

impl Scan {
    fn segment(&mut self, dir: &Path, number: u64) -> io::Result<()> {
        let (first, bytes) = segment::read(dir, number)?;
        if let Some(first) = first {
            self.first_sequence.get_or_insert(first);
            self.next_sequence = self.next_sequence.max(first);
        }
        // The torn end of the segment before this one turned out to be inside the spool: it is damage.
        self.recovered.damaged_bytes += std::mem::take(&mut self.recovered.torn_bytes);
        let mut frames = Frames::new(&bytes);
        for entry in frames.by_ref() {
            match entry {
                Entry::Hold(hold) => {
                    self.open.insert(hold.request_id, Open { hold: *hold, segment: number });
                }
                Entry::Usage(record) => {
                    self.open.remove(&record.request_id);
                    self.next_sequence = self.next_sequence.max(record.sequence + 1);
                    self.recovered.unsettled.push(*record);
                }
            }
        }
        self.recovered.damaged_bytes += frames.damaged;
        self.recovered.torn_bytes = frames.torn();
        let end = HEAD_BYTES + frames.at as u64;
        self.sealed.push_back(Sealed { number, next_sequence: self.next_sequence, end });
        Ok(())
    }

    fn check_watermark(&mut self, dir: &Path, settled: i64) -> Result<(), SpoolError> {
        let first = self.first_sequence.unwrap_or(1);
        if first > settled + 1 {
            return Err(SpoolError::LedgerBehind { dir: dir.into(), settled, first });
        }
        // A spool older than its ledger (an old copy of the directory): its numbers up to the watermark are taken.
        self.next_sequence = self.next_sequence.max(settled + 1);
        self.recovered.unsettled.retain(|record| record.sequence > settled);
        Ok(())
    }

    fn first_of_last(&self, last: Sealed) -> i64 {
        self.sealed
            .back()
            .map_or_else(|| self.first_sequence.unwrap_or(1), |before| before.next_sequence)
            .min(last.next_sequence)
    }
}

//! A batch that runs: which of its lines are done, which are to be tried again, what is not kept yet.

use std::time::Duration;

use bytes::Bytes;
use galerne_drivers::objects::ObjectError;
use galerne_gateway::{Done, Unsettled};
use galerne_model::batch::{Batch, BatchEnd, BatchState, Fault};
use galerne_model::event::{Actor, Decision, Event};
use galerne_model::ids::{BatchId, EventId};
use galerne_store::{Segment, StoreError};
use tokio::time::Instant;
use uuid::Uuid;

use super::finish::UNWRITTEN;
use super::input::{Index, Stretch};
use super::lines;
use crate::app::App;

/// Answers that are kept together.
const SEGMENT_LINES: usize = 64;
/// The same in bytes.
const SEGMENT_BYTES: usize = 1024 * 1024;
/// Longest time an answer waits to be kept: until then its hold stands and a crash makes it again.
const SEGMENT_AGE: Duration = Duration::from_millis(500);

/// How often another reason is written where nothing else is.
const REASON_INTERVAL: Duration = Duration::from_secs(5);
/// Failures in a row to write a batch's files before its reason says so.
const FAILURES_TOLD: u32 = 3;
/// Why a batch is as it is when nothing is in its way.
const RUNS: &str = "its requests run when there is room";

/// What an answer in a segment begins with.
pub(super) const ANSWER: u8 = b'A';
/// What a refusal in a segment begins with.
const REFUSAL: u8 = b'E';

/// A request that came to an end.
pub(super) struct Ended {
    pub(super) batch_id: BatchId,
    pub(super) line: usize,
    pub(super) custom_id: Option<String>,
    pub(super) failures: u32,
    pub(super) done: Done,
}

/// A line that is tried again.
#[derive(Debug, Clone, Copy)]
struct Waiting {
    line: usize,
    failures: u32,
    due: Instant,
}

/// An answer or refusal that is not kept yet.
struct Unkept {
    line: usize,
    text: Vec<u8>,
    unsettled: Option<Unsettled>,
}

/// Why answers could not be kept.
#[derive(Debug, thiserror::Error)]
pub(super) enum NotKept {
    #[error("the storage of files failed")]
    Objects(#[from] ObjectError),
    #[error("the database failed")]
    Store(#[from] StoreError),
}

/// A batch that runs.
pub(super) struct Live {
    pub(super) batch: Batch,
    pub(super) index: Option<Index>,
    pub(super) is_scanning: bool,
    pub(super) in_flight: u32,
    /// Why its key may not be used, as a request of it was told.
    pub(super) stopped: Option<String>,
    /// Why it does not go on, for whoever asks.
    pub(super) reason: Option<String>,
    /// Nothing is tried before.
    pub(super) rests_until: Option<Instant>,
    /// Times in a row that its files could not be written.
    pub(super) finish_failures: u32,
    /// Its lines cannot be read any more.
    is_input_gone: bool,
    stretch: Stretch,
    done: Vec<bool>,
    done_count: usize,
    next: usize,
    waiting: Vec<Waiting>,
    unkept: Vec<Unkept>,
    unkept_since: Option<Instant>,
    segment: i64,
    /// The segment of which it is not known whether it is recorded: it has the first of the lines in `unkept`.
    tried: Option<Segment>,
    /// Lines of segments that an earlier process wrote.
    recalled: Vec<u64>,
    paused_until: Option<Instant>,
    written_reason: String,
    written_at: Instant,
}

impl Live {
    pub(super) fn new(batch: Batch) -> Self {
        let written_reason = batch.status.reason.clone();
        Self {
            batch,
            index: None,
            is_scanning: false,
            in_flight: 0,
            stopped: None,
            reason: None,
            rests_until: None,
            finish_failures: 0,
            is_input_gone: false,
            stretch: Stretch::default(),
            done: Vec::new(),
            done_count: 0,
            next: 0,
            waiting: Vec::new(),
            unkept: Vec::new(),
            unkept_since: None,
            segment: 0,
            tried: None,
            recalled: Vec::new(),
            paused_until: None,
            written_reason,
            written_at: Instant::now(),
        }
    }

    /// Learns what an earlier process kept.
    pub(super) fn recall(&mut self, segments: Vec<Segment>) {
        self.segment = segments.last().map_or(0, |segment| segment.number);
        self.recalled = segments.into_iter().flat_map(|segment| segment.lines).collect();
    }

    pub(super) fn take_index(&mut self, index: Index) {
        self.mark_recalled(index.len());
        self.index = Some(index);
    }

    /// Marks what an earlier process kept, of so many lines.
    fn mark_recalled(&mut self, count: usize) {
        self.done = vec![false; count];
        self.done_count = 0;
        for line in std::mem::take(&mut self.recalled) {
            if let Some(done) = usize::try_from(line).ok().and_then(|line| self.done.get_mut(line))
                && !std::mem::replace(done, true)
            {
                self.done_count += 1;
            }
        }
    }

    /// An input of it is gone: no more requests are made, and the rest is told without their names.
    pub(super) fn lose_input(&mut self) {
        if self.is_input_gone {
            return;
        }
        tracing::error!(batch_id = %self.batch.id, "an input of a batch that has not ended is gone");
        self.is_input_gone = true;
        if self.index.is_none() {
            self.mark_recalled(usize::try_from(self.batch.status.counts.total).unwrap_or(usize::MAX));
        }
        if self.batch.status.state != BatchState::Ending {
            self.fail(vec![super::engine::fault(
                "input_file_gone",
                "The input file cannot be read any more.".to_owned(),
            )]);
        }
    }

    /// Its lines are good.
    pub(super) fn begin(&mut self, index: Index, count: u64, model: String) {
        self.take_index(index);
        self.batch.model = Some(model);
        let status = &mut self.batch.status;
        status.state = BatchState::Running;
        status.counts.total = count;
        status.begun_at = Some(App::now());
        status.reason = RUNS.to_owned();
        self.written_reason.clear();
    }

    /// Its lines are not good, or are gone: it ends as it is.
    pub(super) fn fail(&mut self, faults: Vec<Fault>) {
        let status = &mut self.batch.status;
        status.reason = faults.first().map_or_else(String::new, |fault| match fault.line {
            Some(line) => format!("line {line}: {}", fault.message),
            None => fault.message.clone(),
        });
        status.faults = faults;
        status.state = BatchState::Ending;
        status.end = Some(BatchEnd::Failed);
        status.ending_at = Some(App::now());
        self.waiting.clear();
    }

    /// No more requests are started.
    pub(super) async fn end(&mut self, app: &App, end: BatchEnd, reason: String) -> Result<(), StoreError> {
        let mut batch = self.batch.clone();
        let status = &mut batch.status;
        status.state = BatchState::Ending;
        status.end = Some(end);
        status.ending_at = Some(App::now());
        if end == BatchEnd::Stopped {
            status.faults.push(super::engine::fault("key_refused", reason.clone()));
        }
        status.reason = reason;
        let mut tx = app.begin_alone().await?;
        tx.batch_update(&batch).await?;
        tx.commit().await?;
        self.batch = batch;
        self.waiting.clear();
        Ok(())
    }

    /// Says that its files could not be written, once it is no passing trouble: why it ends stays said before it.
    pub(super) async fn tell_unwritten(&mut self, app: &App, error: &NotKept) -> Result<(), StoreError> {
        self.finish_failures = self.finish_failures.saturating_add(1);
        if self.finish_failures != FAILURES_TOLD {
            return Ok(());
        }
        let mut batch = self.batch.clone();
        let why = batch.status.reason.split_once(UNWRITTEN).map_or(batch.status.reason.as_str(), |(why, _)| why);
        batch.status.reason = format!("{why}{UNWRITTEN}{error}, and they are tried again");
        let mut tx = app.begin_alone().await?;
        tx.batch_update(&batch).await?;
        tx.commit().await?;
        self.batch = batch;
        Ok(())
    }

    /// Says why it does not go on. The next answers that are kept say something else.
    pub(super) async fn tell(&mut self, app: &App, reason: String) -> Result<(), StoreError> {
        // Why it ends is not to be forgotten.
        if self.batch.status.reason == reason || self.batch.status.state != BatchState::Running {
            return Ok(());
        }
        let mut batch = self.batch.clone();
        batch.status.reason = reason;
        let mut tx = app.begin_alone().await?;
        tx.batch_update(&batch).await?;
        tx.commit().await?;
        self.batch = batch;
        Ok(())
    }

    /// Whether it must be known where its lines are.
    pub(super) fn needs_index(&self) -> bool {
        self.index.is_none() && !self.is_input_gone && self.batch.status.begun_at.is_some()
    }

    /// How many lines it has.
    pub(super) fn line_count(&self) -> usize {
        self.done.len()
    }

    /// Lines that are neither done nor in flight.
    pub(super) fn left(&self) -> u64 {
        let in_flight = usize::try_from(self.in_flight).unwrap_or(usize::MAX);
        let over = self.done.len().saturating_sub(self.done_count).saturating_sub(in_flight);
        over as u64
    }

    /// Whether a line is done.
    pub(super) fn is_done(&self, line: usize) -> bool {
        self.done.get(line).copied().unwrap_or(false)
    }

    /// Whether a request of it could be started.
    pub(super) fn is_ready(&self, now: Instant) -> bool {
        let is_over = |at: Option<Instant>| at.is_none_or(|at| at <= now);
        self.batch.status.state == BatchState::Running
            && self.index.is_some()
            && self.stopped.is_none()
            && is_over(self.paused_until)
            && is_over(self.rests_until)
            && (self.next < self.done.len() || self.waiting.iter().any(|waiting| waiting.due <= now))
    }

    /// The line whose turn it is, and at how many replicas it has failed.
    pub(super) fn next_line(&mut self, now: Instant) -> Option<(usize, u32)> {
        if let Some(at) = self.waiting.iter().position(|waiting| waiting.due <= now) {
            let waiting = self.waiting.swap_remove(at);
            return Some((waiting.line, waiting.failures));
        }
        while self.next < self.done.len() {
            let line = self.next;
            self.next += 1;
            if !self.done[line] {
                return Some((line, 0));
            }
        }
        None
    }

    pub(super) async fn text(&mut self, app: &App, line: usize) -> Result<Bytes, ObjectError> {
        match &self.index {
            Some(index) if !self.is_input_gone => index.line(&app.files().objects, &mut self.stretch, line).await,
            Some(_) | None => Ok(Bytes::new()),
        }
    }

    pub(super) fn put_back(&mut self, line: usize, failures: u32, wait: Duration) {
        self.waiting.push(Waiting { line, failures, due: Instant::now() + wait });
    }

    /// Something is in the way of all its requests.
    pub(super) fn later(&mut self, ended: &Ended, wait: Duration) {
        self.put_back(ended.line, ended.failures, wait);
        self.paused_until = Some(Instant::now() + wait);
    }

    /// A replica failed at this request.
    pub(super) fn again(&mut self, ended: &Ended, wait: Duration) {
        self.put_back(ended.line, ended.failures + 1, wait);
    }

    /// An answer or refusal that is to be kept.
    pub(super) fn keep(&mut self, ended: Ended) {
        let Ended { line, custom_id, done, .. } = ended;
        let id = request_name(self.batch.id, line);
        let request_id = done.request_id.to_string();
        let mut text = vec![if done.unsettled.is_some() { ANSWER } else { REFUSAL }];
        text.extend(lines::told(&id, custom_id.as_deref(), done.status, &request_id, &done.body));
        if let Some(slot) = self.done.get_mut(line)
            && !std::mem::replace(slot, true)
        {
            self.done_count += 1;
            self.unkept_since.get_or_insert_with(Instant::now);
            self.unkept.push(Unkept { line, text, unsettled: done.unsettled });
        }
    }

    pub(super) fn has_unkept(&self) -> bool {
        !self.unkept.is_empty()
    }

    /// Whether there is something to be written.
    pub(super) fn is_flush_due(&self, at_once: bool) -> bool {
        let is_old = self.unkept_since.is_some_and(|since| since.elapsed() >= SEGMENT_AGE);
        let is_large = self.unkept.len() >= SEGMENT_LINES
            || self.unkept.iter().map(|unkept| unkept.text.len()).sum::<usize>() >= SEGMENT_BYTES;
        let is_last = self.in_flight == 0 && (self.left() == 0 || self.batch.status.state == BatchState::Ending);
        let is_begun = self.batch.status.state == BatchState::Running && self.written_reason.is_empty();
        let is_news = self.reason.as_ref().is_some_and(|reason| *reason != self.written_reason)
            && self.written_at.elapsed() >= REASON_INTERVAL;
        is_news || (self.has_unkept() && (at_once || is_old || is_large || is_last)) || is_begun
    }

    /// Makes answers and their usage records durable, then lets them count. What is not written stays to be written: the
    /// same lines in the same object, for a change whose answer was lost may be recorded. What came later waits its turn.
    pub(super) async fn flush(&mut self, app: &App) -> Result<(), NotKept> {
        let was_tried = self.tried.is_some();
        let segment = self.segment(app).await?;
        let count = segment.as_ref().map_or(0, |segment| segment.lines.len());
        let mut batch = self.batch.clone();
        if batch.status.state == BatchState::Running {
            batch.status.reason = self.reason.take().unwrap_or_else(|| RUNS.to_owned());
        }
        let mut records = Vec::new();
        for unkept in self.unkept.iter_mut().take(count) {
            match &mut unkept.unsettled {
                Some(unsettled) => {
                    let number = |count: i64| count.unsigned_abs();
                    let (prompt, cached, completion) = unsettled.tokens();
                    batch.status.counts.completed += 1;
                    batch.status.tokens.prompt += number(prompt);
                    batch.status.tokens.cached += number(cached);
                    batch.status.tokens.completion += number(completion);
                    records.push(unsettled.record());
                }
                None => batch.status.counts.failed += 1,
            }
        }
        let mut tx = app.begin_alone().await?;
        if let Some(segment) = &segment {
            let is_kept = was_tried && tx.segments(batch.id).await?.iter().any(|kept| kept.object == segment.object);
            if !is_kept {
                tx.segment_insert(batch.id, segment, &records).await?;
            }
            tx.segments_settled(batch.id, self.segment).await?;
        }
        tx.batch_update(&batch).await?;
        tx.commit().await?;
        self.tried = None;
        self.written_at = Instant::now();
        self.written_reason.clone_from(&batch.status.reason);
        self.batch = batch;
        if let Some(segment) = segment {
            self.segment = segment.number;
        }
        for unkept in self.unkept.drain(..count) {
            if let Some(unsettled) = unkept.unsettled {
                unsettled.settle();
            }
        }
        self.unkept_since = (!self.unkept.is_empty()).then(Instant::now);
        Ok(())
    }

    /// The segment to be recorded now, whose object is written; none when there are no answers.
    async fn segment(&mut self, app: &App) -> Result<Option<Segment>, ObjectError> {
        if self.tried.is_none() && !self.unkept.is_empty() {
            let number = self.segment + 1;
            // A name that nobody else makes: whoever had the lease before may still be writing.
            let object = format!("batches/{}/{number}-{}", self.batch.id, Uuid::now_v7().simple());
            let lines = self.unkept.iter().map(|unkept| unkept.line as u64).collect();
            let bytes = self.unkept.iter().flat_map(|unkept| unkept.text.iter().copied()).collect::<Vec<u8>>();
            app.files().objects.put(&object, bytes.into()).await?;
            self.tried = Some(Segment { number, object, lines });
        }
        Ok(self.tried.clone())
    }
}

/// The name of a request in output and error files.
pub(super) fn request_name(batch_id: BatchId, line: usize) -> String {
    format!("batch_req_{}_{line}", batch_id.uuid().simple())
}

/// The event of something that the engine did.
pub(super) fn event(batch: &Batch, action: &str, text: String) -> Event {
    Event {
        id: EventId::from_uuid(Uuid::now_v7()),
        sequence: 0,
        at: App::now(),
        actor: Actor::component("batch-engine"),
        action: action.to_owned(),
        tenant_id: Some(batch.tenant_id),
        project_id: Some(batch.project_id),
        resource: Some(batch.id.to_string()),
        decision: Decision::Allowed,
        before_digest: None,
        after_digest: None,
        text,
    }
}

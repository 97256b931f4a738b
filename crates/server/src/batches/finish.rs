//! The end of a batch: its segments become an output file and an error file, and what was not made is told in the latter.
//!
//! It can be done twice: files appear with the batch's last change, in one transaction, and a batch that has ended is not
//! written again; what an attempt that broke off wrote is swept as what nobody names.

use bytes::Bytes;
use futures_util::TryStreamExt as _;
use galerne_drivers::objects::{ObjectError, Writer, Written};
use galerne_model::batch::{Batch, BatchEnd, BatchState};
use galerne_model::file::{File, Kept, Origin, Purpose, object_of};
use galerne_model::ids::FileId;
use galerne_store::Segment;
use uuid::Uuid;

use super::engine::not_made;
use super::lines;
use super::live::{ANSWER, Live, NotKept, event, request_name};
use crate::app::App;
use crate::files;
use crate::http::refusal::chain;

/// Between why a batch ends and what keeps its files from being written.
pub(super) const UNWRITTEN: &str = "; its files cannot be written yet: ";
/// What is told of an answer that was kept and is not there any more.
const LOST: (&str, &str) = ("answers_lost", "This request was executed, and what came of it is not stored any more.");

/// A file that is being made.
struct Made {
    id: FileId,
    writer: Writer,
    lines: u64,
}

impl Made {
    fn new(app: &App) -> Self {
        let id = FileId::from_uuid(Uuid::now_v7());
        Self { id, writer: app.files().objects.writer(&object_of(id)), lines: 0 }
    }

    async fn add(&mut self, line: &[u8]) -> Result<(), NotKept> {
        self.lines += 1;
        Ok(self.writer.write(line).await?)
    }
}

/// The files of a batch while they are made.
struct Files {
    output: Made,
    errors: Made,
}

/// Writes the files of a batch and ends it.
pub(super) async fn write(app: &App, live: &mut Live) -> Result<(), NotKept> {
    let recorded = app.store().batch(live.batch.id).await?;
    if recorded.is_none_or(|batch| batch.has_ended()) {
        // An earlier try did it, and its answer was lost.
        return Ok(());
    }
    let segments = app.store().segments(live.batch.id).await?;
    let mut files = Files { output: Made::new(app), errors: Made::new(app) };
    if let Err(error) = fill(app, live, &segments, &mut files).await {
        files.output.writer.give_up().await;
        files.errors.writer.give_up().await;
        return Err(error);
    }
    let mut batch = live.batch.clone();
    (batch.status.counts.completed, batch.status.counts.failed) = (files.output.lines, files.errors.lines);
    let mut made = Vec::new();
    for (purpose, file) in [(Purpose::BatchOutput, files.output), (Purpose::BatchErrors, files.errors)] {
        let Made { id, writer, lines } = file;
        if lines == 0 {
            writer.give_up().await;
            continue;
        }
        let written = writer.finish().await?;
        made.push(row(&batch, purpose, id, written, lines));
        match purpose {
            Purpose::BatchOutput => batch.status.output = Some(id),
            _ => batch.status.errors = Some(id),
        }
    }
    batch.status.state = BatchState::Ended;
    batch.status.ended_at = Some(App::now());
    if let Some((why, _)) = batch.status.reason.split_once(UNWRITTEN) {
        batch.status.reason = why.to_owned();
    }
    record(app, &batch, &made).await?;
    live.batch = batch;
    for segment in segments {
        if let Err(error) = app.files().objects.delete(&segment.object).await {
            tracing::warn!(error = %chain(&error), name = segment.object, "a segment stays until the next sweep");
        }
    }
    Ok(())
}

/// Records a batch that has ended, and its files.
async fn record(app: &App, batch: &Batch, made: &[File]) -> Result<(), NotKept> {
    let counts = batch.status.counts;
    let how = match batch.status.end {
        Some(BatchEnd::Failed) => "failed",
        Some(BatchEnd::Expired) => "expired",
        Some(BatchEnd::Cancelled) => "was cancelled",
        Some(BatchEnd::Stopped) => "was stopped",
        Some(BatchEnd::Completed) | None => "completed",
    };
    let text =
        format!("batch {how}: {} of {} requests answered, {} not", counts.completed, counts.total, counts.failed);
    let mut tx = app.begin_alone().await?;
    tx.batch_update(batch).await?;
    for file in made {
        // What was paid for is kept, also where it brings the project above its limit: then nothing more is taken.
        if tx.file_insert(file, Kept { bytes: u64::MAX >> 1, files: u64::MAX >> 1 }).await?.is_err() {
            tracing::error!(batch_id = %batch.id, "a file of a batch does not fit into any limit");
        }
    }
    tx.segments_delete(batch.id).await?;
    tx.record(event(batch, "batch.end", text));
    tx.commit().await?;
    Ok(())
}

/// Writes every line of a batch to the file where it belongs.
async fn fill(app: &App, live: &mut Live, segments: &[Segment], files: &mut Files) -> Result<(), NotKept> {
    for segment in segments {
        match copy(app, segment, files).await {
            Err(NotKept::Objects(ObjectError::NotFound(name))) => {
                tracing::error!(batch_id = %live.batch.id, name, lines = segment.lines.len(), "answers of a batch are lost: their object is gone");
                for line in &segment.lines {
                    tell(app, live, &mut files.errors, usize::try_from(*line).unwrap_or(usize::MAX), LOST).await?;
                }
            }
            copied => copied?,
        }
    }
    // Of a batch whose lines were not good no request was made.
    let count = if live.batch.status.begun_at.is_some() { live.line_count() } else { 0 };
    let why = not_made(live.batch.status.end);
    for line in 0..count {
        if !live.is_done(line) {
            tell(app, live, &mut files.errors, line, why).await?;
        }
    }
    Ok(())
}

/// Copies the lines of a segment to where they belong.
async fn copy(app: &App, segment: &Segment, files: &mut Files) -> Result<(), NotKept> {
    let mut stream = app.files().objects.read(&segment.object, None).await?.bytes;
    let mut line = Vec::new();
    while let Some(chunk) = stream.try_next().await? {
        for part in chunk.split_inclusive(|byte| *byte == b'\n') {
            line.extend_from_slice(part);
            if !part.ends_with(b"\n") {
                continue;
            }
            if let Some((kind, text)) = line.split_first() {
                let to = if *kind == ANSWER { &mut files.output } else { &mut files.errors };
                to.add(text).await?;
            }
            line.clear();
        }
    }
    Ok(())
}

/// Tells a request that has no answer, and why.
async fn tell(
    app: &App,
    live: &mut Live,
    errors: &mut Made,
    line: usize,
    (code, message): (&str, &str),
) -> Result<(), NotKept> {
    let text = match live.text(app, line).await {
        // Where its lines are gone or are others now, there is no name to be trusted.
        _ if live.batch.status.end == Some(BatchEnd::Failed) => Bytes::new(),
        Ok(text) => text,
        Err(ObjectError::NotFound(_)) => {
            // It is told without the name its maker gave it.
            live.lose_input();
            Bytes::new()
        }
        Err(error) => return Err(error.into()),
    };
    let id = request_name(live.batch.id, line);
    errors.add(&lines::not_made(&id, lines::custom_id(&text).as_deref(), code, message)).await
}

fn row(batch: &Batch, purpose: Purpose, id: FileId, written: Written, lines: u64) -> File {
    let now = App::now();
    let what = if purpose == Purpose::BatchOutput { "output" } else { "errors" };
    let life = batch.output_life_seconds.unwrap_or(files::DEFAULT_LIFE_SECONDS);
    File {
        id,
        tenant_id: batch.tenant_id,
        project_id: batch.project_id,
        principal_id: batch.principal_id,
        filename: format!("{}_{what}.jsonl", batch.id),
        purpose,
        visibility: batch.visibility,
        origin: Origin::Batch,
        bytes: written.bytes,
        sha256: written.sha256,
        media_type: Some("application/jsonl".to_owned()),
        lines: Some(lines),
        created_at: now,
        expires_at: Some(files::ends(now, life)),
    }
}

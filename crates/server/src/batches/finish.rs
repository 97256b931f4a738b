//! The end of a batch: its segments become an output file and an error file, and what was not made is told in the latter.
//!
//! It can be done twice: files appear with the batch's last change, in one transaction; what an attempt that broke off
//! wrote is swept as what nobody names.

use futures_util::TryStreamExt as _;
use galerne_drivers::objects::{Writer, Written};
use galerne_model::batch::{Batch, BatchEnd, BatchState};
use galerne_model::file::{File, Kept, Origin, Purpose, Visibility, object_of};
use galerne_model::ids::FileId;
use galerne_store::Segment;
use uuid::Uuid;

use super::engine::not_made;
use super::lines;
use super::live::{ANSWER, Live, NotKept, event, request_name};
use crate::app::App;
use crate::files;
use crate::http::refusal::chain;

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

/// Writes the files of a batch and ends it.
pub(super) async fn write(app: &App, live: &mut Live) -> Result<(), NotKept> {
    let segments = app.store().segments(live.batch.id).await?;
    let (mut output, mut errors) = (Made::new(app), Made::new(app));
    for segment in &segments {
        copy(app, segment, &mut output, &mut errors).await?;
    }
    let unmade = tell_unmade(app, live, &mut errors).await?;
    let mut batch = live.batch.clone();
    batch.status.counts.failed += unmade;
    let now = App::now();
    let mut made = Vec::new();
    for (purpose, file) in [(Purpose::BatchOutput, output), (Purpose::BatchErrors, errors)] {
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
    batch.status.ended_at = Some(now);
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
    for file in &made {
        // What was paid for is kept, also where it brings the project above its limit: then nothing more is taken.
        if tx.file_insert(file, Kept { bytes: u64::MAX >> 1, files: u64::MAX >> 1 }).await?.is_err() {
            tracing::error!(batch_id = %batch.id, "a file of a batch does not fit into any limit");
        }
    }
    tx.batch_update(&batch).await?;
    tx.segments_delete(batch.id).await?;
    tx.record(event(&batch, "batch.end", text));
    tx.commit().await?;
    live.batch = batch;
    for segment in segments {
        if let Err(error) = app.files().objects.delete(&segment.object).await {
            tracing::warn!(error = %chain(&error), name = segment.object, "a segment stays until the next sweep");
        }
    }
    Ok(())
}

/// Copies the lines of a segment to where they belong.
async fn copy(app: &App, segment: &Segment, output: &mut Made, errors: &mut Made) -> Result<(), NotKept> {
    let mut stream = app.files().objects.read(&segment.object, None).await?.bytes;
    let mut line = Vec::new();
    while let Some(chunk) = stream.try_next().await? {
        for part in chunk.split_inclusive(|byte| *byte == b'\n') {
            line.extend_from_slice(part);
            if !part.ends_with(b"\n") {
                continue;
            }
            if let Some((kind, text)) = line.split_first() {
                let to = if *kind == ANSWER { &mut *output } else { &mut *errors };
                to.add(text).await?;
            }
            line.clear();
        }
    }
    Ok(())
}

/// Tells the requests that were not made; returns how many.
async fn tell_unmade(app: &App, live: &mut Live, errors: &mut Made) -> Result<u64, NotKept> {
    let count = live.index.as_ref().map_or(0, super::input::Index::len);
    if live.batch.status.begun_at.is_none() {
        return Ok(0);
    }
    let (code, message) = not_made(live.batch.status.end);
    let mut unmade = 0;
    for line in 0..count {
        if live.is_done(line) {
            continue;
        }
        let text = match live.batch.status.end {
            // Its input cannot be read any more: that is why.
            Some(BatchEnd::Failed) => bytes::Bytes::new(),
            _ => live.text(app, line).await?,
        };
        let id = request_name(live.batch.id, line);
        errors.add(&lines::not_made(&id, lines::custom_id(&text).as_deref(), code, message)).await?;
        unmade += 1;
    }
    Ok(unmade)
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
        visibility: Visibility::Project,
        origin: Origin::Batch,
        bytes: written.bytes,
        sha256: written.sha256,
        media_type: Some("application/jsonl".to_owned()),
        lines: Some(lines),
        created_at: now,
        expires_at: Some(files::ends(now, life)),
    }
}

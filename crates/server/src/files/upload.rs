//! An upload: a form whose file goes to the storage as it comes, a part of it in memory at a time.
//!
//! The work is a task of its own: a client that leaves ends its body, and the task takes away what was written.
//! INVARIANT: what the reader of the form keeps is bounded, whatever the form is: a body comes to it in pieces, and ends with an
//! error when the pieces since the last part of a field are more than [`BETWEEN_MAX_BYTES`].

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use axum::body::Body;
use axum::extract::multipart::{Field, Multipart, MultipartError};
use axum::extract::{FromRequest as _, Request, State};
use axum::response::Response;
use bytes::Bytes;
use futures_util::{StreamExt as _, stream};
use galerne_api::error::Code;
use galerne_drivers::objects::{Writer, Written};
use galerne_gateway::Refusal;
use galerne_model::file::{File, Kept, Origin, Purpose, Visibility};
use galerne_model::ids::FileId;
use galerne_model::limits;
use jiff::{SignedDuration, Timestamp};
use tokio::time::{Instant, timeout_at};
use uuid::Uuid;

use super::shape;
use crate::app::App;
use crate::http::refusal::chain;
use crate::surface::{self, Guest, Surface};

/// Longest value of a field that is not the file.
const VALUE_MAX_BYTES: usize = 1_000;
/// Fields of a form; there are five that mean something.
const FIELDS_MAX: usize = 16;
/// Shortest and longest life of a file, in seconds: an hour and thirty days, as OpenAI has it.
pub(crate) const LIFE_SECONDS: std::ops::RangeInclusive<i64> = 3_600..=2_592_000;
/// Longest pause in a body, and longest that all of it may lag behind [`RATE_MIN`].
const PAUSE: Duration = Duration::from_millis(limits::CLIENT_WRITE_TIMEOUT_MS);
/// Time for all fields that are not the file, their heads and the file's: clients send them in one packet.
const FIELDS_TIME: Duration = Duration::from_secs(60);
/// Bytes of a body that the reader of the form gets at once.
const PIECE_BYTES: usize = 16 * 1024;
/// Most bytes between two parts of fields: boundaries and heads, which have some hundred, and a piece that was read ahead.
const BETWEEN_MAX_BYTES: usize = 64 * 1024;
/// Slowest body, in bytes a second: one that drips in would keep a place here for hours.
const RATE_MIN: u64 = 16 * 1024;
/// Room that stays on a disk of ours: when it is full nothing is admitted any more.
const RESERVE_BYTES: u64 = 1024 * 1024 * 1024;

pub(super) async fn create(State(app): State<App>, guest: Guest, request: Request) -> Result<Response, Refusal> {
    surface::countries(&app, request.headers(), "a file is kept here")?;
    let place = app.files().uploads.take(guest.visitor.key.project_id)?;
    let work = app.tasks().spawn({
        let app = app.clone();
        async move {
            let _place = place;
            receive(&app, &guest, request).await
        }
    });
    work.await.unwrap_or_else(|error| {
        tracing::error!(%error, "an upload ended in a panic");
        Err(Refusal::new(Code::Internal, "the upload broke off inside"))
    })
}

/// What a form said so far.
#[derive(Debug, Default)]
struct Form {
    purpose: Option<String>,
    anchor: Option<String>,
    seconds: Option<String>,
    hours: Option<String>,
    visibility: Option<String>,
}

/// The file of a form, written.
struct Received {
    id: FileId,
    filename: String,
    media_type: Option<String>,
    written: Written,
    lines: u64,
}

async fn receive(app: &App, guest: &Guest, request: Request) -> Result<Response, Refusal> {
    let kept = app.store().file_storage(guest.visitor.key.project_id).await;
    check_quota(kept.map_err(|error| surface::of_store(&error))?, app.files().most, 1)?;
    let mut pace = Pace { between: Arc::default(), fields: FIELDS_TIME };
    let request = request.map(|body| in_pieces(body, Arc::clone(&pace.between)));
    let mut form = Multipart::from_request(request, &())
        .await
        .map_err(|error| Refusal::new(Code::InvalidBody, format!("the body is not a form with a file: {error}")))?;
    let mut received = None;
    let read = read_form(app, guest, &mut form, &mut pace, &mut received).await;
    let checked = match (read, &received) {
        (Err(refusal), _) => Err(refusal),
        (Ok(_), None) => Err(surface::invalid("file", "the form has no file")),
        (Ok(said), Some(received)) => said.file(guest, received),
    };
    let stored = match checked {
        Ok(file) => insert(app, guest, &file).await.map(|()| file),
        Err(refusal) => Err(refusal),
    };
    if let (Err(_), Some(received)) = (&stored, &received) {
        take_away(app, received.id).await;
    }
    Ok(surface::json(&shape::shown(&stored?, guest.surface)))
}

async fn read_form(
    app: &App,
    guest: &Guest,
    form: &mut Multipart,
    pace: &mut Pace,
    received: &mut Option<Received>,
) -> Result<Form, Refusal> {
    let mut said = Form::default();
    for _ in 0..FIELDS_MAX {
        let next = pace.in_fields(form.next_field()).await?;
        let Some(field) = next else { return Ok(said) };
        let name = field.name().unwrap_or("").to_owned();
        let openai = guest.surface != Surface::Mistral;
        let mistral = guest.surface != Surface::OpenAi;
        let slot = match name.as_str() {
            "file" if received.is_none() => {
                // What is said before the file may already speak against it: then it is not read.
                said.purpose(guest.surface)?;
                *received = Some(read_file(app, &said, field, pace).await?);
                continue;
            }
            "file" => return Err(surface::invalid("file", "the form has two files")),
            "purpose" => &mut said.purpose,
            "expires_after[anchor]" if openai => &mut said.anchor,
            "expires_after[seconds]" if openai => &mut said.seconds,
            "expiry" if mistral => &mut said.hours,
            "visibility" if mistral => &mut said.visibility,
            _ => {
                let shown: String = name.chars().take(60).collect();
                return Err(surface::invalid(&shown, "there is no such field in an upload"));
            }
        };
        *slot = Some(value(&name, field, pace).await?);
    }
    Err(Refusal::new(Code::InvalidBody, format!("a form has at most {FIELDS_MAX} fields")))
}

async fn value(name: &str, mut field: Field<'_>, pace: &mut Pace) -> Result<String, Refusal> {
    let mut bytes = Vec::new();
    while let Some(chunk) = pace.in_fields(field.chunk()).await? {
        if bytes.len() + chunk.len() > VALUE_MAX_BYTES {
            return Err(surface::invalid(name, format!("it takes at most {VALUE_MAX_BYTES} bytes")));
        }
        bytes.extend_from_slice(&chunk);
    }
    String::from_utf8(bytes).map_err(|_| surface::invalid(name, "it is not UTF-8"))
}

async fn read_file(app: &App, said: &Form, mut field: Field<'_>, pace: &Pace) -> Result<Received, Refusal> {
    let id = FileId::from_uuid(Uuid::now_v7());
    let filename = shape::clean_name(field.file_name().unwrap_or("file"));
    let media_type = field.content_type().filter(|text| text.len() <= VALUE_MAX_BYTES).map(str::to_owned);
    let mut writer = app.files().objects.writer(&galerne_model::file::object_of(id));
    let mut lines = Lines::default();
    match write_all(app, said, (&mut field, pace), &mut writer, &mut lines).await {
        Ok(()) => {}
        Err(refusal) => {
            writer.give_up().await;
            return Err(refusal);
        }
    }
    let written = writer.finish().await.map_err(|error| surface::of_objects(&error))?;
    Ok(Received { id, filename, media_type, written, lines: lines.count() })
}

async fn write_all(
    app: &App,
    said: &Form,
    (field, pace): (&mut Field<'_>, &Pace),
    writer: &mut Writer,
    lines: &mut Lines,
) -> Result<(), Refusal> {
    let is_batch = said.purpose.as_deref() == Some("batch");
    let most = if is_batch { limits::BATCH_FILE_MAX_BYTES } else { limits::FILE_MAX_BYTES };
    let begun = Instant::now();
    let mut looked_at = 0;
    check_disk(app)?;
    loop {
        let due = Duration::from_secs(writer.bytes() / RATE_MIN);
        let until = (begun + due + PAUSE).min(Instant::now() + PAUSE);
        let Some(chunk) = pace.until(until, field.chunk()).await? else { return Ok(()) };
        if writer.bytes() + chunk.len() as u64 > most {
            let what = if is_batch { "a file for batches" } else { "a file" };
            return Err(Refusal::new(Code::BodyTooLarge, format!("{what} may have {most} bytes")).param("file"));
        }
        if writer.bytes() - looked_at > RESERVE_BYTES / 16 {
            looked_at = writer.bytes();
            check_disk(app)?;
        }
        lines.take(&chunk);
        writer.write(&chunk).await.map_err(|error| surface::of_objects(&error))?;
    }
}

/// How a form comes in.
struct Pace {
    /// Bytes that the reader of the form got since it gave something.
    between: Arc<AtomicUsize>,
    /// Time that is left for what is not the file.
    fields: Duration,
}

impl Pace {
    /// Waits for something that is not of the file.
    async fn in_fields<T>(&mut self, next: impl Future<Output = Result<T, MultipartError>>) -> Result<T, Refusal> {
        let begun = Instant::now();
        let next = self.until(begun + PAUSE.min(self.fields), next).await;
        self.fields = self.fields.saturating_sub(begun.elapsed());
        next
    }

    /// Waits for what comes next.
    async fn until<T>(
        &self,
        until: Instant,
        next: impl Future<Output = Result<T, MultipartError>>,
    ) -> Result<T, Refusal> {
        let next = timeout_at(until, next).await.map_err(|_| too_slow())?;
        if self.between.swap(0, Ordering::Relaxed) > BETWEEN_MAX_BYTES {
            let text = format!("the form has more than {BETWEEN_MAX_BYTES} bytes around its fields");
            return Err(Refusal::new(Code::BodyTooLarge, text));
        }
        next.map_err(|error| broken(&error))
    }
}

/// A body in pieces, with a moment after each in which its reader looks at what it has; ends when that gives nothing.
fn in_pieces(body: Body, between: Arc<AtomicUsize>) -> Body {
    let begun = (body.into_data_stream(), Bytes::new(), between);
    let pieces = stream::unfold(begun, |(mut body, mut rest, between)| async move {
        tokio::task::yield_now().await;
        while rest.is_empty() {
            match body.next().await? {
                Ok(bytes) => rest = bytes,
                Err(error) => return Some((Err(error), (body, rest, between))),
            }
        }
        let piece = rest.split_to(rest.len().min(PIECE_BYTES));
        let read = between.fetch_add(piece.len(), Ordering::Relaxed) + piece.len();
        let piece = if read > BETWEEN_MAX_BYTES { Err(axum::Error::new(TooMuchBetween)) } else { Ok(piece) };
        Some((piece, (body, rest, between)))
    });
    Body::from_stream(pieces)
}

/// A form that is not one.
#[derive(Debug, thiserror::Error)]
#[error("too many bytes around the fields of a form")]
struct TooMuchBetween;

impl Form {
    /// What the file is for, or nothing when it is not said yet.
    fn purpose(&self, surface: Surface) -> Result<Option<Purpose>, Refusal> {
        let Some(word) = self.purpose.as_deref() else { return Ok(None) };
        if let Some((_, purpose)) = shape::ACCEPTED.iter().find(|(known, _)| *known == word) {
            return Ok(Some(*purpose));
        }
        let accepted: Vec<String> = shape::ACCEPTED.iter().map(|(word, _)| format!("`{word}`")).collect();
        let accepted = accepted.join(", ");
        let text = if shape::REFUSED.contains(&word) {
            format!("nothing here reads files for `{word}`, so none are kept; one of {accepted}")
        } else if word == shape::purpose(Purpose::BatchOutput, surface) {
            format!("such files are made by batches; one of {accepted}")
        } else {
            format!("one of {accepted}")
        };
        Err(surface::invalid("purpose", text))
    }

    /// How long the file lives, in seconds.
    fn life(&self, purpose: Purpose) -> Result<Option<i64>, Refusal> {
        let (from, to) = (LIFE_SECONDS.start(), LIFE_SECONDS.end());
        if let Some(anchor) = self.anchor.as_deref().filter(|anchor| *anchor != "created_at") {
            let shown: String = anchor.chars().take(40).collect();
            let text = format!("`{shown}` is nothing that time is counted from; the only one is `created_at`");
            return Err(surface::invalid("expires_after.anchor", text));
        }
        match (&self.anchor, &self.seconds, &self.hours) {
            (None, None, None) => Ok((purpose == Purpose::Batch).then_some(*to)),
            (Some(_), Some(text), None) => {
                let seconds = text.trim().parse().ok().filter(|seconds| LIFE_SECONDS.contains(seconds));
                let told = || surface::invalid("expires_after.seconds", format!("it takes {from} to {to} seconds"));
                seconds.map(Some).ok_or_else(told)
            }
            (None, None, Some(text)) => {
                let seconds = text.trim().parse::<i64>().ok().and_then(|hours| hours.checked_mul(3_600));
                let told = || surface::invalid("expiry", format!("it takes 1 to {} hours", to / 3_600));
                seconds.filter(|seconds| LIFE_SECONDS.contains(seconds)).map(Some).ok_or_else(told)
            }
            (_, _, Some(_)) => Err(surface::invalid("expiry", "`expires_after` says it already")),
            (Some(_), None, None) => Err(surface::invalid("expires_after.seconds", "it is missing")),
            (None, Some(_), None) => Err(surface::invalid("expires_after.anchor", "it is missing: `created_at`")),
        }
    }

    fn file(&self, guest: &Guest, received: &Received) -> Result<File, Refusal> {
        let purpose = match (self.purpose(guest.surface)?, guest.surface) {
            (Some(purpose), _) => purpose,
            // Mistral's default, which its document states.
            (None, Surface::Mistral) => Purpose::FineTune,
            (None, Surface::Union | Surface::OpenAi) => return Err(surface::invalid("purpose", "it is missing")),
        };
        if purpose == Purpose::Batch && received.written.bytes > limits::BATCH_FILE_MAX_BYTES {
            let most = limits::BATCH_FILE_MAX_BYTES;
            let text = format!("a file for batches may have {most} bytes and this one has {}", received.written.bytes);
            return Err(Refusal::new(Code::BodyTooLarge, text).param("file"));
        }
        let visibility = match self.visibility.as_deref() {
            None | Some("workspace") => Visibility::Project,
            Some("user") => Visibility::Principal,
            Some(_) => return Err(surface::invalid("visibility", "one of `workspace`, `user`")),
        };
        let (now, key) = (App::now(), &guest.visitor.key);
        Ok(File {
            id: received.id,
            tenant_id: key.tenant_id,
            project_id: key.project_id,
            principal_id: key.principal_id,
            filename: received.filename.clone(),
            purpose,
            visibility,
            origin: Origin::Upload,
            bytes: received.written.bytes,
            sha256: received.written.sha256.clone(),
            media_type: received.media_type.clone(),
            lines: matches!(purpose, Purpose::Batch | Purpose::FineTune).then_some(received.lines),
            created_at: now,
            expires_at: self.life(purpose)?.map(|seconds| ends(now, seconds)),
        })
    }
}

/// When something made at `now` ends.
pub(crate) fn ends(now: Timestamp, seconds: i64) -> Timestamp {
    now.saturating_add(SignedDuration::from_secs(seconds)).unwrap_or(Timestamp::MAX)
}

async fn insert(app: &App, guest: &Guest, file: &File) -> Result<(), Refusal> {
    let text = format!("uploaded file `{}` of {} bytes", file.filename, file.bytes);
    let event = guest.event("file.create", file.id.to_string(), text, file.created_at);
    let most = app.files().most;
    let of_store = |error| surface::of_store(&error);
    let mut tx = app.store().begin().await.map_err(of_store)?;
    if let Err(refused) = tx.file_insert(file, most).await.map_err(of_store)? {
        check_quota(refused.kept, most, file.bytes)?;
        return Err(Refusal::new(
            Code::FilesQuotaExceeded,
            "the project keeps as much as it may; hint: galerne file list",
        ));
    }
    tx.record(event);
    tx.commit().await.map_err(of_store).map(|_| ())
}

/// Stores a file that this server makes of bytes in memory, such as requests that were sent inside another.
pub(crate) async fn store_made(app: &App, guest: &Guest, filename: &str, bytes: Bytes) -> Result<File, Refusal> {
    let id = FileId::from_uuid(Uuid::now_v7());
    let mut lines = Lines::default();
    lines.take(&bytes);
    let mut writer = app.files().objects.writer(&galerne_model::file::object_of(id));
    let of_objects = |error| surface::of_objects(&error);
    writer.write(&bytes).await.map_err(of_objects)?;
    let written = writer.finish().await.map_err(of_objects)?;
    let form = Form { purpose: Some("batch".to_owned()), ..Form::default() };
    let media_type = Some("application/jsonl".to_owned());
    let received = Received { id, filename: filename.to_owned(), media_type, written, lines: lines.count() };
    let stored = match form.file(guest, &received) {
        Ok(file) => insert(app, guest, &file).await.map(|()| file),
        Err(refusal) => Err(refusal),
    };
    if stored.is_err() {
        take_away(app, id).await;
    }
    stored
}

fn check_quota(kept: Kept, most: Kept, more: u64) -> Result<(), Refusal> {
    if kept.bytes.saturating_add(more) <= most.bytes && kept.files < most.files {
        return Ok(());
    }
    let text = format!(
        "the project keeps {} bytes in {} files and may keep {} in {}; hint: galerne file list, and delete what is not needed",
        kept.bytes, kept.files, most.bytes, most.files
    );
    Err(Refusal::new(Code::FilesQuotaExceeded, text).param("file"))
}

fn check_disk(app: &App) -> Result<(), Refusal> {
    match app.files().objects.free_bytes() {
        Ok(Some(free)) if free < RESERVE_BYTES => {
            let text = format!("the disk has {free} bytes free and {RESERVE_BYTES} stay reserved");
            Err(Refusal::new(Code::NotEnoughDisk, text))
        }
        Ok(_) => Ok(()),
        Err(error) => {
            tracing::warn!(%error, "the disk of files cannot be measured");
            Err(Refusal::new(Code::ObjectsUnavailable, "the storage of files does not answer"))
        }
    }
}

async fn take_away(app: &App, id: FileId) {
    if let Err(error) = app.files().objects.delete(&galerne_model::file::object_of(id)).await {
        tracing::warn!(error = %chain(&error), file_id = %id, "an object without a file stays until the next sweep");
    }
}

fn too_slow() -> Refusal {
    let (seconds, rate) = (PAUSE.as_secs(), RATE_MIN / 1024);
    let text = format!("the body did not go on for {seconds} seconds, or came at less than {rate} KiB a second");
    Refusal::new(Code::RequestTimeout, text).retry_after(Duration::from_secs(1))
}

fn broken(error: &MultipartError) -> Refusal {
    Refusal::new(Code::InvalidBody, format!("the form cannot be read to its end: {}", error.body_text()))
}

/// Counts lines that are not empty, as they come.
#[derive(Debug, Default)]
struct Lines {
    ended: u64,
    has_text: bool,
}

impl Lines {
    fn take(&mut self, bytes: &[u8]) {
        let mut parts = bytes.split(|byte| *byte == b'\n');
        let mut look = |part: &[u8]| self.has_text |= !part.trim_ascii().is_empty();
        look(parts.next().unwrap_or_default());
        for part in parts {
            self.ended += u64::from(std::mem::take(&mut self.has_text));
            self.has_text = !part.trim_ascii().is_empty();
        }
    }

    fn count(&self) -> u64 {
        self.ended + u64::from(self.has_text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_reader_that_gives_nothing_gets_no_more_than_some_pieces() {
        let between = Arc::new(AtomicUsize::new(0));
        let body = Body::from(vec![b'-'; 10 * BETWEEN_MAX_BYTES]);
        let mut pieces = in_pieces(body, Arc::clone(&between)).into_data_stream();
        let mut got = 0;
        for _ in 0..6 {
            let piece = pieces.next().await.expect("more").expect("not too much");
            assert!(piece.len() <= PIECE_BYTES);
            got += piece.len();
            // What is handed on is not kept.
            between.store(0, Ordering::Relaxed);
        }
        assert_eq!(got, 6 * PIECE_BYTES, "a field may be as long as it likes");
        let kept: usize = {
            let mut kept = 0;
            while let Some(Ok(piece)) = pieces.next().await {
                kept += piece.len();
            }
            kept
        };
        assert_eq!(kept, BETWEEN_MAX_BYTES);
    }

    #[test]
    fn lines_are_counted_alike_however_their_bytes_come() {
        let text = b"\n{1}\n  \r\n{2}\n\n{3}";
        for size in 1..=text.len() {
            let mut lines = Lines::default();
            text.chunks(size).for_each(|chunk| lines.take(chunk));
            assert_eq!(lines.count(), 3, "in chunks of {size}");
        }
        assert_eq!(Lines::default().count(), 0);
    }

    #[test]
    fn a_life_is_said_in_one_way_and_within_its_bounds() {
        let form = |anchor: Option<&str>, seconds: Option<&str>, hours: Option<&str>| {
            let own = |text: Option<&str>| text.map(str::to_owned);
            Form { anchor: own(anchor), seconds: own(seconds), hours: own(hours), ..Form::default() }
        };
        let life = |form: Form| form.life(Purpose::UserData).map_err(|refusal| format!("{refusal:?}"));
        assert_eq!(life(form(None, None, None)), Ok(None));
        assert_eq!(Form::default().life(Purpose::Batch).expect("has one"), Some(2_592_000));
        assert_eq!(life(form(Some("created_at"), Some("3600"), None)), Ok(Some(3_600)));
        assert_eq!(life(form(None, None, Some("24"))), Ok(Some(86_400)));
        for bad in [
            form(Some("created_at"), Some("3599"), None),
            form(Some("created_at"), Some("2592001"), None),
            form(Some("last_active_at"), Some("3600"), None),
            form(Some("created_at"), None, None),
            form(None, Some("3600"), None),
            form(Some("created_at"), Some("3600"), Some("1")),
            form(None, None, Some("0")),
            form(None, None, Some("9223372036854775807")),
        ] {
            assert!(life(bad).is_err());
        }
    }
}

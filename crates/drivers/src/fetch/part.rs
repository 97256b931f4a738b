//! A file on its way: locked, hashed while it grows, with a note of where it comes from so that it can be resumed.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek as _, SeekFrom, Write as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::fs::{FlockOperation, flock};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use tokio_util::sync::CancellationToken;

use super::{Blobs, FetchError, OnProgress, Phase, Progress, Sha256Digest};

/// How often free space is looked at while a file grows.
const SPACE_CHECK_BYTES: u64 = 64 * 1024 * 1024;
/// How often progress is told.
const PROGRESS_EVERY: Duration = Duration::from_millis(100);
/// Bytes copied or hashed at once.
const BUFFER_BYTES: usize = 256 * 1024;

/// Where the bytes of a part come from; a change of any of it makes the bytes useless.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Origin {
    /// Strong validator (`ETag`) or date of the file, as the server gave it.
    pub(super) validator: Option<String>,
    /// Its length, if the server said.
    pub(super) total_bytes: Option<u64>,
}

/// An unfinished file, held under a lock.
#[derive(Debug)]
pub(super) struct Part {
    blobs: Blobs,
    place: String,
    path: PathBuf,
    file: File,
    hasher: Sha256,
    written_bytes: u64,
    resumed_bytes: u64,
    next_space_check: u64,
    told_at: Option<Instant>,
}

/// A file that is whole, not yet a blob.
#[derive(Debug)]
pub(super) struct Landed {
    path: PathBuf,
    file: File,
    digest: Sha256Digest,
    bytes: u64,
    resumed_bytes: u64,
}

impl Part {
    /// Opens the part of `place`, empty for now whatever it holds.
    pub(super) fn open(blobs: &Blobs, place: &str) -> Result<Self, FetchError> {
        let key = Sha256Digest::of(place.as_bytes()).to_string();
        let path = blobs.partial().join(format!("{}.part", &key[..32]));
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(&path)
            .map_err(FetchError::io("open", &path))?;
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(rustix::io::Errno::WOULDBLOCK) => return Err(FetchError::Busy { place: place.to_owned() }),
            Err(error) => return Err(FetchError::io("lock", &path)(error.into())),
        }
        Ok(Self {
            blobs: blobs.clone(),
            place: place.to_owned(),
            path,
            file,
            hasher: Sha256::new(),
            written_bytes: 0,
            resumed_bytes: 0,
            next_space_check: SPACE_CHECK_BYTES,
            told_at: None,
        })
    }

    /// Whether no fetch holds the file.
    pub(super) fn is_idle(path: &Path) -> bool {
        File::open(path).is_ok_and(|file| flock(&file, FlockOperation::NonBlockingLockExclusive).is_ok())
    }

    /// What is known of the bytes that lie there; nothing when the note is gone or cannot be read.
    pub(super) fn origin(&self) -> Option<Origin> {
        let text = fs::read(self.note()).ok()?;
        serde_json::from_slice(&text).ok()
    }

    /// Bytes that lie there from an earlier try.
    pub(super) fn bytes_on_disk(&self) -> Result<u64, FetchError> {
        Ok(self.file.metadata().map_err(FetchError::io("look at", &self.path))?.len())
    }

    /// Goes on after the bytes that lie there, which are hashed again.
    pub(super) fn resume(&mut self) -> Result<u64, FetchError> {
        self.file.rewind().map_err(FetchError::io("read", &self.path))?;
        self.hasher = Sha256::new();
        self.written_bytes = feed(&mut self.hasher, &self.file).map_err(FetchError::io("read", &self.path))?;
        self.resumed_bytes = self.written_bytes;
        Ok(self.written_bytes)
    }

    /// Starts from nothing, with a note of where the bytes come from.
    pub(super) fn restart(&mut self, origin: &Origin) -> Result<(), FetchError> {
        self.file.set_len(0).map_err(FetchError::io("empty", &self.path))?;
        self.file.seek(SeekFrom::Start(0)).map_err(FetchError::io("empty", &self.path))?;
        self.hasher = Sha256::new();
        self.written_bytes = 0;
        self.resumed_bytes = 0;
        self.next_space_check = SPACE_CHECK_BYTES;
        let text = serde_json::to_vec(origin).map_err(|error| FetchError::io("note", &self.path)(error.into()))?;
        let note = self.note();
        fs::write(&note, text).map_err(|error| self.write_error(error))
    }

    pub(super) fn written_bytes(&self) -> u64 {
        self.written_bytes
    }

    /// Refuses a growth by `more_bytes` that would eat into the disk's reserve.
    pub(super) fn check_space(&self, more_bytes: u64) -> Result<(), FetchError> {
        self.blobs.check_space(more_bytes)
    }

    /// Adds bytes; a full disk removes the part, for the database lives on the same disk.
    pub(super) fn append(&mut self, bytes: &[u8]) -> Result<(), FetchError> {
        self.file.write_all(bytes).map_err(|error| self.write_error(error))?;
        self.hasher.update(bytes);
        self.written_bytes += bytes.len() as u64;
        if self.written_bytes >= self.next_space_check {
            self.next_space_check = self.written_bytes + SPACE_CHECK_BYTES;
            self.blobs.check_space(0).inspect_err(|_| self.abandon())?;
        }
        Ok(())
    }

    /// Tells how far it is, but not on every call.
    pub(super) fn tell(&mut self, on_progress: &OnProgress, phase: Phase, total_bytes: Option<u64>) {
        let whole = total_bytes == Some(self.written_bytes);
        if whole || self.told_at.is_none_or(|at| at.elapsed() >= PROGRESS_EVERY) {
            self.told_at = Some(Instant::now());
            on_progress(Progress { phase, done_bytes: self.written_bytes, total_bytes });
        }
    }

    /// The whole file, if it is the one that was wanted; otherwise the part is removed.
    pub(super) fn land(self, total_bytes: Option<u64>, expected: Option<Sha256Digest>) -> Result<Landed, FetchError> {
        let found_bytes = self.written_bytes;
        if let Some(expected_bytes) = total_bytes
            && expected_bytes != found_bytes
        {
            self.abandon();
            return Err(FetchError::WrongLength { place: self.place, expected_bytes, found_bytes });
        }
        let digest = Sha256Digest::finish(self.hasher.clone());
        if let Some(expected) = expected
            && expected != digest
        {
            self.abandon();
            return Err(FetchError::DigestMismatch { place: self.place, expected, found: digest });
        }
        Ok(Landed { path: self.path, file: self.file, digest, bytes: found_bytes, resumed_bytes: self.resumed_bytes })
    }

    /// Removes the part and its note. Failing to is no news: the sweep finds them.
    fn abandon(&self) {
        for path in [&self.path, &self.note()] {
            if let Err(error) = fs::remove_file(path)
                && error.kind() != io::ErrorKind::NotFound
            {
                tracing::warn!(path = %path.display(), %error, "part file not removed");
            }
        }
    }

    fn write_error(&self, error: io::Error) -> FetchError {
        if matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded) {
            self.abandon();
            return self.blobs.disk_full(BUFFER_BYTES as u64, 0);
        }
        FetchError::io("write", &self.path)(error)
    }

    fn note(&self) -> PathBuf {
        self.path.with_extension("note")
    }
}

impl Landed {
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    pub(super) fn file(&self) -> &File {
        &self.file
    }

    pub(super) fn digest(&self) -> Sha256Digest {
        self.digest
    }

    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    pub(super) fn resumed_bytes(&self) -> u64 {
        self.resumed_bytes
    }

    /// Removes the note; the bytes have found their place.
    pub(super) fn forget_origin(self) -> Result<(), FetchError> {
        let note = self.path.with_extension("note");
        match fs::remove_file(&note) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(FetchError::io("delete", &note)(error)),
            _ => Ok(()),
        }
    }

    /// Removes the file and its note.
    pub(super) fn discard(self) -> Result<(), FetchError> {
        fs::remove_file(&self.path).map_err(FetchError::io("delete", &self.path))?;
        self.forget_origin()
    }
}

/// Copies a local file into a part; the source may be on another disk.
pub(super) fn copy_file(
    blobs: &Blobs,
    path: &Path,
    max_bytes: u64,
    expected: Option<Sha256Digest>,
    on_progress: &OnProgress,
    cancel: &CancellationToken,
) -> Result<Landed, FetchError> {
    let place = path.display().to_string();
    let source = File::open(path).map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => FetchError::NotFound { place: place.clone() },
        _ => FetchError::io("open", path)(error),
    })?;
    let found = source.metadata().map_err(FetchError::io("look at", path))?;
    if !found.is_file() {
        return Err(FetchError::BadSource { text: place, why: "it is not a regular file".to_owned() });
    }
    let total_bytes = found.len();
    if total_bytes > max_bytes {
        return Err(FetchError::TooLarge { place, bytes: total_bytes, max_bytes });
    }
    blobs.check_space(total_bytes)?;
    let mut part = Part::open(blobs, &format!("file://{place}"))?;
    part.restart(&Origin::default())?;
    fill(&mut part, source.take(total_bytes), Phase::Receiving, Some(total_bytes), on_progress, cancel)
        .map_err(|error| error.unwrap_or_else(FetchError::io("read", path)))?;
    part.land(Some(total_bytes), expected)
}

/// A failure of the reading side, which the caller names, or any other.
pub(super) enum FillError {
    Read(io::Error),
    Fetch(FetchError),
}

impl FillError {
    pub(super) fn unwrap_or_else(self, named: impl FnOnce(io::Error) -> FetchError) -> FetchError {
        match self {
            Self::Read(error) => named(error),
            Self::Fetch(error) => error,
        }
    }
}

/// Reads to the end of `source` into `part`.
pub(super) fn fill(
    part: &mut Part,
    mut source: impl Read,
    phase: Phase,
    total_bytes: Option<u64>,
    on_progress: &OnProgress,
    cancel: &CancellationToken,
) -> Result<(), FillError> {
    let mut buffer = vec![0u8; BUFFER_BYTES];
    loop {
        if cancel.is_cancelled() {
            return Err(FillError::Fetch(FetchError::Cancelled));
        }
        let count = match source.read(&mut buffer) {
            Ok(0) => return Ok(()),
            Ok(count) => count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(FillError::Read(error)),
        };
        part.append(&buffer[..count]).map_err(FillError::Fetch)?;
        part.tell(on_progress, phase, total_bytes);
    }
}

/// The digest and length of what is left in a reader.
pub(super) fn hash_of(source: impl Read) -> io::Result<(Sha256Digest, u64)> {
    let mut hasher = Sha256::new();
    let bytes = feed(&mut hasher, source)?;
    Ok((Sha256Digest::finish(hasher), bytes))
}

fn feed(hasher: &mut Sha256, mut source: impl Read) -> io::Result<u64> {
    let mut buffer = vec![0u8; BUFFER_BYTES];
    let mut total = 0;
    loop {
        match source.read(&mut buffer) {
            Ok(0) => return Ok(total),
            Ok(count) => {
                hasher.update(&buffer[..count]);
                total += count as u64;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

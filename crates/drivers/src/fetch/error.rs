//! What can go wrong with a fetch, and what a person can do about it.

use std::io;
use std::path::{Path, PathBuf};

use super::Sha256Digest;

/// Why a model did not arrive.
#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    /// The text is not a source.
    #[error("`{text}` is not a model source: {why}")]
    BadSource {
        /// What was given.
        text: String,
        /// What is wrong with it.
        why: String,
    },
    /// The place answers, and the file is not there.
    #[error("there is no file at `{place}`")]
    NotFound {
        /// Where it was looked for.
        place: String,
    },
    /// The place wants a login, or another one.
    #[error("`{place}` refused access with status {status}")]
    Forbidden {
        /// Where.
        place: String,
        /// HTTP status.
        status: u16,
    },
    /// The place lies inside the site, and whoever asked may only reach the public internet.
    #[error("`{place}` may not be fetched from: {what}")]
    Private {
        /// Where.
        place: String,
        /// Which address it led to.
        what: String,
    },
    /// The place did not answer, as often as it was asked.
    #[error("`{place}` could not be reached in {attempts} attempts: {last}")]
    Unreachable {
        /// Where.
        place: String,
        /// How often it was tried without a byte of progress.
        attempts: u32,
        /// What the last attempt said.
        last: String,
    },
    /// The place answered with something that is not the file.
    #[error("`{place}` gave an answer that cannot be used: {what}")]
    BadAnswer {
        /// Where.
        place: String,
        /// What is wrong with the answer.
        what: String,
    },
    /// How to find packages is not known on this machine.
    #[error("no package index is known on this machine: {why}")]
    NoIndex {
        /// What was tried.
        why: String,
    },
    /// The bytes are other bytes.
    #[error("the file from `{place}` has SHA-256 {found}, expected {expected}")]
    DigestMismatch {
        /// Where it came from.
        place: String,
        /// What was expected.
        expected: Sha256Digest,
        /// What came.
        found: Sha256Digest,
    },
    /// Fewer or more bytes than announced.
    #[error("the file from `{place}` has {found_bytes} bytes, expected {expected_bytes}")]
    WrongLength {
        /// Where it came from.
        place: String,
        /// What was announced.
        expected_bytes: u64,
        /// What came.
        found_bytes: u64,
    },
    /// More than this site takes.
    #[error("the file from `{place}` has {bytes} bytes or more, the limit is {max_bytes}")]
    TooLarge {
        /// Where it came from.
        place: String,
        /// Its size, as far as known.
        bytes: u64,
        /// The limit.
        max_bytes: u64,
    },
    /// It does not fit beside what must stay free.
    #[error("the disk below `{}` has {free_bytes} bytes free; {needed_bytes} are needed and {reserve_bytes} stay reserved", .directory.display())]
    DiskFull {
        /// Where it was to be written.
        directory: PathBuf,
        /// What was still to be written, as far as known.
        needed_bytes: u64,
        /// What is free.
        free_bytes: u64,
        /// What stays free for the database.
        reserve_bytes: u64,
    },
    /// The archive does not hold the file, or not like this.
    #[error("the archive `{archive}` cannot be used: {what}")]
    BadArchive {
        /// Which archive.
        archive: String,
        /// What is wrong.
        what: String,
    },
    /// Two fetches of one source at once.
    #[error("another fetch of `{place}` is running")]
    Busy {
        /// The source.
        place: String,
    },
    /// The local file system failed.
    #[error("could not {doing} `{}`", .path.display())]
    Io {
        /// The verb.
        doing: &'static str,
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Someone stopped it.
    #[error("the fetch was cancelled")]
    Cancelled,
}

impl FetchError {
    /// Public error code; each has a page in `docs/errors`.
    pub fn code(&self) -> &'static str {
        match self {
            Self::BadSource { .. } | Self::BadAnswer { .. } | Self::BadArchive { .. } | Self::TooLarge { .. } => {
                "source_invalid"
            }
            Self::NotFound { .. } => "source_not_found",
            Self::Forbidden { .. } => "source_forbidden",
            Self::Private { .. } => "source_private",
            Self::Unreachable { .. } | Self::NoIndex { .. } | Self::WrongLength { .. } => "source_unreachable",
            Self::DigestMismatch { .. } => "digest_mismatch",
            Self::DiskFull { .. } => "not_enough_disk",
            Self::Io { .. } => "data_dir_unusable",
            Self::Busy { .. } | Self::Cancelled => "wrong_state",
        }
    }

    /// The next step for a person.
    pub fn hint(&self) -> Option<&'static str> {
        match self {
            Self::BadSource { .. } => {
                Some("a source is `file:///path`, `https://…`, `hf://owner/repo/file` or `pypi://package/file`")
            }
            Self::NotFound { .. } => Some("check the spelling and the revision"),
            Self::Forbidden { .. } => {
                Some("for a gated repository, accept its licence and set HF_TOKEN; it serves what an operator pulls")
            }
            Self::Private { .. } => {
                Some("ask an operator to pull it, or to allow it for everyone with `private_sources = \"everyone\"`")
            }
            Self::Unreachable { .. } => Some(
                "check the network; behind a mirror set HF_ENDPOINT or PIP_INDEX_URL, or bring the file and use `file:///path`",
            ),
            Self::NoIndex { .. } => Some("install pip (`apt install python3-pip`) or set PIP_INDEX_URL"),
            Self::DigestMismatch { .. } => {
                Some("the file changed or was altered on its way; do not use it before you know why")
            }
            Self::WrongLength { .. } => Some("pull again; the transfer broke off"),
            Self::TooLarge { .. } => Some("choose a smaller or more strongly quantised file"),
            Self::DiskFull { .. } => Some("free space, or move the data directory with `--data`"),
            Self::Busy { .. } => Some("wait for the running pull"),
            Self::BadAnswer { .. } | Self::BadArchive { .. } | Self::Io { .. } | Self::Cancelled => None,
        }
    }

    /// Whether the same call can succeed later without a change.
    pub fn is_retryable(&self) -> bool {
        matches!(self, Self::Unreachable { .. } | Self::WrongLength { .. } | Self::Busy { .. } | Self::Cancelled)
    }

    pub(super) fn io(doing: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::Io { doing, path, source }
    }
}

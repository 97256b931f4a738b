//! Objects: bytes under names, as files of a folder or in a bucket of an S3 server.
//!
//! An object appears whole or not at all, and what was acknowledged is on the disk: local files are synced before they are
//! renamed into place, S3 answers once it has them. A write that is neither finished nor given up leaves nothing that
//! can be read; what it may leave on the disk is taken away by [`Objects::sweep_unfinished`].
//! Deliberately absent: who owns an object, quotas, life times.

use std::ops::Range;
use std::path::{Path as FilePath, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::{Bytes, BytesMut};
use futures_util::stream::{BoxStream, StreamExt as _, TryStreamExt as _};
use jiff::Timestamp;
use object_store::aws::AmazonS3Builder;
use object_store::local::LocalFileSystem;
use object_store::path::Path;
use object_store::prefix::PrefixStore;
use object_store::{
    ClientOptions, GetOptions, GetRange, MultipartUpload, ObjectStore, ObjectStoreExt as _, PutPayload, RetryConfig,
};
use secrecy::{ExposeSecret as _, SecretString};
use sha2::{Digest as _, Sha256};

use crate::tls;

mod credentials;

pub use credentials::{BadCredentials, Credentials};

/// Bytes that one write keeps in memory, and the size of its parts: S3 takes parts from 5 MiB on, and 10 000 of them, so
/// an object may have 80 GB.
const PART_BYTES: usize = 8 * 1024 * 1024;
/// Longest single request to an S3 server: one part on a line of a megabyte a second.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(30);
/// Longest time that an S3 server which fails is asked again.
const RETRY_TIMEOUT: Duration = Duration::from_secs(60);
/// Tries of one request.
const RETRIES_MAX: usize = 4;
/// Name of the object that proves that the place can be written.
const PROBE: &str = "probe";

/// Where objects are kept.
#[derive(Debug, Clone)]
pub enum Place {
    /// Files below a folder.
    Folder(PathBuf),
    /// A bucket.
    Bucket(Bucket),
}

/// A bucket of an S3 server.
#[derive(Debug, Clone)]
pub struct Bucket {
    /// Its name.
    pub name: String,
    /// What the names of all objects begin with; may be empty.
    pub prefix: String,
    /// Address of the server; absent means Amazon's of the region.
    pub endpoint: Option<String>,
    /// Region, which is part of every signature.
    pub region: String,
    /// Who we are there.
    pub credentials: Credentials,
}

/// Why objects cannot be read or written.
#[derive(Debug, thiserror::Error)]
pub enum ObjectError {
    /// There is none of this name.
    #[error("there is no object `{0}`")]
    NotFound(String),
    /// What was asked cannot be made into a store.
    #[error("the object storage cannot be used")]
    Unusable(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// The disk or server failed.
    #[error("the object storage failed while {doing} `{name}`")]
    Failed {
        /// At which step.
        doing: &'static str,
        /// Of which object.
        name: String,
        /// What it said.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

/// Objects of a site. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Objects {
    store: Arc<dyn ObjectStore>,
    /// The folder, when they are files.
    folder: Option<PathBuf>,
}

/// What was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Written {
    /// How many bytes.
    pub bytes: u64,
    /// Their SHA-256, 64 hex digits.
    pub sha256: String,
}

/// An object in a list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// Its name.
    pub name: String,
    /// Its size.
    pub bytes: u64,
    /// When it was written, by the clock of who keeps it.
    pub written_at: Timestamp,
}

/// An object that is being written: bounded memory, whatever its size. Ends by `finish` or `give_up`.
pub struct Writer {
    objects: Objects,
    name: Path,
    pending: BytesMut,
    upload: Option<Box<dyn MultipartUpload>>,
    hash: Sha256,
    bytes: u64,
}

/// Bytes of an object, as they come.
pub struct Reading {
    /// Size of the whole object.
    pub size: u64,
    /// Which of its bytes come.
    pub range: Range<u64>,
    /// They.
    pub bytes: BoxStream<'static, Result<Bytes, ObjectError>>,
}

impl Objects {
    /// Opens a place; a folder is made when it is absent. Nothing is sent to an S3 server yet: see [`Objects::probe`].
    pub fn open(place: &Place) -> Result<Self, ObjectError> {
        match place {
            Place::Folder(folder) => {
                std::fs::create_dir_all(folder).map_err(unusable)?;
                let store = LocalFileSystem::new_with_prefix(folder).map_err(unusable)?;
                Ok(Self { store: Arc::new(store.with_fsync(true)), folder: Some(folder.clone()) })
            }
            Place::Bucket(bucket) => Ok(Self { store: open_bucket(bucket)?, folder: None }),
        }
    }

    /// Writes, reads and removes a small object, so that a place that cannot be used is known before it is needed.
    pub async fn probe(&self) -> Result<(), ObjectError> {
        let said = Bytes::from_static(b"galerne");
        self.put(PROBE, said.clone()).await?;
        let heard = self.read_range(PROBE, 0..said.len() as u64).await?;
        if heard != said {
            return Err(unusable("what was written is not what is read"));
        }
        self.delete(PROBE).await
    }

    /// Writes a small object whole.
    pub async fn put(&self, name: &str, bytes: Bytes) -> Result<(), ObjectError> {
        let put = self.store.put(&Path::from(name), PutPayload::from(bytes)).await;
        put.map(|_| ()).map_err(|error| failed("writing", name, error))
    }

    /// Begins to write an object.
    pub fn writer(&self, name: &str) -> Writer {
        Writer {
            objects: self.clone(),
            name: Path::from(name),
            pending: BytesMut::new(),
            upload: None,
            hash: Sha256::new(),
            bytes: 0,
        }
    }

    /// Reads an object, or a part of it that is not empty and begins inside it.
    pub async fn read(&self, name: &str, range: Option<Range<u64>>) -> Result<Reading, ObjectError> {
        let options = GetOptions { range: range.map(GetRange::Bounded), ..GetOptions::default() };
        let got = self.store.get_opts(&Path::from(name), options).await;
        let got = got.map_err(|error| failed("reading", name, error))?;
        let (size, range, told) = (got.meta.size, got.range.clone(), name.to_owned());
        let bytes = got.into_stream().map_err(move |error| failed("reading", &told, error)).boxed();
        Ok(Reading { size, range, bytes })
    }

    /// Reads a part of an object into memory.
    pub async fn read_range(&self, name: &str, range: Range<u64>) -> Result<Bytes, ObjectError> {
        if range.is_empty() {
            return Ok(Bytes::new());
        }
        self.store.get_range(&Path::from(name), range).await.map_err(|error| failed("reading", name, error))
    }

    /// Removes an object; one that is not there is removed already.
    pub async fn delete(&self, name: &str) -> Result<(), ObjectError> {
        match self.store.delete(&Path::from(name)).await {
            Ok(()) | Err(object_store::Error::NotFound { .. }) => Ok(()),
            Err(error) => Err(failed("removing", name, error)),
        }
    }

    /// All objects, in no order.
    pub fn list(&self) -> BoxStream<'static, Result<Found, ObjectError>> {
        let found = |meta: object_store::ObjectMeta| Found {
            name: meta.location.to_string(),
            bytes: meta.size,
            written_at: Timestamp::from_microsecond(meta.last_modified.timestamp_micros()).unwrap_or(Timestamp::MAX),
        };
        self.store.list(None).map_ok(found).map_err(|error| failed("listing", "*", error)).boxed()
    }

    /// Free bytes of the disk, when they are files on one of ours.
    pub fn free_bytes(&self) -> std::io::Result<Option<u64>> {
        let Some(folder) = &self.folder else { return Ok(None) };
        let disk = rustix::fs::statvfs(folder)?;
        Ok(Some(disk.f_bavail.saturating_mul(disk.f_frsize)))
    }

    /// Removes what writes that ended with their process left in the folder, if it is older than `age`; returns how many.
    /// Of an S3 server that is the work of a rule of the bucket (`AbortIncompleteMultipartUpload`).
    pub fn sweep_unfinished(&self, age: Duration, now: SystemTime) -> std::io::Result<usize> {
        self.folder.as_ref().map_or(Ok(0), |folder| sweep(folder, age, now))
    }
}

impl Writer {
    /// Takes more bytes; waits while a part goes out.
    pub async fn write(&mut self, bytes: &[u8]) -> Result<(), ObjectError> {
        self.hash.update(bytes);
        self.bytes += bytes.len() as u64;
        let mut rest = bytes;
        while self.pending.len() + rest.len() >= PART_BYTES {
            let (part, more) = rest.split_at(PART_BYTES - self.pending.len());
            self.pending.extend_from_slice(part);
            rest = more;
            self.send().await?;
        }
        self.pending.extend_from_slice(rest);
        Ok(())
    }

    /// Bytes taken so far.
    pub const fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Makes the object appear.
    pub async fn finish(mut self) -> Result<Written, ObjectError> {
        let written = Written { bytes: self.bytes, sha256: hex::encode(std::mem::take(&mut self.hash).finalize()) };
        if self.upload.is_none() {
            // One part: a single request, and no more than one object's worth of them on an S3 server.
            let bytes = std::mem::take(&mut self.pending).freeze();
            let put = self.objects.store.put(&self.name, PutPayload::from(bytes)).await;
            put.map_err(|error| failed("writing", self.name.as_ref(), error))?;
            return Ok(written);
        }
        let sent = if self.pending.is_empty() { Ok(()) } else { self.send().await };
        let ended = match (&mut self.upload, sent) {
            (Some(upload), Ok(())) => {
                upload.complete().await.map(|_| ()).map_err(|error| failed("writing", self.name.as_ref(), error))
            }
            (_, sent) => sent,
        };
        if let Err(error) = ended {
            self.give_up().await;
            return Err(error);
        }
        Ok(written)
    }

    /// Takes away what was written so far.
    pub async fn give_up(mut self) {
        if let Some(mut upload) = self.upload.take()
            && let Err(error) = upload.abort().await
        {
            tracing::warn!(%error, name = %self.name, "an unfinished object could not be given up; its parts stay for a while");
        }
    }

    async fn send(&mut self) -> Result<(), ObjectError> {
        let part = self.pending.split().freeze();
        let upload = match &mut self.upload {
            Some(upload) => upload,
            None => {
                let begun = self.objects.store.put_multipart(&self.name).await;
                self.upload.insert(begun.map_err(|error| failed("writing", self.name.as_ref(), error))?)
            }
        };
        upload.put_part(PutPayload::from(part)).await.map_err(|error| failed("writing", self.name.as_ref(), error))
    }
}

fn open_bucket(bucket: &Bucket) -> Result<Arc<dyn ObjectStore>, ObjectError> {
    tls::install_provider();
    let allow_http = bucket.endpoint.as_deref().is_some_and(|endpoint| endpoint.starts_with("http://"));
    let options = ClientOptions::new()
        .with_allow_http(allow_http)
        .with_timeout(REQUEST_TIMEOUT)
        .with_connect_timeout(Duration::from_secs(5));
    let retry = RetryConfig { max_retries: RETRIES_MAX, retry_timeout: RETRY_TIMEOUT, ..RetryConfig::default() };
    let Credentials { key_id, secret, token } = &bucket.credentials;
    let mut builder = AmazonS3Builder::new()
        .with_client_options(options)
        .with_retry(retry)
        .with_bucket_name(&bucket.name)
        .with_region(&bucket.region)
        .with_access_key_id(key_id)
        .with_secret_access_key(secret.expose_secret());
    if let Some(endpoint) = &bucket.endpoint {
        builder = builder.with_endpoint(endpoint);
    }
    if let Some(token) = token {
        builder = builder.with_token(SecretString::expose_secret(token));
    }
    let store = builder.build().map_err(unusable)?;
    Ok(if bucket.prefix.is_empty() {
        Arc::new(store)
    } else {
        Arc::new(PrefixStore::new(store, Path::from(bucket.prefix.as_str())))
    })
}

/// Files that the local store writes before it renames them have `#` and a number at the end of their names.
fn sweep(folder: &FilePath, age: Duration, now: SystemTime) -> std::io::Result<usize> {
    let mut swept = 0;
    for entry in std::fs::read_dir(folder)? {
        let entry = entry?;
        let path = entry.path();
        if entry.file_type()?.is_dir() {
            swept += sweep(&path, age, now)?;
            continue;
        }
        let name = entry.file_name();
        let is_unfinished = name
            .to_string_lossy()
            .rsplit_once('#')
            .is_some_and(|(_, number)| !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit()));
        let is_old = now.duration_since(entry.metadata()?.modified()?).is_ok_and(|old| old >= age);
        if is_unfinished && is_old {
            std::fs::remove_file(&path)?;
            swept += 1;
        }
    }
    Ok(swept)
}

fn unusable(error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> ObjectError {
    ObjectError::Unusable(error.into())
}

fn failed(doing: &'static str, name: &str, error: object_store::Error) -> ObjectError {
    match error {
        object_store::Error::NotFound { .. } => ObjectError::NotFound(name.to_owned()),
        error => ObjectError::Failed { doing, name: name.to_owned(), source: error.into() },
    }
}

#[cfg(test)]
mod tests;

//! The content-addressed store: `sha256/<hex>` for whole files, `partial/` for what is on its way.

use std::collections::BTreeSet;
use std::fs::{self, File, Permissions};
use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::sync::{OwnedRwLockReadGuard, OwnedRwLockWriteGuard, RwLock};

use super::part::{Landed, Part};
use super::{FetchError, Fetched, Sha256Digest};

/// Reads how many bytes are free at a path; replaced in tests.
type FreeBytes = fn(&Path) -> io::Result<u64>;

/// Blobs below one directory. Cheap to clone; holds no open file.
#[derive(Debug, Clone)]
pub struct Blobs {
    directory: PathBuf,
    reserve_bytes: u64,
    pub(super) free_bytes: FreeBytes,
    /// Read by those who take blobs, written by who removes some.
    holders: Arc<RwLock<()>>,
}

/// As long as it lives no blob goes.
#[derive(Debug)]
pub struct Held {
    _holder: OwnedRwLockReadGuard<()>,
}

/// The store while nobody holds it: the only way to remove blobs.
#[derive(Debug)]
pub struct Unheld {
    blobs: Blobs,
    _alone: OwnedRwLockWriteGuard<()>,
}

impl Blobs {
    /// Opens or makes the store in `directory`, which keeps `reserve_bytes` of its disk free.
    pub fn open(directory: &Path, reserve_bytes: u64) -> Result<Self, FetchError> {
        let (directory, holders) = (directory.to_owned(), Arc::default());
        let blobs = Self { directory, reserve_bytes, free_bytes: free_bytes_of_disk, holders };
        for directory in [blobs.whole(), blobs.partial()] {
            fs::create_dir_all(&directory).map_err(FetchError::io("make", &directory))?;
        }
        Ok(blobs)
    }

    /// Where the blob with this digest lies, if it is there.
    pub fn path(&self, digest: Sha256Digest) -> PathBuf {
        self.whole().join(digest.to_string())
    }

    /// Its path below the store's directory, as records keep it.
    pub fn relative_path(digest: Sha256Digest) -> String {
        format!("sha256/{digest}")
    }

    /// The blob with this digest, if it is there.
    pub fn find(&self, digest: Sha256Digest) -> Result<Option<Fetched>, FetchError> {
        let path = self.path(digest);
        match fs::metadata(&path) {
            Ok(found) if found.is_file() => {
                Ok(Some(Fetched { digest, bytes: found.len(), path, resumed_bytes: 0, was_present: true }))
            }
            Ok(_) => Ok(None),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(FetchError::io("look at", &path)(error)),
        }
    }

    /// A path for a file that another program will write and `adopt` will then take, such as requantised weights.
    pub fn scratch(&self, name: &str) -> PathBuf {
        let key = Sha256Digest::of(name.as_bytes()).to_string();
        self.partial().join(format!("{}.scratch", &key[..32]))
    }

    /// Takes a file below `scratch` as a blob: hashes it, makes it durable and gives it its name.
    pub fn adopt(&self, path: &Path) -> Result<Fetched, FetchError> {
        let file = File::open(path).map_err(FetchError::io("open", path))?;
        let (digest, bytes) = super::part::hash_of(&file).map_err(FetchError::io("read", path))?;
        self.name_it(&file, path, digest, bytes)
    }

    /// For whoever takes a blob that no record names yet, until one does.
    pub async fn hold(&self) -> Held {
        Held { _holder: Arc::clone(&self.holders).read_owned().await }
    }

    /// The right to remove blobs, unless somebody holds them.
    pub fn unheld(&self) -> Option<Unheld> {
        let alone = Arc::clone(&self.holders).try_write_owned().ok()?;
        Some(Unheld { blobs: self.clone(), _alone: alone })
    }

    /// Deletes part and scratch files that nobody wrote to for `age`; returns how many bytes that freed.
    pub fn sweep(&self, age: Duration) -> Result<u64, FetchError> {
        let directory = self.partial();
        let mut freed_bytes = 0;
        for entry in fs::read_dir(&directory).map_err(FetchError::io("list", &directory))? {
            let entry = entry.map_err(FetchError::io("list", &directory))?;
            let path = entry.path();
            let found = entry.metadata().map_err(FetchError::io("look at", &path))?;
            let written_at = found.modified().unwrap_or(SystemTime::UNIX_EPOCH);
            let is_old = SystemTime::now().duration_since(written_at).is_ok_and(|passed| passed > age);
            if is_old && found.is_file() && Part::is_idle(&path) {
                fs::remove_file(&path).map_err(FetchError::io("delete", &path))?;
                freed_bytes += found.len();
            }
        }
        Ok(freed_bytes)
    }

    /// Refuses a write of `needed_bytes` that would eat into the reserve.
    pub(super) fn check_space(&self, needed_bytes: u64) -> Result<(), FetchError> {
        let free_bytes = (self.free_bytes)(&self.directory).map_err(FetchError::io("measure", &self.directory))?;
        if needed_bytes.saturating_add(self.reserve_bytes) > free_bytes {
            return Err(self.disk_full(needed_bytes, free_bytes));
        }
        Ok(())
    }

    /// The error for a write that the disk refused.
    pub(super) fn disk_full(&self, needed_bytes: u64, free_bytes: u64) -> FetchError {
        let directory = self.directory.clone();
        FetchError::DiskFull { directory, needed_bytes, free_bytes, reserve_bytes: self.reserve_bytes }
    }

    /// Turns a landed part into a blob.
    pub(super) fn keep(&self, landed: Landed) -> Result<Fetched, FetchError> {
        let fetched = self.name_it(landed.file(), landed.path(), landed.digest(), landed.bytes())?;
        let resumed_bytes = landed.resumed_bytes();
        landed.forget_origin()?;
        Ok(Fetched { resumed_bytes, ..fetched })
    }

    /// Contents first, then the name, then the directory: a crash leaves a whole blob or none.
    fn name_it(&self, file: &File, from: &Path, digest: Sha256Digest, bytes: u64) -> Result<Fetched, FetchError> {
        let path = self.path(digest);
        file.set_permissions(Permissions::from_mode(0o444)).map_err(FetchError::io("make read-only", from))?;
        file.sync_all().map_err(FetchError::io("flush", from))?;
        fs::rename(from, &path).map_err(FetchError::io("name", &path))?;
        sync_directory(&self.whole())?;
        Ok(Fetched { digest, bytes, path, resumed_bytes: 0, was_present: false })
    }

    pub(super) fn partial(&self) -> PathBuf {
        self.directory.join("partial")
    }

    fn whole(&self) -> PathBuf {
        self.directory.join("sha256")
    }
}

impl Unheld {
    /// Deletes the blobs whose digest is not in `named`, and nothing else that lies there.
    pub fn keep_only(&self, named: &BTreeSet<String>) -> Result<(), FetchError> {
        let directory = self.blobs.whole();
        for entry in fs::read_dir(&directory).map_err(FetchError::io("list", &directory))? {
            let entry = entry.map_err(FetchError::io("list", &directory))?;
            let name = entry.file_name();
            let Some(name) = name.to_str().filter(|name| is_digest(name)) else { continue };
            if !named.contains(name) {
                let path = entry.path();
                fs::remove_file(&path).map_err(FetchError::io("delete", &path))?;
            }
        }
        Ok(())
    }
}

/// Whether this is the name of a blob.
fn is_digest(name: &str) -> bool {
    name.parse::<Sha256Digest>().is_ok_and(|digest| digest.to_string() == name)
}

fn sync_directory(directory: &Path) -> Result<(), FetchError> {
    let handle = File::open(directory).map_err(FetchError::io("open", directory))?;
    handle.sync_all().map_err(FetchError::io("flush", directory))
}

/// Bytes that an unprivileged process can still write.
fn free_bytes_of_disk(path: &Path) -> io::Result<u64> {
    let disk = rustix::fs::statvfs(path)?;
    Ok(disk.f_bavail.saturating_mul(disk.f_frsize))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn blobs_that_are_held_stay_and_only_files_named_by_a_digest_ever_go() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let blobs = Blobs::open(folder.path(), 0).expect("made");
        let (mine, other) = ("ab".repeat(32), "cd".repeat(32));
        let strange = ["ab".to_owned(), "AB".repeat(32), "zz".repeat(32), format!("sha256:{mine}")];
        for name in [&mine, &other].into_iter().chain(&strange) {
            fs::write(blobs.whole().join(name), "weights").expect("written");
        }
        let (held, again) = (blobs.hold().await, blobs.clone().hold().await);
        assert!(blobs.unheld().is_none(), "two downloads are at work");
        drop(held);
        assert!(blobs.clone().unheld().is_none(), "one still is");
        drop(again);
        let unheld = blobs.unheld().expect("none is");
        unheld.keep_only(&BTreeSet::from([mine.clone()])).expect("removed");
        assert!(blobs.unheld().is_none(), "one removes at a time");
        drop(unheld);
        let mut left: Vec<String> = fs::read_dir(blobs.whole())
            .expect("a folder")
            .map(|entry| entry.expect("an entry").file_name().into_string().expect("UTF-8"))
            .collect();
        left.sort();
        let mut kept: Vec<String> = strange.into_iter().chain([mine]).collect();
        kept.sort();
        assert_eq!(left, kept);
    }
}

//! The content-addressed store: `sha256/<hex>` for whole files, `partial/` for what is on its way.

use std::fs::{self, File, Permissions};
use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

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
}

impl Blobs {
    /// Opens or makes the store in `directory`, which keeps `reserve_bytes` of its disk free.
    pub fn open(directory: &Path, reserve_bytes: u64) -> Result<Self, FetchError> {
        let blobs = Self { directory: directory.to_owned(), reserve_bytes, free_bytes: free_bytes_of_disk };
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

fn sync_directory(directory: &Path) -> Result<(), FetchError> {
    let handle = File::open(directory).map_err(FetchError::io("open", directory))?;
    handle.sync_all().map_err(FetchError::io("flush", directory))
}

/// Bytes that an unprivileged process can still write.
fn free_bytes_of_disk(path: &Path) -> io::Result<u64> {
    let disk = rustix::fs::statvfs(path)?;
    Ok(disk.f_bavail.saturating_mul(disk.f_frsize))
}

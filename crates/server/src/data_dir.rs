//! The data directory: one process at a time, secrets only for its owner.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};

use crate::app::{PEPPER_BYTES, Pepper};

/// Folders below the data directory.
const FOLDERS: [&str; 5] = ["secrets", "blobs", "spool", "logs", "backups"];

/// A data directory that this process holds.
#[derive(Debug)]
pub(crate) struct DataDir {
    path: PathBuf,
    /// Locked while it is open; the system lets go of it with the process, however that ends.
    _lock: File,
}

/// Why a data directory cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum DataDirError {
    /// Another process holds it.
    #[error("the data directory `{}` is used by process {holder}", path.display())]
    Locked {
        /// The directory.
        path: PathBuf,
        /// Its process id, or `unknown`.
        holder: String,
    },
    /// The system refuses.
    #[error("cannot use `{}`", path.display())]
    Unusable {
        /// What was to be used.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// A secret is readable by others.
    #[error("`{}` can be read by others (mode {mode:o})", path.display())]
    Exposed {
        /// The secret.
        path: PathBuf,
        /// Its mode.
        mode: u32,
    },
    /// A secret has the wrong length.
    #[error("`{}` is damaged: it holds {length} bytes instead of {PEPPER_BYTES}", path.display())]
    Damaged {
        /// The secret.
        path: PathBuf,
        /// Its length.
        length: usize,
    },
}

impl DataDir {
    /// Makes the directory when it is absent and takes it for this process.
    pub(crate) fn take(path: &Path) -> Result<Self, DataDirError> {
        Self::take_with(path, &FOLDERS)
    }

    /// The same for a gateway in a process of its own, which keeps a spool and logs only.
    pub(crate) fn take_for_gateway(path: &Path) -> Result<Self, DataDirError> {
        Self::take_with(path, &["spool", "logs"])
    }

    fn take_with(path: &Path, folders: &[&str]) -> Result<Self, DataDirError> {
        let unusable = |path: &Path, source| DataDirError::Unusable { path: path.to_owned(), source };
        make(path).map_err(|source| unusable(path, source))?;
        let path = path.canonicalize().map_err(|source| unusable(path, source))?;
        let lock = lock(&path)?;
        for folder in folders {
            let folder = path.join(folder);
            make(&folder).map_err(|source| unusable(&folder, source))?;
        }
        Ok(Self { path, _lock: lock })
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    pub(crate) fn spool(&self) -> PathBuf {
        self.path.join("spool")
    }

    /// The pepper; drawn when it is absent. A whole file appears or none.
    pub(crate) fn pepper(&self) -> Result<Pepper, DataDirError> {
        let path = self.path.join("secrets").join("pepper");
        let unusable = |source| DataDirError::Unusable { path: path.clone(), source };
        match File::open(&path) {
            Ok(mut file) => {
                let mode = file.metadata().map_err(unusable)?.permissions().mode() & 0o777;
                if mode & 0o077 != 0 {
                    return Err(DataDirError::Exposed { path, mode });
                }
                let mut bytes = Vec::new();
                (&mut file).take(PEPPER_BYTES as u64 + 1).read_to_end(&mut bytes).map_err(unusable)?;
                if bytes.len() == PEPPER_BYTES {
                    Ok(Pepper::new(bytes))
                } else {
                    Err(DataDirError::Damaged { path, length: bytes.len() })
                }
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let mut bytes = vec![0; PEPPER_BYTES];
                getrandom::fill(&mut bytes).map_err(|error| unusable(io::Error::other(error.to_string())))?;
                write_private(&path, &bytes).map_err(unusable)?;
                Ok(Pepper::new(bytes))
            }
            Err(error) => Err(unusable(error)),
        }
    }
}

fn make(path: &Path) -> io::Result<()> {
    match DirBuilder::new().recursive(true).mode(0o700).create(path) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists && path.is_dir() => Ok(()),
        other => other,
    }
}

fn lock(folder: &Path) -> Result<File, DataDirError> {
    let path = folder.join("LOCK");
    let unusable = |source| DataDirError::Unusable { path: path.clone(), source };
    let mut file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(&path)
        .map_err(unusable)?;
    match flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => {}
        Err(rustix::io::Errno::WOULDBLOCK) => {
            let mut holder = String::new();
            file.read_to_string(&mut holder).map_err(unusable)?;
            let known = !holder.trim().is_empty() && holder.trim().bytes().all(|byte| byte.is_ascii_digit());
            let holder = if known { holder.trim().to_owned() } else { "unknown".to_owned() };
            return Err(DataDirError::Locked { path: folder.to_owned(), holder });
        }
        Err(errno) => return Err(unusable(errno.into())),
    }
    file.set_len(0).map_err(unusable)?;
    writeln!(file, "{}", std::process::id()).map_err(unusable)?;
    file.sync_all().map_err(unusable)?;
    Ok(file)
}

fn write_private(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let fresh = path.with_extension("new");
    match fs::remove_file(&fresh) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&fresh)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    fs::rename(&fresh, path)?;
    let folder = path.parent().ok_or(io::ErrorKind::InvalidInput)?;
    File::open(folder)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_process_is_refused_and_told_who_holds_the_directory() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let held = DataDir::take(folder.path()).expect("free");
        match DataDir::take(folder.path()) {
            Err(DataDirError::Locked { holder, .. }) => assert_eq!(holder, std::process::id().to_string()),
            other => panic!("taken twice: {other:?}"),
        }
        drop(held);
        DataDir::take(folder.path()).expect("free again");
    }

    #[test]
    fn the_pepper_stays_and_is_only_for_its_owner() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let data = DataDir::take(folder.path()).expect("free");
        let first = data.pepper().expect("drawn").digest("galerne_x");
        assert_eq!(data.pepper().expect("read").digest("galerne_x"), first);
        let path = data.path().join("secrets/pepper");
        assert_eq!(fs::metadata(&path).expect("there").permissions().mode() & 0o777, 0o600);
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).expect("ours");
        assert!(matches!(data.pepper(), Err(DataDirError::Exposed { mode: 0o644, .. })));
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).expect("ours");
        fs::write(&path, b"short").expect("ours");
        assert!(matches!(data.pepper(), Err(DataDirError::Damaged { length: 5, .. })));
    }
}

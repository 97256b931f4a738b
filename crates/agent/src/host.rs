//! Small files of `/proc`, `/sys` and `/etc`.

use std::fs::{self, File};
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};

/// Largest file read: `/proc/cpuinfo` of 1,024 threads is about 2 MB.
const FILE_MAX_BYTES: u64 = 8 * 1024 * 1024;

/// The root below which a host shows itself.
#[derive(Debug, Clone)]
pub struct Host {
    root: PathBuf,
}

impl Host {
    /// This host.
    pub fn this() -> Self {
        Self::below(Path::new("/"))
    }

    /// A host laid out below `root`.
    pub fn below(root: &Path) -> Self {
        Self { root: root.to_owned() }
    }

    /// A file's text without surrounding white space; nothing when it is absent, unreadable or empty.
    pub(crate) fn text(&self, path: &str) -> Option<String> {
        self.read(path).ok().filter(|text| !text.is_empty())
    }

    /// The same, with why a file cannot be read.
    pub(crate) fn read(&self, path: &str) -> io::Result<String> {
        let mut text = Vec::new();
        File::open(self.root.join(path))?.take(FILE_MAX_BYTES).read_to_end(&mut text)?;
        Ok(String::from_utf8_lossy(&text).trim().to_owned())
    }

    /// A file that holds one number.
    pub(crate) fn number<T: std::str::FromStr>(&self, path: &str) -> Option<T> {
        self.text(path)?.parse().ok()
    }

    /// Names in a directory, in order; none when it is absent.
    pub(crate) fn names(&self, path: &str) -> Vec<String> {
        let Ok(entries) = fs::read_dir(self.root.join(path)) else { return Vec::new() };
        let mut names: Vec<_> =
            entries.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
        names.sort();
        names
    }

    /// Whether a path is there, a dangling link too.
    pub(crate) fn has(&self, path: &str) -> bool {
        fs::symlink_metadata(self.root.join(path)).is_ok()
    }
}

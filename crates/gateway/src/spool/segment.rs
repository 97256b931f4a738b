//! A segment file: 16 bytes of head (format, first sequence), then frames.
//!
//! Space is reserved when the file is made, so that a record that was promised room is not refused by a full disk.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Names the format; another one is another version's.
const MAGIC: &[u8; 8] = b"glnspl01";
/// Bytes before the first frame.
pub(super) const HEAD_BYTES: u64 = HEAD as u64;
const HEAD: usize = 16;
const SPARE: &str = "spare";

/// The file that is being written.
#[derive(Debug)]
pub(super) struct Segment {
    pub(super) file: Arc<File>,
    pub(super) number: u64,
    /// Sequence of the first usage record that is or will be in it.
    pub(super) first_sequence: i64,
    /// Where the next frame goes.
    pub(super) end: u64,
}

impl Segment {
    /// Turns a spare file into segment `number`. The name is durable once the directory is synced.
    pub(super) fn begin(dir: &Path, spare: File, number: u64, first_sequence: i64) -> io::Result<Self> {
        spare.write_all_at(&head(first_sequence), 0)?;
        fs::rename(dir.join(SPARE), path(dir, number))?;
        Ok(Self { file: Arc::new(spare), number, first_sequence, end: HEAD_BYTES })
    }

    /// Goes on after the last whole frame of an existing segment.
    pub(super) fn resume(dir: &Path, number: u64, first_sequence: i64, end: u64, reserve: u64) -> io::Result<Self> {
        let file = OpenOptions::new().read(true).write(true).open(path(dir, number))?;
        file.set_len(end)?;
        file.write_all_at(&head(first_sequence), 0)?;
        reserve_space(&file, reserve)?;
        Ok(Self { file: Arc::new(file), number, first_sequence, end })
    }

    /// Appends a frame with write(2). After an error the file ends where it did.
    pub(super) fn append(&mut self, frame: &[u8]) -> io::Result<()> {
        match self.file.write_all_at(frame, self.end) {
            Ok(()) => {
                self.end += frame.len() as u64;
                Ok(())
            }
            Err(error) => {
                // What a failed write left behind is overwritten by the next one; cutting it off is only tidier.
                if let Err(error) = self.file.set_len(self.end) {
                    tracing::warn!(%error, "spool segment could not be cut back");
                }
                Err(error)
            }
        }
    }
}

/// Makes the file the next segment will be, with its space reserved.
pub(super) fn create_spare(dir: &Path, bytes: u64) -> io::Result<File> {
    let file = OpenOptions::new().read(true).write(true).create(true).truncate(true).open(dir.join(SPARE))?;
    reserve_space(&file, bytes)?;
    Ok(file)
}

/// Numbers of the segments in `dir`, oldest first.
pub(super) fn list(dir: &Path) -> io::Result<Vec<u64>> {
    let mut numbers = Vec::new();
    for entry in fs::read_dir(dir)? {
        let name = entry?.file_name();
        let number: Option<u64> =
            name.to_str().and_then(|name| name.strip_suffix(".seg")).and_then(|stem| stem.parse().ok());
        numbers.extend(number);
    }
    numbers.sort_unstable();
    Ok(numbers)
}

/// The whole content of a segment and its first sequence. A head that was not written whole reads as an empty segment.
pub(super) fn read(dir: &Path, number: u64) -> io::Result<(Option<i64>, Vec<u8>)> {
    let bytes = fs::read(path(dir, number))?;
    let Some((head, frames)) = bytes.split_first_chunk::<HEAD>() else {
        return Ok((None, Vec::new()));
    };
    let (magic, first) = head.split_first_chunk::<8>().expect("the head is 16 bytes");
    if magic != MAGIC {
        let text = format!("`{}` is not a spool segment of this version", path(dir, number).display());
        return Err(io::Error::new(io::ErrorKind::InvalidData, text));
    }
    let first = i64::from_le_bytes(first.try_into().expect("8 of 16 bytes remain"));
    Ok((Some(first), frames.to_vec()))
}

/// Reads at most `limit` bytes at `offset` of segment `number`.
pub(super) fn read_part(dir: &Path, number: u64, offset: u64, limit: usize) -> io::Result<Vec<u8>> {
    let file = File::open(path(dir, number))?;
    let mut bytes = vec![0; limit];
    file.read_exact_at(&mut bytes, offset)?;
    Ok(bytes)
}

/// Removes a segment whose records are all in the ledger.
pub(super) fn remove(dir: &Path, number: u64) -> io::Result<()> {
    fs::remove_file(path(dir, number))
}

/// Makes names in `dir` durable.
pub(super) fn sync_dir(dir: &Path) -> io::Result<()> {
    File::open(dir)?.sync_all()
}

fn head(first_sequence: i64) -> [u8; HEAD] {
    let mut head = [0; HEAD];
    head[..8].copy_from_slice(MAGIC);
    head[8..].copy_from_slice(&first_sequence.to_le_bytes());
    head
}

fn path(dir: &Path, number: u64) -> PathBuf {
    dir.join(format!("{number:020}.seg"))
}

fn reserve_space(file: &File, bytes: u64) -> io::Result<()> {
    match rustix::fs::fallocate(file, rustix::fs::FallocateFlags::KEEP_SIZE, 0, bytes) {
        // Some file systems cannot reserve; there a full disk shows at the write, and admission stops then.
        Ok(()) | Err(rustix::io::Errno::OPNOTSUPP | rustix::io::Errno::NOSYS) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

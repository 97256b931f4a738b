//! A reader that never goes past the end of the file, nor past the largest head that makes sense.

use std::io::{ErrorKind, Read, Seek, SeekFrom};

use super::GgufError;

/// Reads little-endian values and keeps count of where it is.
pub(super) struct Bounded<R> {
    source: R,
    position: u64,
    length: u64,
    head_max: u64,
}

impl<R: Read + Seek> Bounded<R> {
    pub(super) fn new(source: R, length: u64, head_max: u64) -> Self {
        Self { source, position: 0, length, head_max }
    }

    pub(super) fn position(&self) -> u64 {
        self.position
    }

    pub(super) fn invalid(&self, what: &str) -> GgufError {
        GgufError::Invalid { at: self.position, what: what.to_owned() }
    }

    /// Whether `bytes` more are there; asked before anything is allocated or skipped.
    pub(super) fn check_left(&self, bytes: u64) -> Result<(), GgufError> {
        let needed_bytes = self.position.saturating_add(bytes);
        if needed_bytes > self.length {
            return Err(GgufError::Truncated { file_bytes: self.length, needed_bytes });
        }
        if needed_bytes > self.head_max {
            return Err(self.invalid(&format!("the head is larger than {} bytes", self.head_max)));
        }
        Ok(())
    }

    pub(super) fn fill(&mut self, target: &mut [u8]) -> Result<(), GgufError> {
        let wanted = target.len() as u64;
        self.check_left(wanted)?;
        self.source.read_exact(target).map_err(|error| match error.kind() {
            // The file shrank while it was read.
            ErrorKind::UnexpectedEof => {
                GgufError::Truncated { file_bytes: self.length, needed_bytes: self.position.saturating_add(wanted) }
            }
            _ => GgufError::Io(error),
        })?;
        self.position += wanted;
        Ok(())
    }

    pub(super) fn bytes<const N: usize>(&mut self) -> Result<[u8; N], GgufError> {
        let mut target = [0u8; N];
        self.fill(&mut target)?;
        Ok(target)
    }

    pub(super) fn u8(&mut self) -> Result<u8, GgufError> {
        Ok(self.bytes::<1>()?[0])
    }

    pub(super) fn u32(&mut self) -> Result<u32, GgufError> {
        Ok(u32::from_le_bytes(self.bytes()?))
    }

    pub(super) fn u64(&mut self) -> Result<u64, GgufError> {
        Ok(u64::from_le_bytes(self.bytes()?))
    }

    pub(super) fn skip(&mut self, bytes: u64) -> Result<(), GgufError> {
        self.check_left(bytes)?;
        let step = i64::try_from(bytes).map_err(|_| self.invalid("a length overflows"))?;
        if bytes < 4096 {
            // Inside the buffer of a `BufReader` a short read is far cheaper than a seek.
            let copied =
                std::io::copy(&mut (&mut self.source).take(bytes), &mut std::io::sink()).map_err(GgufError::Io)?;
            if copied != bytes {
                return Err(GgufError::Truncated { file_bytes: self.length, needed_bytes: self.position + bytes });
            }
        } else {
            self.source.seek(SeekFrom::Current(step)).map_err(GgufError::Io)?;
        }
        self.position += bytes;
        Ok(())
    }

    /// A length and that many bytes of UTF-8.
    pub(super) fn text(&mut self, max: u64) -> Result<String, GgufError> {
        let length = self.u64()?;
        if length > max {
            return Err(self.invalid(&format!("a name of {length} bytes is longer than {max}")));
        }
        self.text_of(length)
    }

    pub(super) fn text_of(&mut self, length: u64) -> Result<String, GgufError> {
        self.check_left(length)?;
        let size = usize::try_from(length).map_err(|_| self.invalid("a length overflows"))?;
        let mut bytes = vec![0u8; size];
        self.fill(&mut bytes)?;
        String::from_utf8(bytes).map_err(|_| self.invalid("a text is not UTF-8"))
    }
}

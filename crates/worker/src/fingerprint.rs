//! `system_fingerprint`: one word for all that an answer depends on besides its request: the program and its libraries, the
//! weights, how they are served, the adapter. Answers under one fingerprint can be compared; after an update it is another.
//! Deliberately absent: protection against forgery, and the whole of the weights: their head and blocks spread over the
//! rest are looked at, all of which training changes.

use std::fmt;
use std::fs::File;
use std::io::{self, Read as _, Seek as _, SeekFrom};
use std::path::Path;

/// FNV-1a over words of eight bytes, with a fold that lets high bits reach low ones.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Fingerprint(u64);

/// Bytes looked at in one place, and such places in a file that is not looked at whole.
const BLOCK_BYTES: u64 = 4096;
const BLOCKS: u64 = 256;

impl Default for Fingerprint {
    fn default() -> Self {
        Self(0xcbf2_9ce4_8422_2325)
    }
}

impl Fingerprint {
    /// Together with these bytes, whose number counts too.
    #[must_use]
    pub(crate) fn with(self, bytes: &[u8]) -> Self {
        let words = bytes.chunks(8).map(|chunk| {
            let mut word = [0; 8];
            word[..chunk.len()].copy_from_slice(chunk);
            u64::from_le_bytes(word)
        });
        words.fold(self.mixed(bytes.len() as u64), Self::mixed)
    }

    /// Together with a file: all of a small one; of a large one its length and blocks spread over it, the first and the last
    /// among them.
    pub(crate) fn with_file(self, path: &Path) -> io::Result<Self> {
        let mut file = File::open(path)?;
        let length = file.metadata()?.len();
        let mut block = vec![0; usize::try_from(BLOCK_BYTES).expect("small")];
        let blocks = length.div_ceil(BLOCK_BYTES).clamp(1, BLOCKS);
        let last = length.saturating_sub(BLOCK_BYTES);
        let mut print = self.mixed(length);
        for n in 0..blocks {
            let at = if blocks == 1 { 0 } else { last / (blocks - 1) * n + last % (blocks - 1) * n / (blocks - 1) };
            file.seek(SeekFrom::Start(at))?;
            block.clear();
            file.by_ref().take(BLOCK_BYTES).read_to_end(&mut block)?;
            print = print.with(&block);
        }
        Ok(print)
    }

    /// As a part of another.
    #[must_use]
    pub(crate) fn bytes(self) -> [u8; 8] {
        self.0.to_le_bytes()
    }

    fn mixed(self, word: u64) -> Self {
        let product = (self.0 ^ word).wrapping_mul(0x0100_0000_01b3);
        Self(product ^ (product >> 32))
    }
}

/// As OpenAI writes it.
impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "fp_{:010x}", (self.0 ^ (self.0 >> 40)) & 0xff_ffff_ffff)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of_file(bytes: &[u8]) -> Fingerprint {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("f");
        std::fs::write(&path, bytes).expect("written");
        Fingerprint::default().with_file(&path).expect("read")
    }

    #[test]
    fn equal_parts_give_one_word_and_other_parts_another() {
        let print =
            |parts: &[&str]| parts.iter().fold(Fingerprint::default(), |print, part| print.with(part.as_bytes()));
        assert_eq!(print(&["a", "bc"]).to_string(), print(&["a", "bc"]).to_string());
        assert_eq!(print(&["a", "bc"]).to_string().len(), 13);
        for other in [&["ab", "c"] as &[&str], &["a", "bd"], &["a", "bc", ""], &["a"]] {
            assert_ne!(print(&["a", "bc"]).to_string(), print(other).to_string(), "{other:?}");
        }
    }

    #[test]
    fn a_file_counts_by_its_length_its_ends_and_what_lies_between() {
        let mut bytes = vec![7; 3 << 20];
        let first = of_file(&bytes);
        assert_eq!(of_file(&bytes), first);
        for at in [0, bytes.len() - 1] {
            bytes[at] ^= 1;
            assert_ne!(of_file(&bytes), first, "at {at}");
            bytes[at] ^= 1;
        }
        bytes.push(7);
        assert_ne!(of_file(&bytes), first, "one byte longer");
        // Training changes every tensor: half a million bytes in a row are many blocks.
        bytes.pop();
        bytes[1 << 20..][..1 << 19].fill(8);
        assert_ne!(of_file(&bytes), first);
        // A small file counts with every byte.
        let small: Vec<u8> = (0..10_000).map(|i: u32| i.to_le_bytes()[0]).collect();
        for at in [4095, 4096, 8191, 8192, 9999] {
            let mut other = small.clone();
            other[at] ^= 1;
            assert_ne!(of_file(&other), of_file(&small), "at {at}");
        }
        assert_ne!(of_file(b""), of_file(b"\0"));
    }
}

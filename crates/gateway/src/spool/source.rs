//! The number that tells this spool from every other: made once, kept in `SOURCE`.

use std::fs;
use std::io::{self, Write as _};
use std::path::Path;

use super::segment;

/// Reads the number of the spool in `dir`, making directory and number when absent. Positive and below 2⁵³ (JSON).
pub(super) fn read_or_create(dir: &Path) -> io::Result<i64> {
    fs::create_dir_all(dir)?;
    let path = dir.join("SOURCE");
    match fs::read_to_string(&path) {
        Ok(text) => text.trim().parse().ok().filter(|&source| source > 0).ok_or_else(|| {
            let text = format!("`{}` does not hold the number of a spool", path.display());
            io::Error::new(io::ErrorKind::InvalidData, text)
        }),
        Err(error) if error.kind() == io::ErrorKind::NotFound => create(dir, &path),
        Err(error) => Err(error),
    }
}

fn create(dir: &Path, path: &Path) -> io::Result<i64> {
    // The last 62 bits of a version 7 UUID are random; 52 of them are never 0 together in practice, and `| 1` makes sure.
    let random = uuid::Uuid::now_v7().as_u128() & ((1 << 52) - 1);
    let source = i64::try_from(random | 1).expect("52 bits fit");
    let made = dir.join("SOURCE.new");
    let mut file = fs::File::create(&made)?;
    writeln!(file, "{source}")?;
    file.sync_all()?;
    fs::rename(&made, path)?;
    segment::sync_dir(dir)?;
    Ok(source)
}

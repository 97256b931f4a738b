//! How a node is doing now, and a watch that says once when it gets into trouble and once when it is out of it.

use std::path::{Path, PathBuf};

use galerne_model::units::Bytes;

use crate::Host;
use crate::facts::parse_meminfo;

/// Free disk below which commits and downloads are about to fail: the write-ahead log of a busy ledger needs some of it.
const DISK_SHORT: Bytes = Bytes(512 * 1024 * 1024);
/// Available memory below which the kernel is about to end the largest process, which is an engine.
const MEMORY_SHORT: Bytes = Bytes(256 * 1024 * 1024);

/// What is read at every heartbeat; what cannot be read is absent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Health {
    /// Mean number of runnable tasks over the last minute, in thousandths.
    pub load_thousandths: Option<i64>,
    /// Memory that programs can still take.
    pub memory_available: Option<Bytes>,
    /// Bytes that an unprivileged process can still write where the data lie.
    pub disk_free: Option<Bytes>,
}

/// Reads the health of `host`; `data` is a path on the disk that matters.
pub fn read(host: &Host, data: &Path) -> Health {
    let disk = rustix::fs::statvfs(data).ok();
    let disk_free = disk.and_then(|disk| i64::try_from(disk.f_bavail.checked_mul(disk.f_frsize)?).ok());
    Health {
        load_thousandths: host.text("proc/loadavg").and_then(|text| parse_load(&text)),
        memory_available: host.text("proc/meminfo").and_then(|text| parse_meminfo(&text, "MemAvailable")).map(Bytes),
        disk_free: disk_free.map(Bytes),
    }
}

/// What a host has too little of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Shortage {
    Disk,
    Memory,
}

/// Looks at a host again and again and logs what changed.
#[derive(Debug)]
pub struct Watch {
    host: Host,
    data: PathBuf,
    shortages: Vec<Shortage>,
}

impl Watch {
    /// A watch over `host`, whose data lie at `data`.
    pub fn new(host: Host, data: &Path) -> Self {
        Self { host, data: data.to_owned(), shortages: Vec::new() }
    }

    /// Looks once; says what began and what ended since the last look.
    pub fn look(&mut self) -> Health {
        let health = read(&self.host, &self.data);
        let now = shortages(&health, &self.shortages);
        for begun in now.iter().filter(|shortage| !self.shortages.contains(shortage)) {
            match begun {
                Shortage::Disk => {
                    tracing::error!(
                        free_bytes = health.disk_free.map(|bytes| bytes.0),
                        "the disk of the data directory is nearly full"
                    );
                }
                Shortage::Memory => {
                    tracing::error!(
                        available_bytes = health.memory_available.map(|bytes| bytes.0),
                        "memory is nearly used up"
                    );
                }
            }
        }
        for ended in self.shortages.iter().filter(|shortage| !now.contains(shortage)) {
            tracing::info!(shortage = ?ended, "a shortage has ended");
        }
        self.shortages = now;
        health
    }
}

/// What is short now. A shortage ends only at twice the bound, so that it is not told again at every look.
fn shortages(health: &Health, before: &[Shortage]) -> Vec<Shortage> {
    let kinds =
        [(Shortage::Disk, health.disk_free, DISK_SHORT), (Shortage::Memory, health.memory_available, MEMORY_SHORT)];
    let is_short = |(kind, left, bound): &(Shortage, Option<Bytes>, Bytes)| {
        let bound = if before.contains(kind) { Bytes(bound.0 * 2) } else { *bound };
        left.is_some_and(|left| left < bound)
    };
    kinds.into_iter().filter(is_short).map(|(kind, _, _)| kind).collect()
}

/// `0.52 0.58 0.59 1/467 12345` → 520.
fn parse_load(text: &str) -> Option<i64> {
    let (whole, hundredths) = text.split_ascii_whitespace().next()?.split_once('.')?;
    if hundredths.len() != 2 {
        return None;
    }
    let whole: i64 = whole.parse().ok().filter(|whole| *whole >= 0)?;
    let hundredths: i64 = hundredths.parse().ok().filter(|part| *part >= 0)?;
    whole.checked_mul(1_000)?.checked_add(hundredths * 10)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn load_is_read_without_floats() {
        assert_eq!(parse_load("0.52 0.58 0.59 1/467 12345"), Some(520));
        assert_eq!(parse_load("12.07 1.00 1.00 2/2 2"), Some(12_070));
        for text in ["", "x.yz", "-1.00", "1", "1.5", "99999999999999999999.00"] {
            assert_eq!(parse_load(text), None, "{text}");
        }
    }

    #[test]
    fn a_shortage_is_told_once_and_ends_well_above_its_bound() {
        let with = |disk: i64| Health { load_thousandths: None, memory_available: None, disk_free: Some(Bytes(disk)) };
        let bound = DISK_SHORT.0;
        let steps = [(bound, false), (bound - 1, true), (bound + 1, true), (2 * bound, false), (bound + 1, false)];
        let mut before = Vec::new();
        for (disk, is_short) in steps {
            before = shortages(&with(disk), &before);
            assert_eq!(before.contains(&Shortage::Disk), is_short, "{disk} bytes");
        }
        assert_eq!(
            shortages(&Health { memory_available: Some(Bytes(1)), ..with(0) }, &[]),
            [Shortage::Disk, Shortage::Memory]
        );
    }

    #[test]
    fn a_watch_reads_what_the_host_says() {
        let root = tempfile::tempdir().expect("a temporary directory");
        std::fs::create_dir_all(root.path().join("proc")).expect("the directory is made");
        std::fs::write(root.path().join("proc/meminfo"), "MemAvailable: 100 kB\n").expect("the file is written");
        let mut watch = Watch::new(Host::below(root.path()), root.path());
        assert_eq!(watch.look().memory_available, Some(Bytes(102_400)));
        assert_eq!(watch.shortages, [Shortage::Memory]);
    }

    #[test]
    fn this_host_has_memory_and_a_disk() {
        let health = read(&Host::this(), Path::new("."));
        assert!(health.memory_available.is_some_and(|bytes| bytes > Bytes(0)));
        assert!(health.disk_free.is_some_and(|bytes| bytes > Bytes(0)));
    }
}

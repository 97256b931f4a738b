//! How a node is doing now.

use std::path::Path;

use galerne_model::units::Bytes;

use crate::Host;
use crate::facts::parse_meminfo;

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
    fn this_host_has_memory_and_a_disk() {
        let health = read(&Host::this(), Path::new("."));
        assert!(health.memory_available.is_some_and(|bytes| bytes > Bytes(0)));
        assert!(health.disk_free.is_some_and(|bytes| bytes > Bytes(0)));
    }
}

//! What a process has used, read from `/proc`.

use std::path::Path;

/// Clock ticks per second in `/proc/*/stat`: fixed at 100 in the kernel's interface to programs (`USER_HZ`).
const TICKS_PER_SECOND: u64 = 100;

/// CPU time and memory of one process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ProcessUsage {
    /// CPU time of all its threads, in microseconds; a resolution of 10 ms.
    pub cpu_micros: u64,
    /// Resident memory in bytes.
    pub resident_bytes: u64,
}

impl ProcessUsage {
    /// Reads it for a process; nothing when there is no such process.
    pub fn read(pid: u32) -> Option<Self> {
        Self::read_below(Path::new("/proc"), pid)
    }

    fn read_below(root: &Path, pid: u32) -> Option<Self> {
        let read = |name: &str| std::fs::read_to_string(root.join(pid.to_string()).join(name)).ok();
        Some(Self { cpu_micros: parse_stat(&read("stat")?)?, resident_bytes: parse_status(&read("status")?)? })
    }
}

/// The command stands in parentheses and may hold anything, also `)`: fields are counted after the last one.
fn parse_stat(text: &str) -> Option<u64> {
    let (_, rest) = text.rsplit_once(')')?;
    let field = |number: usize| rest.split_ascii_whitespace().nth(number - 3)?.parse::<u64>().ok();
    let ticks = field(14)?.checked_add(field(15)?)?;
    ticks.checked_mul(1_000_000 / TICKS_PER_SECOND)
}

/// `VmRSS:     9876 kB`; a zombie has no such line and uses nothing.
fn parse_status(text: &str) -> Option<u64> {
    let Some(line) = text.lines().find_map(|line| line.strip_prefix("VmRSS:")) else { return Some(0) };
    line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_counted_after_the_command_whatever_it_is_called() {
        let text = "4242 (a) b (c)) S 1 4242 4242 0 -1 4194304 100 0 0 0 250 50 0 0 20 0 8 0 100 1000000 2500 18446744073709551615";
        assert_eq!(parse_stat(text), Some(3_000_000));
        assert_eq!(parse_stat("4242 (gone"), None);
        assert_eq!(parse_stat(""), None);
    }

    #[test]
    fn resident_memory_is_read_in_kibibytes() {
        assert_eq!(parse_status("Name:\tx\nVmRSS:\t    2500 kB\nThreads:\t1\n"), Some(2_560_000));
        assert_eq!(parse_status("Name:\tx\nState:\tZ (zombie)\n"), Some(0));
        assert_eq!(parse_status("VmRSS:\t-1 kB\n"), None);
    }

    #[test]
    fn this_process_has_used_memory() {
        let usage = ProcessUsage::read(std::process::id()).expect("this process runs");
        assert!(usage.resident_bytes > 100_000);
        assert_eq!(ProcessUsage::read(u32::MAX), None);
    }
}

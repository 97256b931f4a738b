//! What this host gives the worker: cores it may run on, memory it may take, CPU time it has used.

use std::fs;
use std::path::{Path, PathBuf};

/// Cores this process may use: its affinity mask, cut by the CPU quota of its control group.
#[must_use]
pub(crate) fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, std::num::NonZero::get)
}

/// Bytes that can be taken without swapping: the host's estimate, cut by the limit of the control group.
#[must_use]
pub(crate) fn available_memory() -> Option<u64> {
    let host = meminfo(&fs::read_to_string("/proc/meminfo").ok()?)?;
    let group =
        fs::read_to_string("/proc/self/cgroup").ok().and_then(|text| group_room(&text, Path::new("/sys/fs/cgroup")));
    Some(group.map_or(host, |room| room.min(host)))
}

/// CPU time of this process, all threads, in nanoseconds.
#[must_use]
pub(crate) fn cpu_nanos() -> u64 {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    let (seconds, nanos) = (u64::try_from(time.tv_sec).unwrap_or(0), u64::try_from(time.tv_nsec).unwrap_or(0));
    seconds * 1_000_000_000 + nanos
}

/// Bytes of memory this process holds now.
#[must_use]
pub(crate) fn resident_memory() -> Option<u64> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    kilobytes(&status, "VmRSS:")
}

/// Compute threads: one core is left for HTTP and the gateway; more threads than free cores make ggml's spinning barriers
/// crawl (measured: 124 → 6.5 tokens/s).
#[must_use]
pub(crate) fn threads(asked: Option<usize>, cores: usize) -> usize {
    asked.unwrap_or_else(|| cores.saturating_sub(1)).clamp(1, cores.max(1))
}

fn meminfo(text: &str) -> Option<u64> {
    kilobytes(text, "MemAvailable:")
}

fn kilobytes(text: &str, name: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok().map(|kb| kb * 1024)
}

/// What the control group and its ancestors leave, smallest first; `None` when nothing limits.
fn group_room(membership: &str, root: &Path) -> Option<u64> {
    let path = membership.lines().find_map(|line| line.strip_prefix("0::"))?;
    let own: PathBuf = root.join(path.trim_start_matches('/'));
    own.ancestors()
        .take_while(|dir| dir.starts_with(root))
        .filter_map(|dir| {
            let number = |name: &str| fs::read_to_string(dir.join(name)).ok()?.trim().parse::<u64>().ok();
            let limit = number("memory.max")?;
            Some(limit.saturating_sub(number("memory.current")?))
        })
        .min()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_core_is_left_and_no_thread_is_added() {
        assert_eq!([threads(None, 1), threads(None, 2), threads(None, 8)], [1, 1, 7]);
        assert_eq!([threads(Some(4), 2), threads(Some(0), 2), threads(Some(2), 8)], [2, 1, 2]);
    }

    #[test]
    fn available_memory_is_read_in_bytes() {
        assert_eq!(meminfo("MemTotal: 9 kB\nMemAvailable:   23456 kB\n"), Some(23_456 * 1024));
    }

    #[test]
    fn the_tightest_control_group_counts() {
        let root = tempfile::tempdir().expect("a directory");
        let inner = root.path().join("a/b");
        fs::create_dir_all(&inner).expect("created");
        let write = |dir: &Path, max: &str, current: &str| {
            fs::write(dir.join("memory.max"), max).expect("written");
            fs::write(dir.join("memory.current"), current).expect("written");
        };
        write(&inner, "max\n", "5\n");
        write(inner.parent().expect("a"), "1000\n", "300\n");
        assert_eq!(group_room("0::/a/b\n", root.path()), Some(700));
    }
}

//! One look at every counter of a host.

use std::collections::BTreeMap;

use crate::clock::Moment;
use crate::gpus::GpuCounter;
use crate::{Gpus, Host};

/// Clock ticks per second in `/proc/stat`: fixed at 100 in the kernel's interface to programs (`USER_HZ`).
const MICROS_PER_TICK: i64 = 10_000;

/// A counter of RAPL: microjoules that start again from 0 after `max`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct PackageCounter {
    pub(super) microjoules: u64,
    pub(super) max_microjoules: u64,
}

/// All counters at one moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Counters {
    pub(super) at: Moment,
    /// Busy time of all processors; absent when it cannot be read.
    pub(super) busy_cpu_micros: Option<i64>,
    /// RAPL packages by zone.
    pub(super) packages: BTreeMap<String, PackageCounter>,
    /// GPUs by UUID.
    pub(super) gpus: BTreeMap<String, GpuCounter>,
    /// Energy counters that this look could not read, by UUID, as an earlier one saw them.
    pub(super) missed: BTreeMap<String, MissedCounter>,
}

/// An energy counter that did not answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct MissedCounter {
    pub(super) energy_millijoules: u64,
    /// When it was read, on the clock of `Moment::awake_nanos`.
    pub(super) awake_nanos: i128,
    /// What has been booked for the GPU since, by its power.
    pub(super) booked_picojoules: i128,
}

impl Counters {
    pub(super) fn read(host: &Host, gpus: &Gpus) -> Self {
        Self {
            at: Moment::now(),
            busy_cpu_micros: host.text("proc/stat").and_then(|text| parse_busy(&text)),
            packages: packages(host),
            gpus: gpus.counters().into_iter().map(|counter| (counter.uuid.clone(), counter)).collect(),
            missed: BTreeMap::new(),
        }
    }

    /// The energy counter of a GPU as it was last read.
    pub(super) fn last_known(&self, uuid: &str) -> Option<MissedCounter> {
        let read = self.gpus.get(uuid).and_then(|gpu| gpu.energy_millijoules);
        let now = |energy_millijoules| MissedCounter {
            energy_millijoules,
            awake_nanos: self.at.awake_nanos,
            booked_picojoules: 0,
        };
        read.map(now).or_else(|| self.missed.get(uuid).copied())
    }
}

/// Packages only: `psys` and the parts inside a package (`core`, `dram`) would be counted twice. All or none: a package
/// that cannot be read would make the host look thriftier than it is.
fn packages(host: &Host) -> BTreeMap<String, PackageCounter> {
    let counters: Option<BTreeMap<_, _>> = package_zones(host)
        .into_iter()
        .map(|zone| {
            let microjoules = host.number(&format!("sys/class/powercap/{zone}/energy_uj"))?;
            let max_microjoules = host.number(&format!("sys/class/powercap/{zone}/max_energy_range_uj"))?;
            Some((zone, PackageCounter { microjoules, max_microjoules }))
        })
        .collect();
    counters.unwrap_or_default()
}

/// Names of the packages, in order.
pub(super) fn package_zones(host: &Host) -> Vec<String> {
    let is_top = |name: &String| {
        name.strip_prefix("intel-rapl:").is_some_and(|rest| rest.bytes().all(|byte| byte.is_ascii_digit()))
    };
    let is_package = |zone: &String| {
        host.text(&format!("sys/class/powercap/{zone}/name")).is_some_and(|name| name.starts_with("package"))
    };
    host.names("sys/class/powercap").into_iter().filter(is_top).filter(is_package).collect()
}

/// `cpu  user nice system idle iowait irq softirq steal guest guest_nice`, in ticks. Guest time is inside user time;
/// stolen time was somebody else's.
fn parse_busy(stat: &str) -> Option<i64> {
    let line = stat.lines().find_map(|line| line.strip_prefix("cpu "))?;
    let ticks: Vec<i64> = line.split_ascii_whitespace().map_while(|word| word.parse().ok()).collect();
    let busy = [0, 1, 2, 5, 6].iter().try_fold(0i64, |sum, at| sum.checked_add(*ticks.get(*at)?))?;
    busy.checked_mul(MICROS_PER_TICK).filter(|micros| *micros >= 0)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn busy_time_leaves_out_idle_waiting_stolen_and_guest_time() {
        let stat = "cpu  100 20 30 4000 500 6 7 80 90 10\ncpu0 1 2 3 4 5 6 7 8 9 10\n";
        assert_eq!(parse_busy(stat), Some((100 + 20 + 30 + 6 + 7) * 10_000));
        assert_eq!(parse_busy("cpu 1 2 3"), None);
        assert_eq!(parse_busy("intr 1"), None);
        assert_eq!(parse_busy(&format!("cpu {} 1 1 1 1 1 1", i64::MAX)), None);
    }

    #[test]
    fn only_whole_packages_are_counted_and_all_of_them_or_none() {
        let root = tempfile::tempdir().expect("a temporary directory");
        let zone = |name: &str, label: &str, energy: &str| {
            let directory = root.path().join("sys/class/powercap").join(name);
            fs::create_dir_all(&directory).expect("the directory is made");
            for (file, text) in [("name", label), ("energy_uj", energy), ("max_energy_range_uj", "262143328850")] {
                fs::write(directory.join(file), text).expect("the file is written");
            }
        };
        zone("intel-rapl:0", "package-0", "1000\n");
        zone("intel-rapl:1", "psys", "9000\n");
        zone("intel-rapl:0:0", "dram", "500\n");
        zone("intel-rapl-mmio:0", "package-0", "1000\n");
        let host = Host::below(root.path());
        let found = packages(&host);
        assert_eq!(found.keys().collect::<Vec<_>>(), ["intel-rapl:0"]);
        assert_eq!(found["intel-rapl:0"], PackageCounter { microjoules: 1_000, max_microjoules: 262_143_328_850 });
        zone("intel-rapl:2", "package-1", "no permission");
        assert!(packages(&host).is_empty());
    }
}

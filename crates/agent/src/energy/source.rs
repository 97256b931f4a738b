//! The host's own counters as the meter of one replica: its processors (RAPL), or GPUs by UUID (NVML).
//!
//! What cannot be read is said in words with what helps; nothing stands in for it.

use std::io::ErrorKind;

use galerne_model::power::{PowerSource, Shows};

use crate::{Gpus, Host};

/// Where the kernel shows RAPL.
const POWERCAP: &str = "sys/class/powercap";

/// What the counters show now, one value for each of them, in an order that stays. Nothing for sources that are not this
/// host's.
pub fn read(host: &Host, gpus: &Gpus, source: &PowerSource) -> Option<Result<Vec<Shows>, String>> {
    match source {
        PowerSource::Rapl => Some(processors(host)),
        PowerSource::Nvml(uuids) => Some(of_gpus(gpus, uuids)),
        PowerSource::File { .. } | PowerSource::Metrics { .. } => None,
    }
}

/// All packages or none: one that cannot be read would make the host look thriftier than it is.
fn processors(host: &Host) -> Result<Vec<Shows>, String> {
    let zones = super::counters::package_zones(host);
    if zones.is_empty() {
        return Err(
            "not available: this host shows no energy counters of its processors (RAPL), which virtual machines \
            rarely do; requests keep their estimate"
                .to_owned(),
        );
    }
    zones.iter().map(|zone| package(host, zone)).collect()
}

fn package(host: &Host, zone: &str) -> Result<Shows, String> {
    let number = |name: &str| -> Result<u64, String> {
        let path = format!("{POWERCAP}/{zone}/{name}");
        let text = host.read(&path).map_err(|error| match error.kind() {
            ErrorKind::PermissionDenied => format!(
                "not available: permission denied for `/{path}`, which the kernel shows to root only; \
                 hint: run as root, or `chmod a+r /{POWERCAP}/intel-rapl:*/energy_uj` at each start of the host"
            ),
            _ => format!("not available: `/{path}` cannot be read: {error}"),
        })?;
        text.parse().map_err(|_| format!("not available: `/{path}` holds `{text}`"))
    };
    Ok(Shows::Counter { microjoules: number("energy_uj")?, range: Some(number("max_energy_range_uj")?) })
}

fn of_gpus(gpus: &Gpus, uuids: &[String]) -> Result<Vec<Shows>, String> {
    if gpus.is_empty() {
        return Err(
            "not available: NVML finds no GPU on this host (no driver, or no `libnvidia-ml.so.1`); requests keep \
            their estimate"
                .to_owned(),
        );
    }
    let counters = gpus.counters();
    let one = |uuid: &String| {
        let counter = counters.iter().find(|counter| counter.uuid == *uuid).ok_or_else(|| {
            let known: Vec<&str> = counters.iter().map(|counter| counter.uuid.as_str()).collect();
            format!("not available: this host has no GPU `{uuid}`; it has {}", known.join(", "))
        })?;
        match (counter.energy_millijoules, counter.power_milliwatts) {
            (Some(millijoules), _) => {
                Ok(Shows::Counter { microjoules: millijoules.saturating_mul(1_000), range: None })
            }
            // Before Volta there is no counter.
            (None, Some(power)) => Ok(Shows::Power(galerne_model::units::Milliwatts(i64::from(power)))),
            (None, None) => Err(format!("not available: GPU `{uuid}` shows neither energy nor power")),
        }
    };
    uuids.iter().map(one).collect()
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt as _;
    use std::path::Path;

    use super::*;

    fn zone(root: &Path, name: &str, label: &str, energy: &str) {
        let directory = root.join(POWERCAP).join(name);
        fs::create_dir_all(&directory).expect("the directory is made");
        for (file, text) in [("name", label), ("energy_uj", energy), ("max_energy_range_uj", "262143328850")] {
            fs::write(directory.join(file), text).expect("the file is written");
        }
    }

    fn rapl(root: &Path) -> Result<Vec<Shows>, String> {
        read(&Host::below(root), &Gpus::none(), &PowerSource::Rapl).expect("a source of this host")
    }

    #[test]
    fn packages_are_counters_that_wrap() {
        let root = tempfile::tempdir().expect("a temporary directory");
        zone(root.path(), "intel-rapl:0", "package-0", "1000\n");
        zone(root.path(), "intel-rapl:1", "package-1", "7\n");
        zone(root.path(), "intel-rapl:2", "psys", "9\n");
        let counter = |microjoules| Shows::Counter { microjoules, range: Some(262_143_328_850) };
        assert_eq!(rapl(root.path()), Ok(vec![counter(1_000), counter(7)]));
    }

    #[test]
    fn what_is_missing_is_said_with_what_helps() {
        let root = tempfile::tempdir().expect("a temporary directory");
        assert!(rapl(root.path()).expect_err("nothing there").contains("no energy counters"));
        zone(root.path(), "intel-rapl:0", "package-0", "much");
        assert!(rapl(root.path()).expect_err("no number").contains("holds `much`"));
        let file = root.path().join(POWERCAP).join("intel-rapl:0/energy_uj");
        fs::set_permissions(&file, fs::Permissions::from_mode(0o000)).expect("changed");
        if fs::read(&file).is_ok() {
            println!("skipped: this user may read everything, so a refusal cannot be seen");
            return;
        }
        let error = rapl(root.path()).expect_err("refused");
        assert!(error.contains("permission denied") && error.contains("hint:"), "{error}");
    }

    #[test]
    fn a_gpu_shows_its_counter() {
        let gpus = Gpus::discover();
        let none = PowerSource::Nvml(vec!["GPU-none".to_owned()]);
        let host = Host::this();
        let error = read(&host, &gpus, &none).expect("a source of this host").expect_err("no such GPU");
        assert!(error.contains("not available"), "{error}");
        let Some(first) = gpus.counters().into_iter().next() else {
            println!("skipped: this host has no GPU that NVML shows");
            return;
        };
        let shown = read(&host, &gpus, &PowerSource::Nvml(vec![first.uuid])).expect("a source").expect("is read");
        assert_eq!(shown.len(), 1);
    }

    #[test]
    fn other_sources_are_not_this_hosts() {
        let file = PowerSource::File { path: "/x".to_owned(), series: "x_joules".to_owned() };
        assert!(read(&Host::this(), &Gpus::none(), &file).is_none());
    }
}

use std::fs;
use std::path::Path;

use super::*;

const X86: &str = "processor\t: 0\nmodel name\t: AMD EPYC 9654\nphysical id\t: 0\ncore id\t: 0\nflags\t: fpu avx2 fma avx512f\n\n\
    processor\t: 1\nmodel name\t: AMD EPYC 9654\nphysical id\t: 0\ncore id\t: 0\nflags\t: fpu avx2\n\n\
    processor\t: 2\nmodel name\t: AMD EPYC 9654\nphysical id\t: 1\ncore id\t: 0\nflags\t: fpu avx2\n";
const ARM: &str = "processor\t: 0\nFeatures\t: fp asimd asimddp i8mm\nCPU part\t: 0xd40\n\nprocessor\t: 1\nFeatures\t: fp asimd\n\nHardware\t: Ampere\n";

fn write(root: &Path, path: &str, text: &str) {
    let path = root.join(path);
    fs::create_dir_all(path.parent().expect("a file has a directory")).expect("the directory is made");
    fs::write(path, text).expect("the file is written");
}

#[test]
fn cores_are_counted_once_and_features_are_those_that_matter() {
    let cpu = parse_cpuinfo(X86, Some(2));
    assert_eq!((cpu.model.as_str(), cpu.threads, cpu.cores), ("AMD EPYC 9654", 2, 2));
    assert_eq!(cpu.features, ["fma", "avx2", "avx512f"]);
}

#[test]
fn an_arm_host_has_as_many_cores_as_threads() {
    let cpu = parse_cpuinfo(ARM, None);
    assert_eq!((cpu.model.as_str(), cpu.threads, cpu.cores), ("Ampere", 2, 2));
    assert_eq!(cpu.features, ["asimd", "asimddp", "i8mm"]);
}

#[test]
fn an_unreadable_cpuinfo_still_says_one_thread() {
    assert_eq!(parse_cpuinfo("", None).threads, 1);
    assert_eq!(parse_cpuinfo("\0\u{fffd}: ::\n\n\n:", None).cores, 0);
}

#[test]
fn the_machine_id_is_told_apart_but_not_told() {
    let (a, b) = (machine_digest("aaaa"), machine_digest("aaab"));
    assert_ne!(a, b);
    assert_eq!(a.len(), 64);
    assert!(!a.contains("aaaa"));
}

#[test]
fn a_host_laid_out_in_a_directory_is_read_whole() {
    let root = tempfile::tempdir().expect("a temporary directory");
    let root = root.path();
    write(root, "proc/sys/kernel/hostname", "node-7\n");
    write(root, "proc/sys/kernel/osrelease", "6.1.0-18-amd64\n");
    write(root, "etc/os-release", "NAME=\"Debian\"\nPRETTY_NAME=\"Debian GNU/Linux 12 (bookworm)\"\n");
    write(root, "etc/machine-id", "0123456789abcdef0123456789abcdef\n");
    write(root, "proc/cpuinfo", X86);
    write(root, "proc/meminfo", "MemTotal:       16384 kB\nMemAvailable:    8192 kB\n");
    write(root, "sys/block/nvme0n1/size", "2000409264\n");
    write(root, "sys/block/nvme0n1/queue/rotational", "0\n");
    write(root, "sys/block/nvme0n1/device/model", "SAMSUNG MZQL2  \n");
    write(root, "sys/block/loop0/size", "8\n");
    write(root, "sys/block/sdb/size", "0\n");
    write(root, "sys/class/net/eth0/device/vendor", "0x15b3\n");
    write(root, "sys/class/net/eth0/operstate", "up\n");
    write(root, "sys/class/net/eth0/speed", "100000\n");
    write(root, "sys/class/net/eth1/device/vendor", "0x15b3\n");
    write(root, "sys/class/net/eth1/operstate", "down\n");
    write(root, "sys/class/net/eth1/speed", "-1\n");
    write(root, "sys/class/net/docker0/operstate", "up\n");
    write(root, "sys/class/net/lo/operstate", "unknown\n");
    let host = Host::below(root);
    let facts = read(&host, &Gpus::none(), &EnergyMeter::new(host.clone(), None));
    assert_eq!((facts.host_name.as_str(), facts.kernel.as_str()), ("node-7", "6.1.0-18-amd64"));
    assert_eq!(facts.os, "Debian GNU/Linux 12 (bookworm)");
    assert_eq!(facts.memory, Bytes(16384 * 1024));
    let disk = DiskFacts {
        name: "nvme0n1".into(),
        model: "SAMSUNG MZQL2".into(),
        size: Bytes(2_000_409_264 * 512),
        rotational: false,
    };
    assert_eq!(facts.disks, [disk]);
    let nics: Vec<_> = facts.nics.iter().map(|nic| (nic.name.as_str(), nic.up, nic.megabits_per_second)).collect();
    assert_eq!(nics, [("eth0", true, Some(100_000)), ("eth1", false, None)]);
    assert_eq!(facts.energy_sources, ["estimate"]);
}

#[test]
fn an_empty_host_gives_empty_facts_and_no_panic() {
    let root = tempfile::tempdir().expect("a temporary directory");
    let host = Host::below(root.path());
    let facts = read(&host, &Gpus::none(), &EnergyMeter::new(host.clone(), None));
    assert_eq!((facts.host_name.as_str(), facts.disks.len(), facts.memory), ("", 0, Bytes(0)));
}

//! Facts of a host: what hardware and system say about themselves.
//!
//! Personal data stays out: no serial numbers, no addresses, and the machine id only as a digest.

use galerne_model::node::{CpuFacts, DiskFacts, NicFacts, NodeFacts};
use galerne_model::units::Bytes;
use sha2::{Digest as _, Sha256};

use crate::energy::EnergyMeter;
use crate::{Gpus, Host};

/// Mixed into the machine id so that the digest tells machines apart here and nowhere else.
const MACHINE_SALT: &str = "galerne node facts 1";
/// Unit of `/sys/block/*/size`, whatever the device's own sector is.
const SECTOR_BYTES: i64 = 512;
/// Block devices that are no disks: loops, RAM, mappings of disks that are listed themselves, optical drives.
const NO_DISKS: [&str; 9] = ["loop", "ram", "zram", "dm-", "md", "sr", "fd", "nbd", "zd"];
/// Instruction sets that decide which kernels an engine can use.
const ENGINE_FEATURES: [&str; 22] = [
    "sse4_2",
    "avx",
    "f16c",
    "fma",
    "bmi2",
    "avx2",
    "avx_vnni",
    "avx512f",
    "avx512bw",
    "avx512vl",
    "avx512_vnni",
    "avx512_bf16",
    "avx512_vbmi",
    "amx_tile",
    "amx_int8",
    "amx_bf16",
    "asimd",
    "asimddp",
    "i8mm",
    "bf16",
    "sve",
    "sve2",
];

/// Reads the facts of `host`.
pub fn read(host: &Host, gpus: &Gpus, meter: &EnergyMeter) -> NodeFacts {
    let os_release = host.text("etc/os-release").or_else(|| host.text("usr/lib/os-release")).unwrap_or_default();
    NodeFacts {
        host_name: host.text("proc/sys/kernel/hostname").unwrap_or_default(),
        machine_digest: host.text("etc/machine-id").map(|id| machine_digest(&id)).unwrap_or_default(),
        os: parse_os_release(&os_release),
        kernel: host.text("proc/sys/kernel/osrelease").unwrap_or_default(),
        cpu: parse_cpuinfo(&host.text("proc/cpuinfo").unwrap_or_default(), usable_threads()),
        memory: Bytes(parse_meminfo(&host.text("proc/meminfo").unwrap_or_default(), "MemTotal").unwrap_or(0)),
        disks: disks(host),
        nics: nics(host),
        gpus: gpus.facts(),
        energy_sources: meter.sources().iter().map(|source| (*source).to_owned()).collect(),
    }
}

/// Threads this process may use: affinity and control group are counted in.
fn usable_threads() -> Option<u32> {
    std::thread::available_parallelism().ok().and_then(|count| u32::try_from(count.get()).ok())
}

fn machine_digest(id: &str) -> String {
    let mut hasher = Sha256::new();
    hasher.update(MACHINE_SALT);
    hasher.update([0]);
    hasher.update(id);
    hex::encode(hasher.finalize())
}

fn parse_os_release(text: &str) -> String {
    let value = |key: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix('='))?;
        Some(line.trim().trim_matches(['"', '\'']).to_owned())
    };
    value("PRETTY_NAME").or_else(|| value("NAME")).unwrap_or_default()
}

/// `MemTotal:  16384 kB` → bytes.
pub(crate) fn parse_meminfo(text: &str, key: &str) -> Option<i64> {
    let line = text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(':'))?;
    line.trim().strip_suffix("kB")?.trim().parse::<i64>().ok()?.checked_mul(1024)
}

/// x86 and Arm write different keys; what neither names stays empty.
fn parse_cpuinfo(text: &str, usable_threads: Option<u32>) -> CpuFacts {
    let pairs = |block: &str, key: &str| {
        block.lines().find_map(|line| {
            let (name, value) = line.split_once(':')?;
            (name.trim() == key).then(|| value.trim().to_owned())
        })
    };
    let blocks: Vec<_> = text.split("\n\n").filter(|block| pairs(block, "processor").is_some()).collect();
    let thread_count = u32::try_from(blocks.len()).unwrap_or(u32::MAX);
    let mut cores: Vec<_> =
        blocks.iter().filter_map(|block| Some((pairs(block, "physical id")?, pairs(block, "core id")?))).collect();
    cores.sort();
    cores.dedup();
    let core_count = if cores.is_empty() { thread_count } else { u32::try_from(cores.len()).unwrap_or(u32::MAX) };
    let first = blocks.first().copied().unwrap_or_default();
    let model = pairs(first, "model name").or_else(|| pairs(text, "Model")).or_else(|| pairs(text, "Hardware"));
    let flags = pairs(first, "flags").or_else(|| pairs(first, "Features")).unwrap_or_default();
    let has = |feature: &&&str| flags.split_ascii_whitespace().any(|flag| flag == **feature);
    CpuFacts {
        model: model.unwrap_or_default(),
        threads: usable_threads.unwrap_or(thread_count).max(1),
        cores: core_count,
        features: ENGINE_FEATURES.iter().filter(has).map(|feature| (*feature).to_owned()).collect(),
    }
}

fn disks(host: &Host) -> Vec<DiskFacts> {
    let names = host.names("sys/block").into_iter();
    names
        .filter(|name| !NO_DISKS.iter().any(|prefix| name.starts_with(prefix)))
        .filter_map(|name| {
            let own = |file: &str| format!("sys/block/{name}/{file}");
            let sectors: i64 = host.number(&own("size"))?;
            (sectors > 0).then(|| DiskFacts {
                model: host.text(&own("device/model")).unwrap_or_default(),
                size: Bytes(sectors.saturating_mul(SECTOR_BYTES)),
                rotational: host.number(&own("queue/rotational")) == Some(1),
                name: name.clone(),
            })
        })
        .collect()
}

/// Interfaces with hardware behind them; bridges, tunnels and loopback have no device.
fn nics(host: &Host) -> Vec<NicFacts> {
    let names = host.names("sys/class/net").into_iter().filter(|name| name != "lo");
    names
        .filter(|name| host.has(&format!("sys/class/net/{name}/device")))
        .map(|name| {
            let own = |file: &str| format!("sys/class/net/{name}/{file}");
            // A link without a carrier, and many virtual ones, say -1 or refuse to say.
            let speed = host.number::<i64>(&own("speed")).and_then(|speed| u32::try_from(speed).ok());
            NicFacts {
                up: host.text(&own("operstate")).as_deref() == Some("up"),
                megabits_per_second: speed.filter(|speed| *speed > 0),
                name: name.clone(),
            }
        })
        .collect()
}

#[cfg(test)]
mod tests;

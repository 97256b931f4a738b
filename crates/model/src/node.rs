//! Nodes and their facts.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::ids::NodeId;
use crate::resource::Resource;
use crate::units::{Bytes, Milliwatts};

/// A server we manage.
pub type Node = Resource<NodeId, NodeSpec, NodeStatus>;

/// What a node is asked to be.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct NodeSpec {
    /// Takes no new replicas.
    #[serde(default)]
    pub cordoned: bool,
    /// Grid zone for carbon, e.g. `FR`.
    pub zone: String,
}

/// What is seen of a node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct NodeStatus {
    /// Facts as last read.
    pub facts: NodeFacts,
    /// When they were read.
    pub seen_at: Timestamp,
}

/// What hardware and system say about themselves. No serial numbers, no raw machine id.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct NodeFacts {
    /// Host name.
    pub host_name: String,
    /// SHA-256 of the machine id with a fixed salt: tells machines apart without naming them.
    pub machine_digest: String,
    /// Operating system, e.g. `Debian GNU/Linux 12`.
    pub os: String,
    /// Kernel release.
    pub kernel: String,
    /// Processor.
    pub cpu: CpuFacts,
    /// Memory in all.
    pub memory: Bytes,
    /// Whole disks.
    pub disks: Vec<DiskFacts>,
    /// Network interfaces but loopback.
    pub nics: Vec<NicFacts>,
    /// Accelerators.
    pub gpus: Vec<GpuFacts>,
    /// Where energy readings come from: `nvml`, `rapl`, `estimate`.
    pub energy_sources: Vec<String>,
}

/// A processor.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct CpuFacts {
    /// Name as the kernel gives it.
    pub model: String,
    /// Logical processors this process may use.
    pub threads: u32,
    /// Physical cores.
    pub cores: u32,
    /// Instruction sets that matter to the engine: `avx2`, `avx512f`, `avx512_bf16`, `amx_int8` …
    pub features: Vec<String>,
}

/// A disk.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct DiskFacts {
    /// Kernel name, e.g. `nvme0n1`.
    pub name: String,
    /// Model, if it says.
    pub model: String,
    /// Size.
    pub size: Bytes,
    /// Whether it spins.
    pub rotational: bool,
}

/// A network interface.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct NicFacts {
    /// Kernel name.
    pub name: String,
    /// Whether its link is up.
    pub up: bool,
    /// Speed in megabits per second, if known.
    pub megabits_per_second: Option<u32>,
}

/// An accelerator.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct GpuFacts {
    /// Index as the driver numbers it.
    pub index: u32,
    /// Product name.
    pub name: String,
    /// UUID as the driver gives it.
    pub uuid: String,
    /// Memory.
    pub memory: Bytes,
    /// Power limit in force.
    pub power_limit: Option<Milliwatts>,
    /// Driver version.
    pub driver: String,
}

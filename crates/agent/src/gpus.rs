//! NVIDIA GPUs through NVML, loaded at run time: a host without a driver has none, and that is no error.

use std::ffi::OsStr;
use std::fmt;

use galerne_model::node::GpuFacts;
use galerne_model::units::{Bytes, Milliwatts};
use nvml_wrapper::Nvml;

/// Driver packages install the first name; the second comes with development files.
const LIBRARIES: [&str; 2] = ["libnvidia-ml.so.1", "libnvidia-ml.so"];

/// The GPUs of this host.
pub struct Gpus {
    nvml: Option<Nvml>,
}

/// Counters of one GPU.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct GpuCounter {
    pub(crate) uuid: String,
    /// Energy since the driver was loaded (Volta and later).
    pub(crate) energy_millijoules: Option<u64>,
    /// Power now.
    pub(crate) power_milliwatts: Option<u32>,
}

impl fmt::Debug for Gpus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Gpus").field("has_driver", &self.nvml.is_some()).finish()
    }
}

impl Gpus {
    /// Looks for the driver's library.
    pub fn discover() -> Self {
        for library in LIBRARIES {
            match Nvml::builder().lib_path(OsStr::new(library)).init() {
                Ok(nvml) => return Self { nvml: Some(nvml) },
                Err(error) => tracing::debug!(library, %error, "no GPU driver here"),
            }
        }
        Self { nvml: None }
    }

    /// No GPUs, whatever the host has.
    pub fn none() -> Self {
        Self { nvml: None }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.nvml.as_ref().and_then(|nvml| nvml.device_count().ok()).unwrap_or(0) == 0
    }

    pub(crate) fn facts(&self) -> Vec<GpuFacts> {
        let Some(nvml) = &self.nvml else { return Vec::new() };
        let driver = nvml.sys_driver_version().unwrap_or_default();
        let count = nvml.device_count().unwrap_or(0);
        let devices = (0..count).filter_map(|index| Some((index, nvml.device_by_index(index).ok()?)));
        devices
            .map(|(index, device)| GpuFacts {
                index,
                name: device.name().unwrap_or_default(),
                uuid: device.uuid().unwrap_or_default(),
                memory: Bytes(device.memory_info().map_or(0, |memory| i64::try_from(memory.total).unwrap_or(i64::MAX))),
                power_limit: device.enforced_power_limit().ok().map(|limit| Milliwatts(i64::from(limit))),
                driver: driver.clone(),
            })
            .collect()
    }

    /// Reads every counter; a GPU that does not answer is left out of this sample.
    pub(crate) fn counters(&self) -> Vec<GpuCounter> {
        let Some(nvml) = &self.nvml else { return Vec::new() };
        let devices = (0..nvml.device_count().unwrap_or(0)).filter_map(|index| nvml.device_by_index(index).ok());
        devices
            .filter_map(|device| {
                Some(GpuCounter {
                    uuid: device.uuid().ok()?,
                    energy_millijoules: device.total_energy_consumption().ok(),
                    power_milliwatts: device.power_usage().ok(),
                })
            })
            .collect()
    }
}

//! This host as the agent reads it, in the server's words.

use std::sync::Arc;

use galerne_agent::energy::{EnergyMeter, PowerModel, source};
use galerne_agent::health::Watch;
use galerne_agent::{Gpus, Host, facts};
use galerne_api::error::Code;
use galerne_cli::{Failure, hardware_line};
use galerne_model::ledger::EnergyMethod;
use galerne_model::power::PowerSource;
use galerne_server::config::Config;
use galerne_server::{Counted, EnergySample, Meter};

/// What is known of this host.
pub(crate) struct ThisHost {
    pub(crate) source: galerne_server::Host,
    /// The same in one line.
    pub(crate) hardware: String,
}

/// Reads facts and starts the energy meter.
pub(crate) fn read(config: &Config) -> ThisHost {
    let host = Host::this();
    let mut meter = EnergyMeter::with_gpus(host.clone(), Gpus::discover(), stated(config, &host));
    let facts = facts::read(&host, meter.gpus(), &meter);
    let hardware = hardware_line(&facts);
    let active = meter.active_power();
    // Counters show nothing before their first interval has passed.
    let method = EnergyMethod::Estimated;
    let (own, gpus) = (host.clone(), Gpus::discover());
    let local = Arc::new(move |wanted: &PowerSource| source::read(&own, &gpus, wanted));
    let mut watch = Watch::new(host, &config.data);
    let sample = move || {
        watch.look();
        let read = meter.sample();
        EnergySample {
            started_at: read.started_at,
            ended_at: read.ended_at,
            millijoules: read.millijoules,
            method: read.method,
            busy_cpu_micros: read.busy_cpu_micros,
            active: meter.active_power(),
            counted: read.processors.map(|processors| Counted {
                processors,
                awake_micros: read.awake_micros,
                busy_cpu_micros: read.busy_cpu_micros,
                idle: meter.model().idle_processors,
                active: meter.active_power(),
            }),
        }
    };
    ThisHost {
        source: galerne_server::Host { facts, meter: Meter { active, method, sample: Box::new(sample), local } },
        hardware,
    }
}

/// Whether the program that serves models is there: better told before anything is fetched for it.
pub(crate) fn check_worker(config: &Config) -> Result<(), Failure> {
    let program = galerne_server::worker_program(config);
    let on_path = || {
        let environment = galerne_server::config::environment();
        let folders = environment.get("PATH").map_or("", String::as_str);
        program.components().count() == 1
            && std::env::split_paths(folders).any(|folder| folder.join(&program).is_file())
    };
    if program.is_file() || on_path() {
        return Ok(());
    }
    let text = format!("the worker program `{}` cannot be found, and models need it", program.display());
    Err(Failure::new(Code::WorkerMissing, text)
        .hint("build it: make")
        .hint("or say where it is: --worker PROGRAM")
        .hint("or start without a model: galerne up --no-model"))
}

/// The power model with what the configuration states; what it leaves open is the default model's.
fn stated(config: &Config, host: &Host) -> Option<PowerModel> {
    let power = config.power;
    power.idle.or(power.active)?;
    let model = PowerModel::of(host);
    let (idle, active) = (power.idle.unwrap_or(model.idle), power.active.unwrap_or(model.active_per_cpu));
    Some(PowerModel::stated(idle, active, model.cpu_count))
}

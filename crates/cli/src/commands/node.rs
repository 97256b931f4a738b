//! Nodes: servers we manage.

use clap::Subcommand;
use galerne_model::node::{Node, NodeFacts, NodeSpec};

use crate::display;
use crate::failure::Failure;
use crate::resources::{self, ChangeArguments, Level, ShowArguments, Shown};
use crate::session::{Names, Session};
use crate::table::{Column, Facts};

/// Verbs of `galerne node`.
#[derive(Debug, Subcommand)]
pub enum NodeCommand {
    /// List nodes
    List,
    /// Show one with the facts of its hardware
    Show(ShowArguments),
    /// Put no new replicas on it; those that run stay
    Cordon {
        /// Its name or id
        name: String,
        #[command(flatten)]
        change: ChangeArguments,
    },
    /// Put replicas on it again
    Uncordon {
        /// Its name or id
        name: String,
        #[command(flatten)]
        change: ChangeArguments,
    },
}

impl NodeCommand {
    pub(crate) async fn run(self, session: &mut Session) -> Result<(), Failure> {
        match self {
            Self::List => resources::list::<Node>(session, "no node is enrolled").await,
            Self::Show(show) => resources::show::<Node>(session, &show.name).await,
            Self::Cordon { name, change } => {
                let cordoned = |spec| NodeSpec { cordoned: true, ..spec };
                resources::edit::<Node>(session, &name, change, "cordoned", cordoned).await
            }
            Self::Uncordon { name, change } => {
                let open = |spec| NodeSpec { cordoned: false, ..spec };
                resources::edit::<Node>(session, &name, change, "uncordoned", open).await
            }
        }
    }
}

/// A node in one line: processor, memory, disks, accelerators.
pub fn hardware_line(facts: &NodeFacts) -> String {
    let gpus = match facts.gpus.as_slice() {
        [] => "no GPU".to_owned(),
        [gpu] => gpu.name.clone(),
        gpus => format!("{} × {}", gpus.len(), gpus[0].name),
    };
    let disks = display::counted(i64::try_from(facts.disks.len()).unwrap_or(i64::MAX), "disk");
    format!("{} threads, {} memory, {disks}, {gpus}", facts.cpu.threads, display::bytes(facts.memory))
}

impl Shown for Node {
    const LEVEL: Level = Level::Site;
    const COLUMNS: &'static [Column] = &[
        Column::Word("name"),
        Column::Word("state"),
        Column::Word("zone"),
        Column::Text("hardware"),
        Column::Word("seen"),
    ];

    fn cells(&self, _names: &Names) -> Vec<String> {
        let (spec, status) = (&self.spec, &self.status);
        vec![
            self.name.clone(),
            state(spec),
            spec.zone.clone(),
            hardware_line(&status.facts),
            display::instant(status.seen_at),
        ]
    }

    fn facts(&self, _names: &Names) -> Facts {
        let seen = &self.status.facts;
        let mut facts = Facts::new();
        facts.add("name", &self.name).add("state", state(&self.spec)).add("zone", &self.spec.zone);
        facts.add("system", format!("{}, kernel {}", seen.os, seen.kernel));
        facts.add("processor", format!("{}, {} threads on {} cores", seen.cpu.model, seen.cpu.threads, seen.cpu.cores));
        facts.add("instructions", seen.cpu.features.join(" ")).add("memory", display::bytes(seen.memory));
        for disk in &seen.disks {
            let kind = if disk.rotational { "spinning" } else { "solid state" };
            facts.add("disk", format!("{} {} {kind} {}", disk.name, display::bytes(disk.size), disk.model));
        }
        for nic in &seen.nics {
            let speed = nic.megabits_per_second.map_or_else(String::new, |speed| format!(" {speed} Mbit/s"));
            facts.add("network", format!("{} {}{speed}", nic.name, if nic.up { "up" } else { "down" }));
        }
        for gpu in &seen.gpus {
            let limit = gpu.power_limit.map_or_else(String::new, |limit| format!(", {} W limit", limit.0 / 1000));
            facts.add(
                "GPU",
                format!("{} {} {}{limit}, driver {}", gpu.index, gpu.name, display::bytes(gpu.memory), gpu.driver),
            );
        }
        facts.add("energy from", seen.energy_sources.join(", ")).add("seen", display::instant(self.status.seen_at));
        facts
    }
}

fn state(spec: &NodeSpec) -> String {
    if spec.cordoned { "cordoned" } else { "ready" }.to_owned()
}

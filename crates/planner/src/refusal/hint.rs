//! What to do about a refusal, in one line: exhaustive, so that a new rule cannot come without one.

use super::{FleetRule, ForecastRule, LeaseRule, NodeRule, Refusal, RequestRule};

impl Refusal {
    /// What would make it acceptable.
    pub const fn hint(&self) -> &'static str {
        match self {
            Self::Fleet(rule) | Self::Cap { rule, .. } | Self::Quota { rule, .. } => fleet(rule),
            Self::Request { rule, .. } | Self::Demand { rule, .. } => request(rule),
            Self::Lease { rule, .. } => lease(rule),
            Self::Node { rule, .. } => match rule {
                NodeRule::Unknown => "name a node of the fleet",
                NodeRule::Instant { .. } => INSTANT,
            },
            Self::Forecast(rule) => match rule {
                ForecastRule::NoStep => "give the length of a step in seconds, such as 3600",
                ForecastRule::TooLong { .. } => "send fewer or longer steps",
                ForecastRule::NegativeAllowance { .. } => "give 0 where deferrable work may use nothing",
                ForecastRule::Instant { .. } => INSTANT,
            },
        }
    }
}

const INSTANT: &str = "give seconds since the beginning, or leave it out where it is not known";

const fn fleet(rule: &FleetRule) -> &'static str {
    match rule {
        FleetRule::UnknownParent { .. } => "name a parent from the same list, or none for a root",
        FleetRule::Cycle { .. } => "take the parent away from one of them: it becomes the root",
        FleetRule::TooMany { .. } => "describe the fleet as several",
        FleetRule::ParentOfOtherTree { .. } => {
            "racks, units, pods and sites are one tree; NVLink domains, leaves and spines another"
        }
        FleetRule::ParentNotCoarser { .. } => "from coarse to fine: site, pod, unit, rack; spine, leaf, NVLink domain",
        FleetRule::TooManyModels { .. } => "list each model once, and only those that nodes have",
        FleetRule::TooManySlices { .. } => "list each profile once",
        FleetRule::SliceWithoutPosition { .. } => "give a bit mask of memory slots for each allowed position",
        FleetRule::SliceCompute { .. } => "give 1 to 7 compute slots",
        FleetRule::NodeTwice { .. } => "give each node a number of its own",
        FleetRule::NodeModel { .. } => "add the model to the list, or name one that is there",
        FleetRule::NodeGpus { .. } => "describe the machine as several nodes, as its operating systems are",
        FleetRule::NodeDomain { .. } => "add the domain to the list, or name one that is there",
        FleetRule::NodeDomainOfFabric { .. } => {
            "name its rack, unit, pod or site, and give the fabric domain beside it"
        }
        FleetRule::NodeFabricOfTopology { .. } => "name its NVLink domain, leaf or spine, or none",
        FleetRule::NodePower { .. } | FleetRule::UnknownPower { .. } => {
            "add the power point to the list, or name one that is there"
        }
        FleetRule::NodeResidency { .. } => "number residency labels from 0",
        FleetRule::NodeHold { .. } => "cordon a node that is to stay out of use",
        FleetRule::NegativeCap { .. } => "give 0 where nothing may be drawn",
        FleetRule::CapTooLarge { .. } => "give the cap in watts",
        FleetRule::NegativeFloor { .. } => "leave the floor out where nothing is kept",
        FleetRule::FloorClass { .. } => "number tenant classes from 0",
        FleetRule::FloorTwice { .. } => "give one floor for each tenant class, their sum",
        FleetRule::FloorAboveCap { .. } => "raise the cap, or lower floors at this point or below it",
        FleetRule::UnknownQueue { .. } => "add the queue to the list, or name one that is there",
        FleetRule::ZeroWeight { .. } => "give 1 or more; to stop a queue set its limit to 0",
        FleetRule::GuaranteeRange { .. } => "give 0 where nothing is guaranteed",
        FleetRule::NegativeLimit { .. } => "give 0 where nothing may be used, or no limit",
        FleetRule::GuaranteeAboveLimit { .. } => "raise the limit, or lower guarantees of this queue or those below it",
        FleetRule::GuaranteeBelowChildren { .. } => {
            "raise it to the sum of its children's, or give none: then their sum holds"
        }
        FleetRule::GuaranteeAboveCapacity { .. } => "lower guarantees: what is not there cannot be promised",
    }
}

const fn request(rule: &RequestRule) -> &'static str {
    match rule {
        RequestRule::WaitsAlready => "change the waiting one, or give this one a number of its own",
        RequestRule::RunsAlready { .. } => "give it a number of its own",
        RequestRule::Unknown => "it may have started or been withdrawn: look it up before changing it",
        RequestRule::UnknownQueue { .. } => "name a queue that exists",
        RequestRule::InnerQueue { .. } => "name one of the queues below it",
        RequestRule::TenantClass { .. } => "number tenant classes from 0",
        RequestRule::Nothing => "ask for GPUs, CPU or memory",
        RequestRule::NoNodes => "ask for at least 1 node",
        RequestRule::MinAboveMax { .. } => "give both the same number for a gang of fixed size",
        RequestRule::Milli { .. } => "ask for whole GPUs where a part is not enough",
        RequestRule::UnknownModel { .. } => "name models that the fleet has, or none to allow all",
        RequestRule::SliceModels { .. } => "name the one model whose profile it is",
        RequestRule::UnknownSlice { .. } => "name a profile of that model",
        RequestRule::ExpectedAbovePeak { .. } => "raise the peak, or lower what is expected",
        RequestRule::NoRunTime => "leave the run time out where it is not known",
        RequestRule::Instant { .. } => INSTANT,
        RequestRule::DeadlineBeforeSubmission { .. } => "give a later deadline, or none",
        RequestRule::DeadlineTooEarly { .. } => "give a later deadline, a shorter run time or an earlier begin",
        RequestRule::NoSuchNode => "allow other models or residencies",
        RequestRule::Gpus { .. } => "ask for fewer GPUs on each of more nodes, or allow models with larger nodes",
        RequestRule::Cpu { .. } => "ask for less CPU on each node",
        RequestRule::Memory { .. } => "ask for less memory on each node",
        RequestRule::LargerThanFleet { .. } => "ask for fewer nodes, or allow other models or residencies",
        RequestRule::LargerThanDomain { .. } => "ask for fewer nodes, or for a coarser level",
        RequestRule::PromisedNodes { .. } => "name each promised node once, as many as the request asks for",
        RequestRule::PromisedToAnother { .. } => "tell promises of one plan only, or withdraw the other request first",
    }
}

const fn lease(rule: &LeaseRule) -> &'static str {
    match rule {
        LeaseRule::StartedAlready => "tell each start once",
        LeaseRule::Unknown => "it may have ended: tell each end once",
        LeaseRule::RequestRuns { .. } => "end that lease first",
        LeaseRule::Request { .. } => "tell the lease with a request as it could be made",
        LeaseRule::NodeCount { .. } => "tell it with all its nodes, and with the request as it was",
        LeaseRule::UnknownNode { .. } => "name nodes of the fleet",
        LeaseRule::NodeTwice { .. } => "tell each node once, with all that it gives",
        LeaseRule::Model { .. } | LeaseRule::OtherThanAsked { .. } => {
            "tell the lease as it lies, with a request that asks for that"
        }
        LeaseRule::NoSuchGpu { .. } => "number the GPUs of a node from 0",
        LeaseRule::GpuTaken { .. } | LeaseRule::Cpu { .. } | LeaseRule::Memory { .. } => {
            "end the lease that has them first, or start from a newer plan"
        }
        LeaseRule::SlicePosition { .. } => "give one of the profile's positions",
        LeaseRule::Instant { .. } => INSTANT,
        LeaseRule::EndsBeforeStart { .. } => "give a later end, or none where it is not known",
        LeaseRule::SavedGoesBack { .. } => "tell checkpoints in their order",
    }
}

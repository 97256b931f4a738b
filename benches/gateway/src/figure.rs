//! What is measured, and what was promised of it.

use std::fmt;

/// A row of the table, in its order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Figure {
    AddedP50,
    AddedP99,
    PlainRate,
    PlainCpu,
    PlainCpuLedger,
    BurstRate,
    BurstCpu,
    StreamAdded,
    PacedRate,
    PacedCpu,
    PacedFirst,
    PromptRate,
    PromptCpu,
    MemoryIdle,
    MemoryAfter,
    MemoryGrowth,
    KilledPlain,
    KilledStreams,
    CancelPlain,
    CancelStream,
    OverloadTime,
    OverloadMute,
    CrowdErrors,
    CrowdFirst,
    CrowdMemory,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Better {
    Lower,
    Higher,
}

/// A promise about Galerne's value.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Bar {
    AtMost(f64),
    AtLeast(f64),
    /// So many on a machine of the usual kind, or so many times what peers reach in the same run.
    Throughput {
        least: f64,
        of_smg: f64,
        of_nginx: f64,
    },
}

impl fmt::Display for Bar {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::AtMost(most) => write!(f, "<= {most}"),
            Self::AtLeast(least) => write!(f, ">= {least}"),
            Self::Throughput { least, of_smg, of_nginx } => {
                write!(f, ">= {least}, or {of_smg} x smg and {of_nginx} x nginx")
            }
        }
    }
}

impl Figure {
    pub(crate) const ALL: [Self; 25] = [
        Self::AddedP50,
        Self::AddedP99,
        Self::PlainRate,
        Self::PlainCpu,
        Self::PlainCpuLedger,
        Self::BurstRate,
        Self::BurstCpu,
        Self::StreamAdded,
        Self::PacedRate,
        Self::PacedCpu,
        Self::PacedFirst,
        Self::PromptRate,
        Self::PromptCpu,
        Self::MemoryIdle,
        Self::MemoryAfter,
        Self::MemoryGrowth,
        Self::KilledPlain,
        Self::KilledStreams,
        Self::CancelPlain,
        Self::CancelStream,
        Self::OverloadTime,
        Self::OverloadMute,
        Self::CrowdErrors,
        Self::CrowdFirst,
        Self::CrowdMemory,
    ];

    /// With its unit.
    pub(crate) fn what(self) -> &'static str {
        match self {
            Self::AddedP50 => "added latency p50, 1 connection, us",
            Self::AddedP99 => "added latency p99, 1 connection, us",
            Self::PlainRate => "plain requests/s, 64 connections",
            Self::PlainCpu => "CPU us per plain request, while asked",
            Self::PlainCpuLedger => "CPU us per plain request, until in the ledger",
            Self::BurstRate => "SSE burst, events/s",
            Self::BurstCpu => "SSE burst, CPU us per event",
            Self::StreamAdded => "one stream of 64 tokens, added p50, us",
            Self::PacedRate => "SSE paced 200 x 50/s, events/s",
            Self::PacedCpu => "SSE paced, CPU us per event",
            Self::PacedFirst => "SSE paced, first event added p50, ms",
            Self::PromptRate => "32 KiB prompts, requests/s",
            Self::PromptCpu => "32 KiB prompts, CPU us per request",
            Self::MemoryIdle => "memory idle, MiB",
            Self::MemoryAfter => "memory after distinct prompts, MiB",
            Self::MemoryGrowth => "memory grown by them, MiB",
            Self::KilledPlain => "upstream killed: failed plain requests",
            Self::KilledStreams => "upstream killed: streams cut without a word",
            Self::CancelPlain => "cancel reaches the engine, plain, worst ms",
            Self::CancelStream => "cancel reaches the engine, stream, worst ms",
            Self::OverloadTime => "overload: refused after p99, ms",
            Self::OverloadMute => "overload: refused without Retry-After",
            Self::CrowdErrors => "2,000 streams at once: failed",
            Self::CrowdFirst => "2,000 streams at once: first event p99, ms",
            Self::CrowdMemory => "2,000 streams at once: memory after, MiB",
        }
    }

    pub(crate) fn bar(self) -> Option<Bar> {
        Some(match self {
            Self::AddedP50 => Bar::AtMost(120.0),
            Self::AddedP99 => Bar::AtMost(200.0),
            Self::PlainRate => Bar::Throughput { least: 25_000.0, of_smg: 3.0, of_nginx: 0.5 },
            Self::PlainCpuLedger => Bar::AtMost(45.0),
            Self::BurstRate => Bar::AtLeast(1_000_000.0),
            Self::BurstCpu => Bar::AtMost(1.0),
            Self::PacedCpu => Bar::AtMost(18.0),
            Self::PacedFirst => Bar::AtMost(2.0),
            Self::PromptCpu => Bar::AtMost(120.0),
            Self::MemoryIdle => Bar::AtMost(32.0),
            // The index of prefixes may take 64 MiB.
            Self::MemoryGrowth => Bar::AtMost(64.0),
            Self::CancelPlain | Self::CancelStream => Bar::AtMost(50.0),
            Self::OverloadTime => Bar::AtMost(5.0),
            Self::KilledPlain | Self::KilledStreams | Self::OverloadMute | Self::CrowdErrors => Bar::AtMost(0.0),
            Self::PlainCpu
            | Self::StreamAdded
            | Self::PacedRate
            | Self::PromptRate
            | Self::MemoryAfter
            | Self::CrowdFirst
            | Self::CrowdMemory => return None,
        })
    }

    pub(crate) fn better(self) -> Better {
        match self {
            Self::PlainRate | Self::BurstRate | Self::PacedRate | Self::PromptRate => Better::Higher,
            _ => Better::Lower,
        }
    }

    /// A value with as many decimals as say something.
    pub(crate) fn text(self, value: f64) -> String {
        let counts = matches!(
            self,
            Self::KilledPlain
                | Self::KilledStreams
                | Self::OverloadMute
                | Self::CrowdErrors
                | Self::AddedP50
                | Self::AddedP99
        );
        match value {
            value if value.is_infinite() => "never".to_owned(),
            value if counts || value.abs() >= 100.0 => format!("{value:.0}"),
            value if value.abs() >= 10.0 => format!("{value:.1}"),
            value => format!("{value:.2}"),
        }
    }
}

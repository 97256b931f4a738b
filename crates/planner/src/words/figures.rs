//! Numbers with their units, as each language writes them. All exact but durations, which say how they round.

use super::Language;
use crate::reason::Resource;
use crate::request::{Gpus, Shape};
use crate::units::GPU_MILLI;

/// No-break space: between a number and its unit in French.
pub(super) const NBSP: char = '\u{a0}';
/// Narrow no-break space: between groups of three digits in French.
const NARROW: char = '\u{202f}';

/// What an amount counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Unit {
    Gpu,
    Cpu,
    Mebibytes,
    Gibibytes,
    Tebibytes,
    Watts,
    Kilowatts,
    Megawatts,
}

impl Unit {
    /// Base units in one.
    const fn size(self) -> i64 {
        match self {
            Self::Gpu | Self::Cpu | Self::Kilowatts => 1000,
            Self::Mebibytes | Self::Watts => 1,
            Self::Gibibytes => 1 << 10,
            Self::Tebibytes => 1 << 20,
            Self::Megawatts => 1_000_000,
        }
    }

    fn word(self, language: Language, is_many: bool) -> &'static str {
        let (english, french) = match self {
            Self::Gpu => (["GPU", "GPUs"], ["GPU", "GPU"]),
            Self::Cpu => (["CPU core", "CPU cores"], ["cœur CPU", "cœurs CPU"]),
            Self::Mebibytes => (["MiB of memory"; 2], ["Mio de mémoire"; 2]),
            Self::Gibibytes => (["GiB of memory"; 2], ["Gio de mémoire"; 2]),
            Self::Tebibytes => (["TiB of memory"; 2], ["Tio de mémoire"; 2]),
            Self::Watts => (["watt", "watts"], ["watt", "watts"]),
            Self::Kilowatts => (["kilowatt", "kilowatts"], ["kilowatt", "kilowatts"]),
            Self::Megawatts => (["megawatt", "megawatts"], ["mégawatt", "mégawatts"]),
        };
        let words = match language {
            Language::English => english,
            Language::French => french,
        };
        if is_many { words[1] } else { words[0] }
    }
}

/// What stands between a number and its unit.
const fn space(language: Language) -> char {
    match language {
        Language::English => ' ',
        Language::French => NBSP,
    }
}

/// The largest unit in which every one of `amounts` is short: at least one, three decimals at most, of memory one.
fn unit(resource: Resource, amounts: &[i64]) -> Unit {
    let largest = amounts.iter().map(|amount| amount.abs()).max().unwrap_or(0);
    let fits = |unit: Unit, steps: i64| {
        largest >= unit.size() * if unit == Unit::Kilowatts { 10 } else { 1 }
            && amounts.iter().all(|amount| amount % unit.size() * steps % unit.size() == 0)
    };
    match resource {
        Resource::Gpu => Unit::Gpu,
        Resource::Cpu => Unit::Cpu,
        Resource::Memory if fits(Unit::Tebibytes, 10) => Unit::Tebibytes,
        Resource::Memory if fits(Unit::Gibibytes, 10) => Unit::Gibibytes,
        Resource::Memory => Unit::Mebibytes,
        Resource::Power if fits(Unit::Megawatts, 1000) => Unit::Megawatts,
        Resource::Power if fits(Unit::Kilowatts, 1000) => Unit::Kilowatts,
        Resource::Power => Unit::Watts,
    }
}

/// An amount with its unit: `8 GPUs`, `1.5 CPU cores`, `64 GiB of memory`, `10.2 kilowatts`.
pub(super) fn amount(language: Language, resource: Resource, amount: i64) -> String {
    let unit = unit(resource, &[amount]);
    with_unit(language, unit, amount, &decimal(language, amount, unit.size()))
}

/// Two amounts in one unit, the first without it: `28 of 32 GPUs` is made of it.
pub(super) fn pair(language: Language, resource: Resource, first: i64, second: i64) -> (String, String) {
    let unit = unit(resource, &[first, second]);
    let second_text = decimal(language, second, unit.size());
    (decimal(language, first, unit.size()), with_unit(language, unit, second, &second_text))
}

/// An amount in the unit of `like`, without it.
pub(super) fn number(language: Language, resource: Resource, amount: i64, like: i64) -> String {
    let unit = unit(resource, &[amount, like]);
    decimal(language, amount, unit.size())
}

/// Whether the language takes the plural for an amount of this resource.
pub(super) fn is_many(language: Language, resource: Resource, amount: i64) -> bool {
    takes_plural(language, amount, unit(resource, &[amount]).size())
}

fn takes_plural(language: Language, amount: i64, size: i64) -> bool {
    match language {
        // A part of one is of one: `0.5 GPU`; but `1.5 GPUs`, `0 GPUs`.
        Language::English => amount == 0 || amount.abs() > size,
        Language::French => amount.abs() >= 2 * size,
    }
}

fn with_unit(language: Language, unit: Unit, amount: i64, number: &str) -> String {
    format!("{number}{}{}", space(language), unit.word(language, takes_plural(language, amount, unit.size())))
}

/// `amount` / `size` with as many decimals as it needs, three at most.
fn decimal(language: Language, amount: i64, size: i64) -> String {
    let whole = count(language, amount / size);
    let thousandths = (amount % size).abs() * 1000 / size;
    if thousandths == 0 {
        return whole;
    }
    let point = match language {
        Language::English => '.',
        Language::French => ',',
    };
    let digits = format!("{thousandths:03}");
    format!("{whole}{point}{}", digits.trim_end_matches('0'))
}

/// A whole number, its digits in groups of three.
pub(super) fn count(language: Language, number: i64) -> String {
    let digits = number.unsigned_abs().to_string();
    let mut text = String::from(if number < 0 { "-" } else { "" });
    for (place, digit) in digits.chars().enumerate() {
        // French leaves four digits together, as English does here.
        if place > 0 && (digits.len() - place).is_multiple_of(3) && digits.len() > 4 {
            text.push(match language {
                Language::English => ',',
                Language::French => NARROW,
            });
        }
        text.push(digit);
    }
    text
}

/// A duration in its two largest units, rounded down: `3 h 20 min`.
pub(super) fn duration(language: Language, seconds: i64) -> String {
    let day = match language {
        Language::English => "d",
        Language::French => "j",
    };
    let space = space(language);
    let units = [(86_400, day), (3600, "h"), (60, "min"), (1, "s")];
    let first = units.iter().position(|(size, _)| seconds >= *size).unwrap_or(3);
    let mut rest = seconds.max(0);
    let mut parts = Vec::new();
    for (size, word) in units.into_iter().skip(first).take(2) {
        let number = rest / size;
        rest %= size;
        if number > 0 || parts.is_empty() {
            parts.push(format!("{number}{space}{word}"));
        }
    }
    parts.join(&space.to_string())
}

/// The same, rounded up: what is said to wait for is then over.
pub(super) fn duration_up(language: Language, seconds: i64) -> String {
    let seconds = seconds.max(0);
    let grain = match seconds {
        86_400.. => 3600,
        3600.. => 60,
        _ => 1,
    };
    duration(language, seconds.saturating_add(grain - 1) / grain * grain)
}

/// What a shape asks of a resource on each node, in the resource's base unit.
pub(super) fn asked(shape: &Shape, resource: Resource) -> i64 {
    match (resource, shape.gpus) {
        (Resource::Gpu, Gpus::Whole(gpus)) => i64::from(gpus) * i64::from(GPU_MILLI),
        (Resource::Gpu, Gpus::Milli(milli)) => milli.into(),
        (Resource::Gpu, Gpus::Slice(_)) => 0,
        (Resource::Cpu, _) => shape.cpu_milli.into(),
        (Resource::Memory, _) => shape.memory_mib.into(),
        (Resource::Power, _) => shape.peak_watts.into(),
    }
}

/// All that a shape asks on each node, GPUs first and of which models, where it names some; a slice has its own words.
pub(super) fn asked_all(
    language: Language,
    shape: &Shape,
    models: &str,
    slice: impl FnOnce() -> String,
) -> Vec<String> {
    let told = |resource| {
        let asked = asked(shape, resource);
        (asked > 0).then(|| amount(language, resource, asked))
    };
    let gpus = match shape.gpus {
        Gpus::Slice(_) => Some(slice()),
        Gpus::Whole(_) | Gpus::Milli(_) => told(Resource::Gpu),
    };
    let of = if models.is_empty() { String::new() } else { format!(" ({models})") };
    let rest = [Resource::Cpu, Resource::Memory, Resource::Power].into_iter().filter_map(told);
    gpus.map(|gpus| gpus + &of).into_iter().chain(rest).collect()
}

/// Seconds on a GPU in the largest unit that leaves no rest, and which: hours, minutes, seconds.
pub(super) const fn gpu_time(seconds: i64) -> (i64, usize) {
    match (seconds % 3600, seconds % 60) {
        (0, _) => (seconds / 3600, 0),
        (_, 0) => (seconds / 60, 1),
        _ => (seconds, 2),
    }
}

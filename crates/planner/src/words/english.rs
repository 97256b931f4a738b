//! English.

use super::figures::{self, amount, pair};
use super::{Language, Words, list};
use crate::fleet::Level;
use crate::plan::{Preemption, PreemptionCause};
use crate::reason::{Awaited, Cause, Next, Resource, Step, Then, Why};
use crate::request::{Gpus, Request, Shape};
use crate::units::{At, DomainId, ModelId};

const ENGLISH: Language = Language::English;

pub(super) fn cause(words: &Words<'_>, request: &Request, why: &Why) -> String {
    match why.cause {
        Cause::Waits => format!("waits for {}", ask(words, &request.shape)),
        Cause::NotBefore { at } => format!("is to begin {} at the earliest", words.at(at)),
        Cause::BetterHour { until } => better_hour(words, request, until),
        Cause::Quota { queue, resource, limit, used, asked } => {
            quota(&words.queue(queue), resource, limit, used, asked)
        }
        Cause::Nodes { needed, free, could } => format!("nodes: {needed} needed, {}", free_of(free, could)),
        Cause::Free { nodes } => format!("{} free", are(nodes)),
        Cause::Busy { nodes } => format!("{} in use", are(nodes)),
        Cause::Scattered { nodes, needed_milli, largest_milli, free_milli } => {
            scattered(nodes, needed_milli, largest_milli, free_milli)
        }
        Cause::Cpu { nodes, needed_milli, largest_milli } => {
            short(&request.shape, nodes, Resource::Cpu, needed_milli, largest_milli)
        }
        Cause::Memory { nodes, needed_mib, largest_mib } => {
            short(&request.shape, nodes, Resource::Memory, needed_mib, largest_mib)
        }
        Cause::OutOfService { cordoned, held, held_until, down } => {
            out_of_service(words, cordoned, held, held_until, down)
        }
        Cause::Reserved { nodes, requests, request, starts_at } => {
            reserved(words, nodes, requests, &words.request(request), starts_at)
        }
        Cause::Gap { seconds } => gap(request.run_seconds, seconds),
        Cause::Behind { nodes } => format!("{} to requests that come first", goes(nodes)),
        Cause::Apart { level, needed, best, domain } => topology(words, level, best, domain, needed),
        Cause::Power { power, cap_watts, committed_watts, kept_watts, asked_watts } => {
            watts(&point(words.power(power)), cap_watts, committed_watts, kept_watts, asked_watts)
        }
        Cause::Model { model, total, free } => {
            format!("{}: {}", kind(words, model), free_of(free, total))
        }
        Cause::Promised { starts_at, nodes: number } => {
            format!("promised: it starts {} at the latest, on {}", words.at(starts_at), nodes(number))
        }
        Cause::ForNearness { until, level, domains, instead_of } => nearness(words, until, level, domains, instead_of),
        Cause::Preempting { leases, lease } => preempting(leases, &words.lease(lease)),
        Cause::EndsUnknown { leases } => {
            let more = if leases < crate::reason::ENDS_COUNTED { "" } else { " or more" };
            let (leases, are) =
                (figures::count(ENGLISH, leases.into()), if leases == 1 { "lease is" } else { "leases are" });
            format!("when is not known: {leases}{more} {are} in the way without a said end")
        }
    }
}

pub(super) fn step(words: &Words<'_>, request: &Request, next: &Next) -> String {
    let text = advice(words, request, &next.step);
    match next.then {
        Then::Starts => text,
        Then::Clears { left } => format!("{text} ({} left)", plural(left, "obstacle is", "obstacles are")),
    }
}

fn advice(words: &Words<'_>, request: &Request, step: &Step) -> String {
    let shape = &request.shape;
    let each = if shape.nodes.max > 1 { " on each node" } else { "" };
    match *step {
        Step::Wait { on: on @ Awaited::Overdue(_), .. } | Step::Wait { until: At::NEVER, on } => {
            format!("wait: {}", awaited(words, on))
        }
        Step::Wait { until, on } => format!("wait: {} {}", awaited(words, on), words.at(until)),
        Step::SayRunTime { seconds } => {
            format!("run at most {}, and say so: it then ends before the promised start", duration(seconds))
        }
        Step::Relax { from, to: Some(to) } => {
            format!("ask for one {} instead of one {}", level_word(to), level_word(from))
        }
        Step::Relax { from, to: None } => format!("do not ask for one {}", level_word(from)),
        Step::DropPreference { level } => format!("do not prefer one {}", level_word(level)),
        Step::AllowModel { model, free } => {
            format!("allow {} too: {} free", kind(words, model), nodes_are(free))
        }
        Step::Less { resource, amount: less } => {
            let (asked, less) = pair(ENGLISH, resource, figures::asked(shape, resource), less.into());
            format!("ask for {less} instead of {asked}{each}")
        }
        Step::LessBoth { cpu_milli, memory_mib } => {
            let (cpu, memory) = (figure(Resource::Cpu, cpu_milli), figure(Resource::Memory, memory_mib));
            format!("ask for only {cpu} and {memory}{each}")
        }
        Step::Spread { nodes: over, .. } => {
            let part = shape.spread(u8::try_from(over).unwrap_or(u8::MAX));
            format!("spread it over {}, each with {}", nodes(over), member(words, &part))
        }
        Step::Draw { peak_watts } => {
            let (asked, less) = pair(ENGLISH, Resource::Power, shape.peak_watts.into(), peak_watts.into());
            format!("draw at most {less} instead of {asked}{each}")
        }
        Step::Fewer { nodes } => {
            let least = if shape.nodes.min < shape.nodes.max { "at least " } else { "" };
            format!("ask for {least}{} instead of {}", self::nodes(nodes), shape.nodes.min)
        }
        Step::AllowResidency { residencies, free } => {
            let places = list(Words::each(residencies, |bit| words.residency(bit)), "and");
            format!("allow residency {places} too: {} free", nodes_are(free))
        }
        Step::Restore { node } => format!("take node {} back into service", words.node(node)),
        Step::RaiseQuota { queue, resource, by } => {
            format!("have the limit of queue {} raised by {}", words.queue(queue), amount(ENGLISH, resource, by))
        }
        Step::End { lease } => format!("have lease {} ended: it never said when it ends", words.lease(lease)),
        Step::RaiseCap { power, by_watts } => {
            let by = amount(ENGLISH, Resource::Power, by_watts);
            format!("have the power cap of {} raised by {by}", point(words.power(power)))
        }
    }
}

/// What is asked: 2 nodes in one rack, each with 8 GPUs and 96 CPU cores.
fn ask(words: &Words<'_>, shape: &Shape) -> String {
    let member = member(words, shape);
    let within = shape.within.map_or_else(String::new, |level| format!(" in one {}", level_word(level)));
    let (min, max) = (u32::from(shape.nodes.min), u32::from(shape.nodes.max));
    let mut text = match (min, max) {
        (_, 0..=1) => format!("{member}{within}"),
        _ if min == max => format!("{}{within}, each with {member}", nodes(max)),
        _ => format!("{min} to {}{within}, each with {member}", nodes(max)),
    };
    if shape.residencies != 0 {
        let places = list(Words::each(shape.residencies, |bit| words.residency(bit)), "or");
        text.push_str(&format!(", in residency {places}"));
    }
    text
}

/// What each node gives.
fn member(words: &Words<'_>, shape: &Shape) -> String {
    let models = list(Words::each(shape.models, |bit| kind(words, ModelId(bit))), "or");
    let parts = figures::asked_all(ENGLISH, shape, &models, || format!("slice {} of a GPU", words.slice(shape)));
    if parts.is_empty() { "a place on a node".to_owned() } else { list(parts, "and") }
}

fn better_hour(words: &Words<'_>, request: &Request, until: At) -> String {
    let deadline =
        request.deadline.map_or_else(String::new, |at| format!(", in time for its deadline {}", words.at(at)));
    format!("held for a better hour: it starts {}{deadline}", words.at(until))
}

fn quota(queue: &str, resource: Resource, limit: i64, used: i64, asked: i64) -> String {
    let (used, limit) = pair(ENGLISH, resource, used, limit);
    format!("quota of queue {queue}: {used} of {limit} used, {} more asked", amount(ENGLISH, resource, asked))
}

fn topology(words: &Words<'_>, level: Level, best: u32, domain: Option<DomainId>, needed: u32) -> String {
    let named = domain.map_or_else(String::new, |domain| format!(" ({})", words.domain(domain)));
    format!("topology: {needed} needed in one {}, {best} free in the best{named}", level_word(level))
}

fn scattered(nodes: u32, needed_milli: u32, largest_milli: u32, free_milli: i64) -> String {
    let largest = figure(Resource::Gpu, largest_milli);
    let number = |milli: i64| figures::number(ENGLISH, Resource::Gpu, milli, 0);
    let (needed, all) = (number(needed_milli.into()), number(free_milli));
    format!("{} partly free: {largest} on one at most, {needed} needed, {all} in all", are(nodes))
}

fn short(shape: &Shape, nodes: u32, resource: Resource, needed: u32, largest: u32) -> String {
    let what = match resource {
        Resource::Cpu => "CPU",
        Resource::Memory => "memory",
        Resource::Gpu => "GPUs",
        Resource::Power => "power",
    };
    let has = if nodes == 1 { "has" } else { "have" };
    let (largest, needed) = pair(ENGLISH, resource, largest.into(), needed.into());
    let of = format!("{largest} of {needed} at most");
    match shape.gpus {
        Gpus::Whole(0) => format!("{nodes} {has} too little {what}: {of}"),
        Gpus::Whole(_) | Gpus::Milli(_) | Gpus::Slice(_) => {
            format!("{nodes} {has} free GPUs, but too little {what} beside them: {of}")
        }
    }
}

fn out_of_service(words: &Words<'_>, cordoned: u32, held: u32, held_until: Option<At>, down: u32) -> String {
    let mut parts = Vec::new();
    if cordoned > 0 {
        parts.push(format!("{} cordoned", are(cordoned)));
    }
    if held > 0 {
        let until = held_until.map_or_else(String::new, |at| format!(" (ends {})", words.at(at)));
        parts.push(format!("{} in maintenance{until}", are(held)));
    }
    if down > 0 {
        parts.push(format!("{} down", are(down)));
    }
    parts.join(", ")
}

fn watts(point: &str, cap: i64, committed: i64, kept: i64, asked: i64) -> String {
    let (used, cap) = pair(ENGLISH, Resource::Power, committed, cap);
    let kept = match kept {
        0 => String::new(),
        kept => format!(", {} kept for other classes", amount(ENGLISH, Resource::Power, kept)),
    };
    format!("power of {point}: {used} of {cap} committed{kept}, {} more asked", amount(ENGLISH, Resource::Power, asked))
}

fn reserved(words: &Words<'_>, nodes: u32, requests: u32, first: &str, starts_at: At) -> String {
    match requests {
        0 | 1 => format!("{} promised to request {first}, which starts {}", are(nodes), words.at(starts_at)),
        _ => format!(
            "{} promised to {requests} requests; the first, {first}, starts {}",
            are(nodes),
            words.at(starts_at)
        ),
    }
}

fn gap(run_seconds: Option<u32>, seconds: u32) -> String {
    let gap = duration(seconds);
    match run_seconds {
        None => format!("its run time was not said: up to {gap} would fit before that"),
        Some(runs) => format!("it runs {}: up to {gap} would fit before that", duration(runs)),
    }
}

fn nearness(words: &Words<'_>, until: At, level: Level, domains: u32, instead_of: u32) -> String {
    let end = if level == Level::Leaf { "es" } else { "s" };
    let now =
        format!("over {} {}{end} it could start now", figures::count(ENGLISH, instead_of.into()), level_word(level));
    let fewer = if domains == 1 { "one".to_owned() } else { figures::count(ENGLISH, domains.into()) };
    format!("nearness: {now}, over {fewer} it starts {}", words.at(until))
}

fn preempting(leases: u32, lease: &str) -> String {
    match leases {
        0 | 1 => format!("takes the place of lease {lease}, which is stopping"),
        _ => format!("takes the place of {leases} leases, which are stopping, lease {lease} among them"),
    }
}

/// Who takes a lease's place, by what right, and what is lost.
pub(super) fn gives_way(words: &Words<'_>, preemption: &Preemption) -> String {
    let right = match preemption.cause {
        PreemptionCause::Priority => "which has a higher priority in the same queue",
        PreemptionCause::Reclaim => "whose queue takes back what it is guaranteed",
    };
    let lost = match figures::gpu_time(preemption.lost_gpu_seconds) {
        (0, _) => "no work is lost".to_owned(),
        (number, unit) => {
            let unit = ["GPU-hour", "GPU-minute", "GPU-second"][unit];
            let (s, is) = if number == 1 { ("", "is") } else { ("s", "are") };
            format!("{} {unit}{s} of work {is} lost", figures::count(ENGLISH, number))
        }
    };
    let (lease, request) = (words.lease(preemption.lease), words.request(preemption.for_request));
    format!("lease {lease} gives way to request {request}, {right}: {lost}")
}

fn awaited(words: &Words<'_>, on: Awaited) -> String {
    match on {
        Awaited::Lease(lease) => format!("lease {} ends", words.lease(lease)),
        Awaited::Overdue(lease) => format!("lease {} should have ended by now", words.lease(lease)),
        Awaited::Leases { last } => format!("the last lease in the way, {}, ends", words.lease(last)),
        Awaited::Request(request) => format!("request {}, which starts now, ends", words.request(request)),
        Awaited::Maintenance(node) => format!("the maintenance of node {} ends", words.node(node)),
        Awaited::Stop(lease) => format!("lease {} is being stopped", words.lease(lease)),
        Awaited::Begin => "it may begin".to_owned(),
    }
}

/// The distance of an instant from now.
pub(super) fn at(words: &Words<'_>, at: At) -> String {
    match at.since(words.now) {
        _ if at == At::NEVER => "at an unknown time".to_owned(),
        0 => "now".to_owned(),
        seconds => format!("in {}", figures::duration_up(ENGLISH, seconds)),
    }
}

const fn level_word(level: Level) -> &'static str {
    match level {
        Level::Site => "site",
        Level::Pod => "pod",
        Level::Unit => "scalable unit",
        Level::Rack => "rack",
        Level::Spine => "spine",
        Level::Leaf => "leaf switch",
        Level::NvLink => "NVLink domain",
    }
}

/// A model: its name, or `model 3`.
fn kind(words: &Words<'_>, model: ModelId) -> String {
    words.names.model(model).map_or_else(|| format!("model {}", model.0), |name| format!("`{name}`"))
}

/// A power point: its name, or `power point 3`.
fn point(label: String) -> String {
    if label.starts_with('`') { label } else { format!("power point {label}") }
}

fn figure(resource: Resource, figure: u32) -> String {
    amount(ENGLISH, resource, figure.into())
}

fn duration(seconds: u32) -> String {
    figures::duration(ENGLISH, seconds.into())
}

fn plural(number: u32, one: &str, many: &str) -> String {
    format!("{} {}", figures::count(ENGLISH, number.into()), if number == 1 { one } else { many })
}

fn nodes(number: u32) -> String {
    plural(number, "node", "nodes")
}

fn nodes_are(number: u32) -> String {
    plural(number, "node is", "nodes are")
}

/// How many are free of those that could do.
fn free_of(free: u32, could: u32) -> String {
    match (free, could) {
        (0, 1) => "the only one that could do is not free".to_owned(),
        (_, 1) => "the only one that could do is free".to_owned(),
        (0, _) => format!("none free of the {} that could do", figures::count(ENGLISH, could.into())),
        _ => format!(
            "{} free of the {} that could do",
            figures::count(ENGLISH, free.into()),
            figures::count(ENGLISH, could.into())
        ),
    }
}

/// That others of the queue come first.
pub(super) fn behind(requests: u32) -> String {
    let ask = if requests == 1 { "that asks the same comes" } else { "that ask the same come" };
    format!("order: {} of its queue {ask} first", plural(requests, "request", "requests"))
}

fn goes(number: u32) -> String {
    plural(number, "goes", "go")
}

fn are(number: u32) -> String {
    plural(number, "is", "are")
}

//! French. The plural begins at two; a number and its unit stay on one line.

use super::figures::{self, NBSP, amount, pair};
use super::{Language, Words, list};
use crate::fleet::Level;
use crate::plan::{Preemption, PreemptionCause};
use crate::reason::{Awaited, Cause, Next, Resource, Step, Then, Why};
use crate::request::{Gpus, Request, Shape};
use crate::units::{At, DomainId, ModelId};

const FRENCH: Language = Language::French;

pub(super) fn cause(words: &Words<'_>, request: &Request, why: &Why) -> String {
    match why.cause {
        Cause::Waits => format!("en attente de {}", ask(words, &request.shape)),
        Cause::NotBefore { at } => format!("doit commencer {} au plus tôt", words.at(at)),
        Cause::BetterHour { until } => better_hour(words, request, until),
        Cause::Quota { queue, resource, limit, used, asked } => {
            quota(&words.queue(queue), resource, limit, used, asked)
        }
        Cause::Nodes { needed, free, could } => {
            format!("nœuds{NBSP}: il en faut {}, {}", count(needed), free_of(free, could))
        }
        Cause::Free { nodes } => agree(nodes, "libre", "libres"),
        Cause::Busy { nodes } => agree(nodes, "occupé", "occupés"),
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
        Cause::Behind { nodes } => plural(nodes, "revient", "reviennent") + " à des demandes qui passent avant",
        Cause::Apart { level, needed, best, domain } => topology(words, level, best, domain, needed),
        Cause::Power { power, cap_watts, committed_watts, kept_watts, asked_watts } => {
            watts(&point(words.power(power)), cap_watts, committed_watts, kept_watts, asked_watts)
        }
        Cause::Model { model, total, free } => format!("{}{NBSP}: {}", kind(words, model), free_of(free, total)),
        Cause::Promised { starts_at, nodes: number } => {
            format!("promesse{NBSP}: démarre {} au plus tard, sur {}", words.at(starts_at), nodes(number))
        }
        Cause::ForNearness { until, level, domains, instead_of } => nearness(words, until, level, domains, instead_of),
        Cause::Preempting { leases, lease } => preempting(leases, &words.lease(lease)),
        Cause::EndsUnknown { leases } => {
            let more = if leases < crate::reason::ENDS_COUNTED { "" } else { " ou plus" };
            let have = if leases < 2 { "bail en place n'a pas" } else { "baux en place n'ont pas" };
            format!("date inconnue{NBSP}: {}{more}{NBSP}{have} de fin annoncée", count(leases))
        }
    }
}

pub(super) fn step(words: &Words<'_>, request: &Request, next: &Next) -> String {
    let text = advice(words, request, &next.step);
    match next.then {
        Then::Starts => text,
        Then::Clears { left } => format!("{text} ({})", plural(left, "obstacle subsiste", "obstacles subsistent")),
    }
}

fn advice(words: &Words<'_>, request: &Request, step: &Step) -> String {
    let shape = &request.shape;
    let each = if shape.nodes.max > 1 { " sur chaque nœud" } else { "" };
    match *step {
        Step::Wait { on: on @ Awaited::Overdue(_), .. } | Step::Wait { until: At::NEVER, on } => {
            format!("attendre{NBSP}: {}", awaited(words, on))
        }
        Step::Wait { until, on } => format!("attendre{NBSP}: {} {}", awaited(words, on), words.at(until)),
        Step::SayRunTime { seconds } => {
            let runs = duration(seconds);
            format!("durer {runs} au plus, et l'annoncer{NBSP}: elle finit alors avant le démarrage promis")
        }
        Step::Relax { from, to: Some(to) } => format!("se contenter {} au lieu {}", of_one(to), of_one(from)),
        Step::Relax { from, to: None } => format!("ne plus exiger {}", one(from)),
        Step::DropPreference { level } => format!("ne plus préférer {}", one(level)),
        Step::AllowModel { model, free } => {
            format!("autoriser aussi {}{NBSP}: {}", kind(words, model), agree_nodes(free, "libre", "libres"))
        }
        Step::Less { resource, amount: less } => {
            let (asked, less) = pair(FRENCH, resource, figures::asked(shape, resource), less.into());
            format!("demander {less} au lieu de {asked}{each}")
        }
        Step::LessBoth { cpu_milli, memory_mib } => {
            let (cpu, memory) = (figure(Resource::Cpu, cpu_milli), figure(Resource::Memory, memory_mib));
            format!("ne demander que {cpu} et {memory}{each}")
        }
        Step::Spread { nodes: over, .. } => {
            let part = shape.spread(u8::try_from(over).unwrap_or(u8::MAX));
            format!("répartir sur {}, chacun avec {}", nodes(over), member(words, &part))
        }
        Step::Draw { peak_watts } => {
            let (asked, less) = pair(FRENCH, Resource::Power, shape.peak_watts.into(), peak_watts.into());
            format!("appeler au plus {less} au lieu de {asked}{each}")
        }
        Step::Fewer { nodes } => {
            let least = if shape.nodes.min < shape.nodes.max { "au moins " } else { "" };
            format!("demander {least}{} au lieu de {}", self::nodes(nodes), count(shape.nodes.min.into()))
        }
        Step::AllowResidency { residencies, free } => {
            let places = list(Words::each(residencies, |bit| words.residency(bit)), "et");
            format!("autoriser aussi la résidence {places}{NBSP}: {}", agree_nodes(free, "libre", "libres"))
        }
        Step::Restore { node } => format!("remettre le nœud {} en service", words.node(node)),
        Step::RaiseQuota { queue, resource, by } => {
            format!("faire relever la limite de la file {} de {}", words.queue(queue), amount(FRENCH, resource, by))
        }
        Step::End { lease } => {
            format!("faire cesser le bail {}, qui n'a pas de fin annoncée", words.lease(lease))
        }
        Step::RaiseCap { power, by_watts } => {
            let by = amount(FRENCH, Resource::Power, by_watts);
            format!("faire relever le plafond de puissance de {} de {by}", point(words.power(power)))
        }
    }
}

/// What is asked: 2 nodes in one rack, each with 8 GPUs and 96 CPU cores.
fn ask(words: &Words<'_>, shape: &Shape) -> String {
    let member = member(words, shape);
    let within = shape.within.map_or_else(String::new, |level| format!(" dans {}", one(level)));
    let (min, max) = (u32::from(shape.nodes.min), u32::from(shape.nodes.max));
    let mut text = match (min, max) {
        (_, 0..=1) => format!("{member}{within}"),
        _ if min == max => format!("{}{within}, chacun avec {member}", nodes(max)),
        _ => format!("{} à {}{within}, chacun avec {member}", count(min), nodes(max)),
    };
    if shape.residencies != 0 {
        let places = list(Words::each(shape.residencies, |bit| words.residency(bit)), "ou");
        text.push_str(&format!(", en résidence {places}"));
    }
    text
}

/// What each node gives.
fn member(words: &Words<'_>, shape: &Shape) -> String {
    let models = list(Words::each(shape.models, |bit| kind(words, ModelId(bit))), "ou");
    let parts = figures::asked_all(FRENCH, shape, &models, || format!("la partition {} d'un GPU", words.slice(shape)));
    if parts.is_empty() { "place sur un nœud".to_owned() } else { list(parts, "et") }
}

fn better_hour(words: &Words<'_>, request: &Request, until: At) -> String {
    let deadline =
        request.deadline.map_or_else(String::new, |at| format!(", à temps pour son échéance {}", words.at(at)));
    format!("retenue pour une meilleure heure{NBSP}: démarre {}{deadline}", words.at(until))
}

fn quota(queue: &str, resource: Resource, limit: i64, used: i64, more: i64) -> String {
    let is_many = figures::is_many(FRENCH, resource, limit);
    let taken = match resource {
        Resource::Gpu | Resource::Cpu | Resource::Power if is_many => "utilisés",
        Resource::Gpu | Resource::Cpu | Resource::Power | Resource::Memory => "utilisé",
    };
    let (used, limit) = pair(FRENCH, resource, used, limit);
    let asked = figures::is_many(FRENCH, resource, more);
    let more = amount(FRENCH, resource, more);
    let asked = if asked && resource != Resource::Memory { "demandés" } else { "demandé" };
    format!("quota de la file {queue}{NBSP}: {used} sur {limit} {taken}, {more} de plus {asked}")
}

fn topology(words: &Words<'_>, level: Level, best: u32, domain: Option<DomainId>, needed: u32) -> String {
    let named = domain.map_or_else(String::new, |domain| format!(" ({})", words.domain(domain)));
    let the_best = if is_feminine(level) { "la meilleure" } else { "le meilleur" };
    let free = agree(best, "libre", "libres");
    format!("topologie{NBSP}: il en faut {} dans {}, {free} dans {the_best}{named}", count(needed), one(level))
}

fn scattered(nodes: u32, needed_milli: u32, largest_milli: u32, free_milli: i64) -> String {
    let largest = figure(Resource::Gpu, largest_milli);
    let number = |milli: i64| figures::number(FRENCH, Resource::Gpu, milli, 0);
    let (needed, all) = (number(needed_milli.into()), number(free_milli));
    let nodes = agree(nodes, "libre en partie", "libres en partie");
    format!("{nodes}{NBSP}: {largest} au plus sur un seul, il en faut {needed}, {all} en tout")
}

fn short(shape: &Shape, nodes: u32, resource: Resource, needed: u32, largest: u32) -> String {
    let what = match resource {
        Resource::Cpu => "de CPU",
        Resource::Memory => "de mémoire",
        Resource::Gpu => "de GPU",
        Resource::Power => "de puissance",
    };
    let (largest, needed) = pair(FRENCH, resource, largest.into(), needed.into());
    let of = format!("{largest} sur {needed} au plus");
    match shape.gpus {
        Gpus::Whole(0) => format!("{} trop peu {what}{NBSP}: {of}", agree(nodes, "a", "ont")),
        Gpus::Whole(_) | Gpus::Milli(_) | Gpus::Slice(_) => {
            let have = agree(nodes, "a des GPU libres", "ont des GPU libres");
            format!("{have}, mais trop peu {what} à côté{NBSP}: {of}")
        }
    }
}

fn out_of_service(words: &Words<'_>, cordoned: u32, held: u32, held_until: Option<At>, down: u32) -> String {
    let mut parts = Vec::new();
    if cordoned > 0 {
        parts.push(agree(cordoned, "mis à l'écart", "mis à l'écart"));
    }
    if held > 0 {
        let until = held_until.map_or_else(String::new, |at| format!(" (finit {})", words.at(at)));
        parts.push(format!("{} en maintenance{until}", count(held)));
    }
    if down > 0 {
        parts.push(format!("{} en panne", count(down)));
    }
    parts.join(", ")
}

fn watts(point: &str, cap: i64, committed: i64, kept: i64, more: i64) -> String {
    let engaged = if figures::is_many(FRENCH, Resource::Power, cap) { "engagés" } else { "engagé" };
    let (used, cap) = pair(FRENCH, Resource::Power, committed, cap);
    let kept = match kept {
        0 => String::new(),
        kept => {
            let many = if figures::is_many(FRENCH, Resource::Power, kept) { "gardés" } else { "gardé" };
            format!(", {} {many} pour d'autres classes", amount(FRENCH, Resource::Power, kept))
        }
    };
    let asked = if figures::is_many(FRENCH, Resource::Power, more) { "demandés" } else { "demandé" };
    let more = amount(FRENCH, Resource::Power, more);
    format!("puissance de {point}{NBSP}: {used} sur {cap} {engaged}{kept}, {more} de plus {asked}")
}

fn reserved(words: &Words<'_>, nodes: u32, requests: u32, first: &str, starts_at: At) -> String {
    let (nodes, starts) = (agree(nodes, "promis", "promis"), words.at(starts_at));
    match requests {
        0 | 1 => format!("{nodes} à la demande {first}, qui démarre {starts}"),
        _ => format!("{nodes} à {} demandes, dont la première, {first}, démarre {starts}", count(requests)),
    }
}

fn gap(run_seconds: Option<u32>, seconds: u32) -> String {
    let gap = duration(seconds);
    match run_seconds {
        None => format!("sa durée n'est pas indiquée{NBSP}: jusqu'à {gap}, elle tiendrait avant"),
        Some(runs) => format!("elle dure {}{NBSP}: jusqu'à {gap}, elle tiendrait avant", duration(runs)),
    }
}

fn nearness(words: &Words<'_>, until: At, level: Level, domains: u32, instead_of: u32) -> String {
    let only = if is_feminine(level) { "une seule" } else { "un seul" };
    let fewer = if domains == 1 { only.to_owned() } else { count(domains) };
    let (now, then) = (format!("{}{NBSP}{}", count(instead_of), several(level)), words.at(until));
    format!("proximité{NBSP}: sur {now} elle pourrait démarrer maintenant, sur {fewer} elle démarre {then}")
}

fn preempting(leases: u32, lease: &str) -> String {
    match leases {
        0 | 1 => format!("prend la place du bail {lease}, en cours d'arrêt"),
        _ => format!("prend la place de {} baux en cours d'arrêt, dont le bail {lease}", count(leases)),
    }
}

/// Who takes a lease's place, by what right, and what is lost.
pub(super) fn gives_way(words: &Words<'_>, preemption: &Preemption) -> String {
    let right = match preemption.cause {
        PreemptionCause::Priority => "plus prioritaire dans la même file",
        PreemptionCause::Reclaim => "dont la file reprend ce qui lui est garanti",
    };
    let lost = match figures::gpu_time(preemption.lost_gpu_seconds) {
        (0, _) => "aucun travail n'est perdu".to_owned(),
        (number, unit) => {
            let unit = ["heure", "minute", "seconde"][unit];
            let (s, number) = (if number < 2 { "" } else { "s" }, figures::count(FRENCH, number));
            format!("{number}{NBSP}{unit}{s}-GPU de travail perdue{s}")
        }
    };
    let (lease, request) = (words.lease(preemption.lease), words.request(preemption.for_request));
    format!("le bail {lease} laisse la place à la demande {request}, {right}{NBSP}: {lost}")
}

fn awaited(words: &Words<'_>, on: Awaited) -> String {
    match on {
        Awaited::Lease(lease) => format!("le bail {} finit", words.lease(lease)),
        Awaited::Overdue(lease) => format!("le bail {} aurait déjà dû finir", words.lease(lease)),
        Awaited::Leases { last } => format!("le dernier bail qui gêne, {}, finit", words.lease(last)),
        Awaited::Request(request) => format!("la demande {}, qui démarre maintenant, finit", words.request(request)),
        Awaited::Maintenance(node) => format!("la maintenance du nœud {} finit", words.node(node)),
        Awaited::Stop(lease) => format!("le bail {} est en cours d'arrêt", words.lease(lease)),
        Awaited::Begin => "elle peut commencer".to_owned(),
    }
}

/// The distance of an instant from now.
pub(super) fn at(words: &Words<'_>, at: At) -> String {
    match at.since(words.now) {
        _ if at == At::NEVER => "à une date inconnue".to_owned(),
        0 => "maintenant".to_owned(),
        seconds => format!("dans {}", figures::duration_up(FRENCH, seconds)),
    }
}

/// One domain of a level, with its article.
const fn one(level: Level) -> &'static str {
    match level {
        Level::Site => "un seul site",
        Level::Pod => "un seul îlot",
        Level::Unit => "une seule unité évolutive",
        Level::Rack => "une seule baie",
        Level::Spine => "un seul groupe spine",
        Level::Leaf => "un seul commutateur leaf",
        Level::NvLink => "un seul domaine NVLink",
    }
}

/// Several domains of a level.
const fn several(level: Level) -> &'static str {
    match level {
        Level::Site => "sites",
        Level::Pod => "îlots",
        Level::Unit => "unités évolutives",
        Level::Rack => "baies",
        Level::Spine => "groupes spine",
        Level::Leaf => "commutateurs leaf",
        Level::NvLink => "domaines NVLink",
    }
}

const fn is_feminine(level: Level) -> bool {
    matches!(level, Level::Unit | Level::Rack)
}

fn of_one(level: Level) -> String {
    format!("d'{}", one(level))
}

/// A model: its name, or `modèle 3`.
fn kind(words: &Words<'_>, model: ModelId) -> String {
    words.names.model(model).map_or_else(|| format!("modèle {}", model.0), |name| format!("`{name}`"))
}

/// A power point: its name, or `point d'alimentation 3`.
fn point(label: String) -> String {
    if label.starts_with('`') { label } else { format!("point d'alimentation {label}") }
}

fn figure(resource: Resource, figure: u32) -> String {
    amount(FRENCH, resource, figure.into())
}

fn duration(seconds: u32) -> String {
    figures::duration(FRENCH, seconds.into())
}

fn count(number: u32) -> String {
    figures::count(FRENCH, number.into())
}

fn plural(number: u32, one: &str, many: &str) -> String {
    format!("{}{NBSP}{}", count(number), if number < 2 { one } else { many })
}

fn nodes(number: u32) -> String {
    plural(number, "nœud", "nœuds")
}

/// `3 libres`, `1 libre`.
fn agree(number: u32, one: &str, many: &str) -> String {
    format!("{} {}", count(number), if number < 2 { one } else { many })
}

fn agree_nodes(number: u32, one: &str, many: &str) -> String {
    agree(number, &format!("nœud {one}"), &format!("nœuds {many}"))
}

/// How many are free of those that could do.
fn free_of(free: u32, could: u32) -> String {
    match (free, could) {
        (0, 1) => "le seul possible n'est pas libre".to_owned(),
        (0, _) => format!("aucun libre sur les {} possibles", count(could)),
        (_, 1) => "le seul possible est libre".to_owned(),
        _ => format!("{} sur les {} possibles", agree(free, "libre", "libres"), count(could)),
    }
}

/// That others of the queue come first.
pub(super) fn behind(requests: u32) -> String {
    match requests {
        0 | 1 => format!("ordre{NBSP}: une demande identique de sa file passe avant"),
        _ => format!("ordre{NBSP}: {} demandes identiques de sa file passent avant", count(requests)),
    }
}

//! What a user reads: reason trees in English and French, lower case, no final period, what would help last.
//!
//! Deliberately absent: decisions (every figure stands in the tree), time zones (instants are the caller's, or told
//! as a distance from now), colours, commands to type, line breaking.
//! A figure is exact: it takes a larger unit only where nothing is lost. Distances in time are the exception: waits
//! are rounded up and run times down, to the two largest units.

mod english;
mod figures;
mod french;

use crate::plan::{Plan, Preemption};
use crate::reason::{Mark, Next, Why};
use crate::request::{Gpus, Request, Shape};
use crate::units::{At, DomainId, LeaseId, ModelId, NodeId, PowerId, QueueId, RequestId, ResidencyId, SliceId};

/// What the text is written in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Language {
    English,
    French,
}

/// Names for the planner's numbers. What has none is told by its number.
pub trait Names {
    /// A queue.
    fn queue(&self, _: QueueId) -> Option<String> {
        None
    }
    /// A domain of the topology or the fabric.
    fn domain(&self, _: DomainId) -> Option<String> {
        None
    }
    /// A point of the power tree.
    fn power(&self, _: PowerId) -> Option<String> {
        None
    }
    /// A node.
    fn node(&self, _: NodeId) -> Option<String> {
        None
    }
    /// A GPU model.
    fn model(&self, _: ModelId) -> Option<String> {
        None
    }
    /// A slice profile of a model.
    fn slice(&self, _: ModelId, _: SliceId) -> Option<String> {
        None
    }
    /// A residency.
    fn residency(&self, _: ResidencyId) -> Option<String> {
        None
    }
    /// A lease.
    fn lease(&self, _: LeaseId) -> Option<String> {
        None
    }
    /// A request.
    fn request(&self, _: RequestId) -> Option<String> {
        None
    }
}

/// Nobody has a name.
#[derive(Debug, Clone, Copy, Default)]
pub struct Unnamed;

impl Names for Unnamed {}

/// How reasons are put into words.
#[derive(Clone, Copy)]
pub struct Words<'a> {
    pub language: Language,
    pub names: &'a dyn Names,
    /// The time of the pass.
    pub now: At,
    /// An instant as the user reads it, with its preposition: `at 14:25`, `à 14 h 25`. Without it: `in 3 h 20 min`.
    pub instant: Option<&'a dyn Fn(At) -> String>,
}

impl Words<'_> {
    /// The whole text: the tree with its marks, then the next steps, cheapest first; every line ends in a newline.
    pub fn tree(&self, request: &Request, why: &Why) -> String {
        self.text(request, why, 0)
    }

    fn text(&self, request: &Request, why: &Why, before: u32) -> String {
        let mut text = String::new();
        self.write(request, why, 0, &mut text);
        if before > 0 {
            text.push_str("  ⨯ ");
            text.push_str(&match self.language {
                Language::English => english::behind(before),
                Language::French => french::behind(before),
            });
            text.push('\n');
        }
        let mut steps = Vec::new();
        collect(why, &mut steps);
        if !steps.is_empty() {
            text.push_str(match self.language {
                Language::English => "next:\n",
                Language::French => "à faire\u{a0}:\n",
            });
        }
        for step in steps {
            text.push_str("  ↳ ");
            text.push_str(&self.step(request, step));
            text.push('\n');
        }
        text
    }

    /// The whole text for a request of a plan, and its place in line; `None`: it does not wait there.
    pub fn answer(&self, plan: &Plan, request: &Request) -> Option<String> {
        let at = plan.waiting.iter().position(|(waiting, _)| *waiting == request.id)?;
        let reason = plan.waiting[at].1;
        let why = plan.reasons.get(reason as usize)?;
        let before = plan.waiting[..at].iter().filter(|(_, other)| *other == reason).count();
        let before = u32::try_from(before).unwrap_or(u32::MAX);
        Some(self.text(request, why, before))
    }

    /// One part of a tree, without its mark and without what is below it.
    pub fn cause(&self, request: &Request, why: &Why) -> String {
        match self.language {
            Language::English => english::cause(self, request, why),
            Language::French => french::cause(self, request, why),
        }
    }

    /// One step.
    pub fn step(&self, request: &Request, next: &Next) -> String {
        match self.language {
            Language::English => english::step(self, request, next),
            Language::French => french::step(self, request, next),
        }
    }

    /// What the holder of a lease reads that must stop: who takes its place, by what right, and what is lost.
    pub fn gives_way(&self, preemption: &Preemption) -> String {
        match self.language {
            Language::English => english::gives_way(self, preemption),
            Language::French => french::gives_way(self, preemption),
        }
    }

    fn write(&self, request: &Request, why: &Why, depth: usize, text: &mut String) {
        text.push_str(&"  ".repeat(depth));
        text.push_str(match why.mark {
            Mark::Holds => "✓ ",
            Mark::Blocks => "⨯ ",
        });
        text.push_str(&self.cause(request, why));
        text.push('\n');
        for part in &why.because {
            self.write(request, part, depth + 1, text);
        }
    }

    /// An instant, as an adverb.
    fn at(&self, at: At) -> String {
        match (self.instant, self.language) {
            (Some(instant), _) if at != At::NEVER => instant(at),
            (_, Language::English) => english::at(self, at),
            (_, Language::French) => french::at(self, at),
        }
    }

    fn queue(&self, id: QueueId) -> String {
        label(self.names.queue(id), id.0)
    }

    fn domain(&self, id: DomainId) -> String {
        label(self.names.domain(id), id.0)
    }

    fn node(&self, id: NodeId) -> String {
        label(self.names.node(id), id.0)
    }

    fn lease(&self, id: LeaseId) -> String {
        label(self.names.lease(id), id.0)
    }

    fn request(&self, id: RequestId) -> String {
        label(self.names.request(id), id.0)
    }

    fn power(&self, id: PowerId) -> String {
        label(self.names.power(id), id.0)
    }

    fn residency(&self, id: u8) -> String {
        label(self.names.residency(ResidencyId(id)), id)
    }

    /// The slice profile a shape asks for: of its one model.
    fn slice(&self, shape: &Shape) -> String {
        let Gpus::Slice(slice) = shape.gpus else { return String::new() };
        let model = u8::try_from(shape.models.trailing_zeros()).unwrap_or(0);
        label(self.names.slice(ModelId(model), slice), slice.0)
    }

    /// The names of a set of models, or of residencies, in its order.
    fn each(set: u64, name: impl Fn(u8) -> String) -> Vec<String> {
        (0..64_u8).filter(|bit| set >> bit & 1 == 1).map(name).collect()
    }
}

/// A name in backticks, or the number that stands for it.
fn label(name: Option<String>, number: impl std::fmt::Display) -> String {
    name.map_or_else(|| number.to_string(), |name| format!("`{name}`"))
}

/// `a`, `a or b`, `a, b or c`.
fn list(mut items: Vec<String>, word: &str) -> String {
    match items.pop() {
        None => String::new(),
        Some(last) if items.is_empty() => last,
        Some(last) => format!("{} {word} {last}", items.join(", ")),
    }
}

/// Steps of the whole tree in reading order, each once.
fn collect<'a>(why: &'a Why, steps: &mut Vec<&'a Next>) {
    for next in &why.next {
        if !steps.contains(&next) {
            steps.push(next);
        }
    }
    for part in &why.because {
        collect(part, steps);
    }
}

//! Shapes, each once: requests of one shape and tenant class fit the same places, so what was found of one holds for
//! all of them until something that could help grows.

use std::collections::BTreeMap;

use crate::gang::NoPlace;
use crate::pack::SingleAsk;
use crate::power::PowerBlock;
use crate::request::{Gpus, Shape};
use crate::state::State;
use crate::state::nodes::gpus_touched;
use crate::state::topology::narrow;
use crate::units::{QueueId, TenantClass};

/// A shape's place.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct ShapeIx(u32);

/// The place of a list of requests of one shape in one queue; the owner of lists gives them out.
pub(crate) type ListIx = u32;

/// What decides where a request fits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Kind {
    pub(crate) shape: Shape,
    pub(crate) class: TenantClass,
}

/// One shape and what is known of it.
#[derive(Debug, Clone)]
pub(crate) struct Entry {
    pub(crate) kind: Kind,
    pub(crate) ask: SingleAsk,
    /// Classes of nodes that it could lie on.
    pub(crate) classes: u64,
    /// The view of its members, for a gang of whole GPUs.
    pub(crate) view: Option<usize>,
    /// GPUs touched on each node.
    gpus: u8,
    /// Lists that hold requests of it, each with its queue, in no order that means anything; none while the place is
    /// vacant.
    pub(crate) lists: Vec<(ListIx, QueueId)>,
    verdict: Option<Verdict>,
    /// In this round, runs of at least so many seconds find no place; `None`: any may.
    useful_below: Option<u32>,
}

/// Found to have no room.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Verdict {
    pub(crate) blocked: Blocked,
    /// Runs of at least so many seconds do not fit before promised starts either.
    pub(crate) backfill_limit: u32,
    /// No promise could be made when promises had changed so often.
    pub(crate) unpromised_at: Option<u64>,
    /// Watts had to do with it.
    by_power: bool,
    risen_at: u64,
    power_risen_at: u64,
}

/// What was missing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Blocked {
    /// Nodes with enough free, together.
    Room,
    /// Watts: there is room but for this.
    Power(PowerBlock),
}

impl From<NoPlace> for Blocked {
    fn from(missing: NoPlace) -> Self {
        match missing {
            NoPlace::Room => Self::Room,
            NoPlace::Power(block) => Self::Power(block),
        }
    }
}

impl Entry {
    /// Whether it asks for more than one node.
    pub(crate) const fn is_gang(&self) -> bool {
        self.kind.shape.nodes.max > 1
    }

    /// Whether somebody waits with it.
    pub(crate) const fn is_used(&self) -> bool {
        !self.lists.is_empty()
    }

    /// Whether no run of so many seconds or more finds a place in this round.
    pub(crate) fn is_useless(&self, shortest_run: u32) -> bool {
        self.useful_below.is_some_and(|limit| shortest_run >= limit)
    }

    /// What was found, while it still holds.
    pub(crate) fn verdict(&self, state: &State, power_risen_at: u64) -> Option<&Verdict> {
        let verdict = self.verdict.as_ref()?;
        let power_is_same = !verdict.by_power || verdict.power_risen_at == power_risen_at;
        (power_is_same && state.risen_at(self.classes, self.whole_gpus()) <= verdict.risen_at).then_some(verdict)
    }

    /// Whole GPUs that a node must have free; zero where a part is enough.
    const fn whole_gpus(&self) -> u8 {
        match self.kind.shape.gpus {
            Gpus::Whole(_) => self.gpus,
            Gpus::Milli(_) | Gpus::Slice(_) => 0,
        }
    }
}

/// All shapes that requests wait with.
#[derive(Debug, Clone, Default)]
pub(crate) struct Shapes {
    slots: Vec<Entry>,
    vacant: Vec<u32>,
    index: BTreeMap<Kind, ShapeIx>,
}

impl Shapes {
    /// The place of a shape; one that is new has no list yet.
    pub(crate) fn open(&mut self, state: &mut State, kind: Kind) -> ShapeIx {
        if let Some(known) = self.index.get(&kind) {
            return *known;
        }
        let shape = &kind.shape;
        let gang_of_whole = shape.nodes.max > 1 && matches!(shape.gpus, Gpus::Whole(_));
        let entry = Entry {
            kind,
            ask: SingleAsk::from(shape),
            classes: state.nodes.class_mask(shape),
            view: if gang_of_whole { state.open_view(shape) } else { None },
            gpus: gpus_touched(shape.gpus),
            lists: Vec::new(),
            verdict: None,
            useful_below: None,
        };
        let slot = if let Some(slot) = self.vacant.pop() {
            self.slots[slot as usize] = entry;
            slot
        } else {
            self.slots.push(entry);
            narrow(self.slots.len() - 1)
        };
        self.index.insert(kind, ShapeIx(slot));
        ShapeIx(slot)
    }

    /// One list more.
    pub(crate) fn join(&mut self, shape: ShapeIx, list: ListIx, queue: QueueId) {
        self.slots[shape.0 as usize].lists.push((list, queue));
    }

    /// One list less.
    pub(crate) fn close(&mut self, state: &mut State, shape: ShapeIx, list: ListIx) {
        let entry = &mut self.slots[shape.0 as usize];
        entry.lists.retain(|(other, _)| *other != list);
        if entry.lists.is_empty() {
            if let Some(view) = entry.view.take() {
                state.views.close(view);
            }
            self.index.remove(&entry.kind);
            self.vacant.push(shape.0);
        }
    }

    /// A shape by its place.
    pub(crate) fn get(&self, shape: ShapeIx) -> &Entry {
        &self.slots[shape.0 as usize]
    }

    /// The places of all, of those too that nobody waits with any more.
    pub(crate) fn all(&self) -> impl Iterator<Item = ShapeIx> + use<> {
        (0..narrow(self.slots.len())).map(ShapeIx)
    }

    /// Notes which runs of a shape may find a place in this round.
    pub(crate) fn set_useful_below(&mut self, shape: ShapeIx, seconds: Option<u32>) {
        self.slots[shape.0 as usize].useful_below = seconds;
    }

    /// Notes that a shape has no room now.
    pub(crate) fn set_verdict(&mut self, shape: ShapeIx, state: &State, power_risen_at: u64, blocked: Blocked) {
        self.slots[shape.0 as usize].verdict = Some(Verdict {
            blocked,
            backfill_limit: u32::MAX,
            unpromised_at: None,
            by_power: matches!(blocked, Blocked::Power(_)),
            risen_at: state.clock(),
            power_risen_at,
        });
    }

    /// Notes that runs of so many seconds do not fit before promised starts.
    pub(crate) fn limit_backfill(&mut self, shape: ShapeIx, seconds: u32, missing: NoPlace) {
        if let Some(verdict) = &mut self.slots[shape.0 as usize].verdict {
            verdict.backfill_limit = verdict.backfill_limit.min(seconds);
            verdict.by_power |= matches!(missing, NoPlace::Power(_));
        }
    }

    /// Notes that no promise can be made for it.
    pub(crate) fn set_unpromised(&mut self, shape: ShapeIx, promises_risen_at: u64) {
        if let Some(verdict) = &mut self.slots[shape.0 as usize].verdict {
            verdict.unpromised_at = Some(promises_risen_at);
        }
    }

    /// Forgets what was found of every shape.
    pub(crate) fn forget_verdicts(&mut self) {
        for entry in &mut self.slots {
            entry.verdict = None;
        }
    }
}

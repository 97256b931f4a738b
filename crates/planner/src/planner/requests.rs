//! What waits: requests by number, and for each queue and shape a list in order.
//!
//! The order within a queue is by (submitted at − priority · ageing, order, id): waiting counts the same for all, so
//! the order never changes while time passes.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use crate::pack::SingleAsk;
use crate::request::Request;
pub(crate) use crate::shapes::ListIx;
use crate::shapes::{Kind, ShapeIx, Shapes};
use crate::state::State;
use crate::state::topology::narrow;
use crate::units::{QueueId, RequestId};

/// A waiting request's place.
pub(crate) type Slot = u32;

/// Its place in its queue's order; the smaller, the earlier.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Key {
    aged_at: i64,
    order: u64,
    id: RequestId,
}

impl Key {
    /// Whose it is.
    pub(crate) const fn id(&self) -> RequestId {
        self.id
    }
}

/// A request that waits.
#[derive(Debug, Clone)]
pub(crate) struct Waiting {
    pub(crate) request: Request,
    pub(crate) list: ListIx,
    pub(crate) key: Key,
    /// Its place among the proposed placements.
    pub(crate) proposal: Option<u32>,
}

/// One in a list: all that the pass reads of most.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Item {
    pub(crate) key: Key,
    pub(crate) slot: Slot,
    /// `u32::MAX`: not said.
    pub(crate) run_seconds: u32,
    pub(crate) priority: i16,
    /// It may have to wait for an instant.
    pub(crate) is_special: bool,
}

/// Requests of one shape in one queue, in order.
#[derive(Debug, Clone)]
pub(crate) struct List {
    pub(crate) queue: QueueId,
    pub(crate) shape: ShapeIx,
    pub(crate) items: VecDeque<Item>,
    /// No run in it is shorter; may be too small after the shortest has left.
    pub(crate) shortest_run: u32,
    /// It has left: the bound may be too small.
    is_loose: bool,
    /// Where the pass is.
    pub(crate) cursor: usize,
}

/// All that waits.
#[derive(Debug, Clone)]
pub(crate) struct Requests {
    ageing_seconds: i64,
    slots: Vec<Option<Waiting>>,
    vacant: Vec<Slot>,
    by_id: BTreeMap<RequestId, Slot>,
    lists: Vec<List>,
    vacant_lists: Vec<ListIx>,
    /// By queue: its lists, by shape.
    queues: Vec<Vec<ListIx>>,
    /// New or changed since the last answer.
    fresh: Vec<RequestId>,
    deferrable: BTreeSet<RequestId>,
}

impl Requests {
    /// Nothing waits.
    pub(crate) fn new(queues: usize, ageing_seconds: u32) -> Self {
        Self {
            ageing_seconds: i64::from(ageing_seconds),
            slots: Vec::new(),
            vacant: Vec::new(),
            by_id: BTreeMap::new(),
            lists: Vec::new(),
            vacant_lists: Vec::new(),
            queues: vec![Vec::new(); queues],
            fresh: Vec::new(),
            deferrable: BTreeSet::new(),
        }
    }

    /// The place of a request.
    pub(crate) fn find(&self, id: RequestId) -> Option<Slot> {
        self.by_id.get(&id).copied()
    }

    /// All, by number.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &Waiting> {
        self.by_id.values().map(|slot| self.get(*slot))
    }

    /// How many.
    pub(crate) fn len(&self) -> usize {
        self.by_id.len()
    }

    /// Places are below this.
    pub(crate) const fn slots(&self) -> usize {
        self.slots.len()
    }

    /// Those that may wait for a better hour, by number.
    pub(crate) fn deferrable(&self) -> impl Iterator<Item = RequestId> {
        self.deferrable.iter().copied()
    }

    /// A request by its place.
    pub(crate) fn get(&self, slot: Slot) -> &Waiting {
        self.slots[slot as usize].as_ref().expect("a place is given out only while it is filled")
    }

    /// A request by its place.
    pub(crate) fn get_mut(&mut self, slot: Slot) -> &mut Waiting {
        self.slots[slot as usize].as_mut().expect("a place is given out only while it is filled")
    }

    /// A list by its place.
    pub(crate) fn list(&self, list: ListIx) -> &List {
        &self.lists[list as usize]
    }

    /// A list by its place.
    pub(crate) fn list_mut(&mut self, list: ListIx) -> &mut List {
        &mut self.lists[list as usize]
    }

    /// A queue's lists, by shape.
    pub(crate) fn lists_of(&self, queue: QueueId) -> &[ListIx] {
        &self.queues[queue.0 as usize]
    }

    /// Queues, leaves and others.
    pub(crate) fn queues(&self) -> usize {
        self.queues.len()
    }

    /// Requests that are new or changed since this was last asked, by number; some may have gone.
    pub(crate) fn take_fresh(&mut self) -> Vec<RequestId> {
        let mut fresh = std::mem::take(&mut self.fresh);
        fresh.sort_unstable();
        fresh.dedup();
        fresh
    }

    /// One more.
    pub(crate) fn insert(&mut self, shapes: &mut Shapes, state: &mut State, request: Request) -> Slot {
        state.packer.expect(&SingleAsk::from(&request.shape), 1);
        let aged_at =
            request.submitted_at.0.saturating_sub(i64::from(request.priority).saturating_mul(self.ageing_seconds));
        let key = Key { aged_at, order: request.order, id: request.id };
        let list = self.list_for(shapes, state, &request);
        let priority = request.priority;
        let id = request.id;
        let run_seconds = request.run_seconds.unwrap_or(u32::MAX);
        let is_deferrable = request.deferrable;
        let is_special = request.not_before.is_some() || request.deferrable;
        let waiting = Waiting { request, list, key, proposal: None };
        let slot = if let Some(slot) = self.vacant.pop() {
            self.slots[slot as usize] = Some(waiting);
            slot
        } else {
            self.slots.push(Some(waiting));
            narrow(self.slots.len() - 1)
        };
        self.by_id.insert(id, slot);
        self.fresh.push(id);
        if is_deferrable {
            self.deferrable.insert(id);
        }
        let list = &mut self.lists[list as usize];
        let place = list.items.partition_point(|item| item.key < key);
        list.items.insert(place, Item { key, slot, run_seconds, priority, is_special });
        list.shortest_run = list.shortest_run.min(run_seconds);
        slot
    }

    /// One less.
    pub(crate) fn remove(&mut self, shapes: &mut Shapes, state: &mut State, slot: Slot) -> Option<Request> {
        let waiting = self.slots[slot as usize].take()?;
        state.packer.expect(&SingleAsk::from(&waiting.request.shape), -1);
        self.by_id.remove(&waiting.request.id);
        self.vacant.push(slot);
        if waiting.request.deferrable {
            self.deferrable.remove(&waiting.request.id);
        }
        let list = &mut self.lists[waiting.list as usize];
        let place = list.items.partition_point(|item| item.key < waiting.key);
        let run_seconds = list.items.remove(place).map(|item| item.run_seconds);
        list.is_loose |= run_seconds.is_some_and(|seconds| seconds <= list.shortest_run);
        if list.items.is_empty() {
            let (queue, shape) = (list.queue, list.shape);
            self.queues[queue.0 as usize].retain(|other| *other != waiting.list);
            self.vacant_lists.push(waiting.list);
            shapes.close(state, shape, waiting.list);
        }
        Some(waiting.request)
    }

    fn list_for(&mut self, shapes: &mut Shapes, state: &mut State, request: &Request) -> ListIx {
        let kind = Kind { shape: request.shape, class: request.class };
        let lists = &self.lists;
        let place = self.queues[request.queue.0 as usize]
            .binary_search_by(|list| shapes.get(lists[*list as usize].shape).kind.cmp(&kind));
        let place = match place {
            Ok(known) => return self.queues[request.queue.0 as usize][known],
            Err(place) => place,
        };
        let shape = shapes.open(state, kind);
        let list = List {
            queue: request.queue,
            shape,
            items: VecDeque::new(),
            shortest_run: u32::MAX,
            is_loose: false,
            cursor: 0,
        };
        let ix = if let Some(ix) = self.vacant_lists.pop() {
            self.lists[ix as usize] = list;
            ix
        } else {
            self.lists.push(list);
            narrow(self.lists.len() - 1)
        };
        self.queues[request.queue.0 as usize].insert(place, ix);
        shapes.join(shape, ix, request.queue);
        ix
    }
}

impl List {
    /// Moves the cursor to the next item with a run shorter than `limit`, or to the end.
    pub(crate) fn skip_to_run_below(&mut self, limit: u32) {
        if self.shortest_run >= limit {
            self.cursor = self.items.len();
            return;
        }
        if std::mem::take(&mut self.is_loose) {
            self.shortest_run = self.items.iter().map(|item| item.run_seconds).min().unwrap_or(u32::MAX);
        }
        while self.items.get(self.cursor).is_some_and(|item| item.run_seconds >= limit) {
            self.cursor += 1;
        }
    }
}

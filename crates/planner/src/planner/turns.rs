//! Whose turn it is in a pass: queues in which something might be placed, and of each the list whose next request comes
//! first.
//!
//! What a shape was found to lack is asked once when a round begins; room and watts only shrink in a round, so that what
//! has none then has none when its turn comes. Lists for whom nothing can be done are left out.

use crate::gang::NoPlace;
use crate::shapes::{Blocked, ShapeIx};
use crate::units::QueueId;

use super::Planner;
use super::requests::{Key, ListIx};

/// Whose turn it is in a queue.
#[derive(Debug, Clone, Default)]
pub(super) struct Turns {
    /// Something might be placed in it: it takes part.
    wanted: bool,
    was_wanted: bool,
    /// The queue's turn has come in this round.
    begun: bool,
    /// Lists in which something might be placed, that with the next request of all at the end.
    heads: Vec<(Key, ListIx)>,
}

/// A promised gang that may start on some of its nodes together with others.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Joinable {
    list: ListIx,
    key: Key,
}

impl Planner {
    /// Lets every queue take part in which something might be placed.
    pub(super) fn wake_lists(&mut self) {
        self.notice_taken();
        self.find_joinable();
        self.ask_shapes();
        self.pass.turns.resize_with(self.requests.queues(), Turns::default);
        self.pass.turns.iter_mut().for_each(|turns| (turns.begun, turns.wanted) = (false, false));
        self.ask_queues();
    }

    /// Finds promised gangs that may start on some of their nodes together with open ones, as far as counts say.
    fn find_joinable(&mut self) {
        let mut joinable = std::mem::take(&mut self.pass.joinable);
        joinable.clear();
        for (request, promise) in self.promises.iter() {
            // Who waits for nearness could start, and does not.
            let waits = promise.for_nearness && promise.starts_at > self.pass.now;
            let Some(slot) = self.requests.find(request).filter(|_| !waits) else { continue };
            let waiting = self.requests.get(slot);
            let entry = self.shapes.get(self.requests.list(waiting.list).shape);
            let Some(view) = entry.view.filter(|_| entry.is_gang() && waiting.proposal.is_none()) else { continue };
            let shape = &waiting.request.shape;
            let table = self.state.topology.table_within(shape.within);
            let open = table.and_then(|table| self.state.views.largest(view, table)).map_or(0, |(_, count)| count);
            let needed = u32::from(shape.nodes.min);
            let own = promise.nodes.iter().filter(|node| self.state.could_place(**node, shape));
            let missing = needed.saturating_sub(open);
            // Where open nodes are enough it is placed like any other.
            if open > 0 && missing > 0 && own.take(missing as usize).count() == missing as usize {
                joinable.push(Joinable { list: waiting.list, key: waiting.key });
            }
        }
        self.pass.joinable = joinable;
    }

    /// Once the pass has taken something, what lacked watts before may lack room: it is asked again.
    pub(super) fn notice_taken(&mut self) {
        if !self.pass.has_taken && self.pass.taken_at != self.state.taken() {
            self.pass.has_taken = true;
            self.stamps.power += 1;
        }
    }

    /// Finds for every shape whether it may be placed at all: room and watts only shrink in a round, so that what has
    /// none when it begins has none when its turn comes.
    fn ask_shapes(&mut self) {
        for shape in self.shapes.all() {
            if !self.shapes.get(shape).is_used() {
                continue;
            }
            if self.shapes.get(shape).verdict(&self.state, self.stamps.power).is_none()
                && let Err(missing) = self.could_start(shape)
            {
                self.shapes.set_verdict(shape, &self.state, self.stamps.power, Blocked::from(missing));
            }
            self.mend_useful_below(shape);
        }
    }

    /// Finds the queues in which something might be placed, and lets others take part no longer. By shape, for most
    /// have nothing; what its lists are is looked at when a queue's turn comes.
    fn ask_queues(&mut self) {
        self.pass.turns.iter_mut().for_each(|turns| turns.was_wanted = std::mem::take(&mut turns.wanted));
        for shape in self.shapes.all() {
            let entry = self.shapes.get(shape);
            if !entry.is_useless(0) {
                for (_, queue) in &entry.lists {
                    self.pass.turns[queue.0 as usize].wanted = true;
                }
            }
        }
        for (queue, turns) in (0..).map(QueueId).zip(&self.pass.turns) {
            if turns.wanted && !turns.was_wanted {
                self.shares.wake(queue);
            } else if turns.was_wanted && !turns.wanted {
                self.shares.park(queue);
            }
        }
    }

    /// No promise is left for some: whom only that could help goes out.
    pub(super) fn end_promises(&mut self) {
        for shape in self.shapes.all() {
            if self.shapes.get(shape).is_used() {
                self.mend_useful_below(shape);
            }
        }
        self.ask_queues();
    }

    /// The lists of a queue in which something might be placed, each from its start.
    fn begin_turns(&mut self, queue: QueueId) {
        let turns = &mut self.pass.turns[queue.0 as usize];
        turns.begun = true;
        turns.heads.clear();
        for place in 0..self.requests.lists_of(queue).len() {
            let ix = self.requests.lists_of(queue)[place];
            let list = self.requests.list(ix);
            if !self.shapes.get(list.shape).is_useless(list.shortest_run) {
                turns.heads.extend(list.items.front().map(|item| (item.key, ix)));
                self.requests.list_mut(ix).cursor = 0;
            }
        }
        turns.heads.sort_unstable_by(|left, right| right.cmp(left));
    }

    /// The list whose next request comes first in its queue. Lists of shapes for which nothing is left go out.
    pub(super) fn head(&mut self, queue: QueueId) -> Option<ListIx> {
        if !self.pass.turns[queue.0 as usize].begun {
            self.begin_turns(queue);
        }
        let heads = &mut self.pass.turns[queue.0 as usize].heads;
        while let Some((_, ix)) = heads.last() {
            let list = self.requests.list(*ix);
            if !self.shapes.get(list.shape).is_useless(list.shortest_run) {
                return Some(*ix);
            }
            heads.pop();
        }
        None
    }

    /// The first list of a queue has moved on, or was not changed.
    pub(super) fn mend_head(&mut self, queue: QueueId) {
        let heads = &mut self.pass.turns[queue.0 as usize].heads;
        let Some((key, ix)) = heads.last().copied() else { return };
        let list = self.requests.list(ix);
        let next = list.items.get(list.cursor).map(|item| item.key);
        if next == Some(key) {
            return;
        }
        heads.pop();
        if let Some(next) = next {
            let place = heads.partition_point(|other| *other > (next, ix));
            heads.insert(place, (next, ix));
        }
    }

    /// Whether it is this one's turn to be tried on its own nodes and others together; it is tried once in a round.
    pub(super) fn take_joinable(&mut self, list: ListIx, key: Key) -> bool {
        let place = self.pass.joinable.iter().position(|one| *one == Joinable { list, key });
        place.map(|place| self.pass.joinable.swap_remove(place)).is_some()
    }

    /// Moves on in a list to the next run shorter than that, or to the next that is tried so.
    pub(super) fn skip_to_run_below(&mut self, list: ListIx, limit: u32) {
        let from = self.requests.list(list).cursor;
        self.requests.list_mut(list).skip_to_run_below(limit);
        let items = &self.requests.list(list).items;
        let to = self.requests.list(list).cursor;
        let keys = self.pass.joinable.iter().filter(|one| one.list == list).map(|one| one.key);
        let places = keys.filter_map(|key| items.binary_search_by_key(&key, |item| item.key).ok());
        let next = places.filter(|place| (from..to).contains(place)).min();
        if let Some(next) = next {
            self.requests.list_mut(list).cursor = next;
        }
    }

    /// Whether one request of a shape may have a place: exact for one node, for gangs as far as counts say.
    fn could_start(&mut self, shape: ShapeIx) -> Result<(), NoPlace> {
        let entry = self.shapes.get(shape);
        let (shape, class, ask) = (entry.kind.shape, entry.kind.class, entry.ask);
        if !entry.is_gang() {
            return self.find_single(&ask, &shape, class, None).map(|_| ());
        }
        let Some(view) = entry.view else { return Ok(()) };
        let mut tables = self.state.topology.order(shape.within, shape.prefer).tables.iter().copied();
        let most = |table: u8| self.state.views.largest(view, usize::from(table)).map_or(0, |(_, count)| count);
        if tables.any(|table| most(table) >= u32::from(shape.nodes.min)) { Ok(()) } else { Err(NoPlace::Room) }
    }

    pub(super) fn mend_useful_below(&mut self, shape: ShapeIx) {
        let below = self.useful_below(shape);
        self.shapes.set_useful_below(shape, below);
    }

    /// Runs of at least so many seconds find no place now; `None`: any may.
    fn useful_below(&mut self, ix: ShapeIx) -> Option<u32> {
        let entry = self.shapes.get(ix);
        let (verdict, shape) = (*entry.verdict(&self.state, self.stamps.power)?, entry.kind.shape);
        let classes = entry.classes;
        if self.pass.joinable.iter().any(|one| self.requests.list(one.list).shape == ix) {
            return None;
        }
        // What lacks watts now may lack room once something is taken, and be promised some.
        if self.could_promise(&shape, &verdict) && self.may_promise_more(classes) {
            return None;
        }
        if matches!(verdict.blocked, Blocked::Power(_)) && self.lays_anew() {
            return None;
        }
        let limit = self.backfill_limit(&shape, &verdict);
        if limit == 0 || verdict.backfill_limit != u32::MAX {
            return Some(limit);
        }
        let longest = self.longest_backfill(ix, self.pass.now);
        self.shapes.limit_backfill(ix, longest, NoPlace::Room);
        Some(limit.min(longest))
    }
}

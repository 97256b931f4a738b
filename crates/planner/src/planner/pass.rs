//! One pass: promised starts first, then queue by queue in the order of shares, each queue's requests in theirs.
//!
//! A request is placed, or promised a start, or waits; what was found of one holds for all of its shape until room
//! grows, so that a pass costs placements and shapes, not requests.

use std::cmp::Reverse;
use std::collections::BTreeMap;

use crate::fair::QuotaBlock;
use crate::gang::{self, NoPlace};
use crate::plan::{GpuGrant, Preemption};
use crate::request::{Gpus, Request, Shape};
use crate::reserve::{self, Promise};
use crate::shapes::{Blocked, ShapeIx, Verdict};
use crate::state::State;
use crate::state::topology::{NO_DOMAIN, NodeIx, narrow};
use crate::units::{At, RequestId};

use super::Planner;
use super::requests::{Item, ListIx, Slot};
use super::turns::{Joinable, Turns};

/// A promise is kept so many seconds beyond its start: stopping takes its time, and few leases end to the second.
const GRACE_SECONDS: i64 = 600;

/// What one pass keeps in mind.
#[derive(Debug, Clone, Default)]
pub(super) struct Pass {
    pub(super) now: At,
    /// The count of `State::taken` when the last pass began.
    pub(super) taken_at: u64,
    /// Something was taken since it began.
    pub(super) has_taken: bool,
    /// Promises to those who have no room: the classes of nodes that each keeps.
    promised: Vec<u64>,
    /// Promised gangs that are still to be tried on their own nodes and others together in this round.
    pub(super) joinable: Vec<Joinable>,
    /// Promises that may still be made to those who wait for nearness.
    pub(super) nearness_left: usize,
    /// The longest time until a promised start, in seconds; zero where nothing is promised.
    pub(super) longest_gap: u32,
    /// Promised nodes that a run may use before their start.
    gaps: Vec<NodeIx>,
    /// Such nodes by their domain, and until when.
    gap_ends: Vec<(u32, Reverse<At>)>,
    grants: Vec<(NodeIx, GpuGrant)>,
    /// By queue.
    pub(super) turns: Vec<Turns>,
    /// Leases that give way.
    pub(super) preemptions: Vec<Preemption>,
    /// Nodes of promises that were made good or replaced in this round, kept from others until it ends.
    pub(super) kept: Vec<NodeIx>,
    /// Requests that could start and wait for nearness: nobody is stopped for them.
    pub(super) choosy: Vec<RequestId>,
    /// Deferrable requests that wait for a better hour, and until when.
    pub(super) holds: BTreeMap<RequestId, At>,
    /// Until then, unless something about them changes.
    pub(super) holds_valid_until: Option<At>,
    /// Members that may still be tried to make room.
    pub(super) tries_left: u32,
}

impl Pass {
    /// The forecast changed.
    pub(super) fn forget_holds(&mut self) {
        self.holds_valid_until = None;
    }

    /// A request came or left.
    pub(super) fn forget_holds_for(&mut self, request: &Request) {
        if request.deferrable {
            self.holds_valid_until = None;
        }
    }
}

impl Planner {
    /// Decides everything; what it decides stays proposed.
    pub(super) fn run_pass(&mut self, now: At) {
        self.begin(now);
        self.state.packer.refresh();
        self.start_promised(now);
        self.release_kept();
        loop {
            // Only now: a promise made good may leave part of its nodes to others.
            self.wake_lists();
            while let Some(queue) = self.shares.next() {
                match self.head(queue) {
                    Some(list) => {
                        self.consider(list, now);
                        self.mend_head(queue);
                    }
                    None => self.shares.park(queue),
                }
            }
            if !self.release_kept() {
                break;
            }
        }
    }

    fn begin(&mut self, now: At) {
        self.pass.now = now;
        self.pass.preemptions.clear();
        self.pass.choosy.clear();
        self.pass.tries_left = super::repair::MOST_TRIED_IN_PASS;
        self.state.pass_holds(now);
        self.reserve_scratch.follow(&mut self.state, now);
        self.mend_holds(now);
        // What lacked watts may lack room by now, which a promise can help: only the one stays missing while nothing
        // rises.
        if self.pass.taken_at != self.state.taken() {
            self.pass.taken_at = self.state.taken();
            self.stamps.power += 1;
        }
        self.pass.has_taken = false;
        for request in self.overdue_promises(now) {
            self.drop_promise(request);
        }
        self.count_promises();
        let latest = self.promises.iter().map(|(_, promise)| promise.starts_at).max();
        self.pass.longest_gap = latest.map_or(0, |latest| seconds(latest.since(now)));
    }

    /// Those of leases that stop are short, and made by preemption: they count for nobody.
    fn count_promises(&mut self) {
        let mut promised = std::mem::take(&mut self.pass.promised);
        promised.clear();
        let mut near = 0;
        for (_, promise) in self.promises.iter() {
            if promise.for_nearness {
                near += 1;
            } else if promise.stops.is_empty() {
                promised.push(self.classes_of(&promise.nodes));
            }
        }
        self.pass.promised = promised;
        self.pass.nearness_left = usize::from(self.spec.policy.nearness_reservations).saturating_sub(near);
    }

    fn classes_of(&self, nodes: &[NodeIx]) -> u64 {
        nodes.iter().fold(0, |mask, node| mask | 1 << self.state.nodes.class[node.at()])
    }

    /// Whether one more may be promised nodes of these classes: promises of other models or places are no rivals.
    pub(super) fn may_promise_more(&self, classes: u64) -> bool {
        let rivals = self.pass.promised.iter().filter(|promised| *promised & classes != 0).count();
        rivals < usize::from(self.spec.policy.reservations)
    }

    /// Promises whose start has passed for too long, whatever is in the way: a lease that stays, a quota, a cap.
    fn overdue_promises(&self, now: At) -> Vec<RequestId> {
        let overdue = self.promises.iter().filter(|(_, promise)| promise.starts_at.plus(GRACE_SECONDS) < now);
        overdue.map(|(request, _)| request).collect()
    }

    /// Runs of fewer seconds may fit before promised starts.
    pub(super) fn backfill_limit(&self, shape: &Shape, verdict: &Verdict) -> u32 {
        let has_gaps = self.state.has_gaps() || shape.gpus == Gpus::Whole(0);
        if has_gaps && self.pass.longest_gap > 0 { verdict.backfill_limit.min(self.pass.longest_gap + 1) } else { 0 }
    }

    fn may_promise(&self, shape: &Shape, verdict: &Verdict) -> bool {
        verdict.blocked == Blocked::Room && self.could_promise(shape, verdict)
    }

    /// The same were there no room, whatever was missing.
    pub(super) fn could_promise(&self, shape: &Shape, verdict: &Verdict) -> bool {
        let whole_nodes = shape.nodes.max > 1 || self.state.takes_whole_node(shape);
        whole_nodes && verdict.unpromised_at != Some(self.stamps.promises)
    }

    /// Starts every promised request whose nodes are free.
    fn start_promised(&mut self, now: At) {
        let requests = &self.requests;
        let mut ready: Vec<(At, RequestId)> = Vec::new();
        for (request, promise) in self.promises.iter_mut() {
            let Some(slot) = requests.find(request) else { continue };
            let shape = &requests.get(slot).request.shape;
            // The node that was missing last time is asked first: most promises are told apart by one look.
            let last = promise.nodes.get(promise.missing).copied();
            if last.is_some_and(|node| !self.state.could_place(node, shape)) {
                continue;
            }
            match promise.nodes.iter().position(|node| !self.state.could_place(*node, shape)) {
                Some(missing) => promise.missing = missing,
                None => ready.push((promise.starts_at, request)),
            }
        }
        ready.sort_unstable();
        for (_, request) in ready {
            let Some(slot) = self.requests.find(request) else { continue };
            if !self.waits_for_time(slot, now) {
                self.start_one_promised(slot, request);
            }
        }
    }

    fn start_one_promised(&mut self, slot: Slot, request: RequestId) {
        let Some(promise) = self.promises.get(request) else { return };
        let (queue, amount) = (promise.queue, promise.amount);
        self.shares.refund(queue, &amount);
        let allowed = self.shares.verdict(queue, &amount).is_ok();
        self.shares.charge(queue, &amount);
        if !allowed {
            return;
        }
        let waiting = &self.requests.get(slot).request;
        let (shape, class) = (waiting.shape, waiting.class);
        let watts = i64::from(shape.peak_watts);
        let leaves: Vec<_> = promise.nodes.iter().map(|node| self.state.nodes.power[node.at()]).collect();
        if self.power.fits_many(&leaves, class, watts).is_err() {
            return;
        }
        for leaf in leaves {
            self.power.add(leaf, class, watts);
        }
        let nodes = promise.nodes.clone();
        let grants: Vec<_> = nodes.iter().filter_map(|node| Some((*node, self.state.grant(*node, &shape)?))).collect();
        self.propose(slot, grants.into_iter());
    }

    /// Whether a request may not begin yet, or waits for a better hour.
    pub(super) fn waits_for_time(&self, slot: Slot, now: At) -> bool {
        let request = &self.requests.get(slot).request;
        request.not_before.is_some_and(|at| at > now)
            || self.pass.holds.get(&request.id).is_some_and(|until| *until > now)
    }

    fn consider(&mut self, ix: ListIx, now: At) {
        self.notice_taken();
        let list = self.requests.list(ix);
        let (shape, item) = (list.shape, list.items[list.cursor]);
        let is_placed = self.requests.get(item.slot).proposal.is_some();
        if is_placed || item.is_special && self.waits_for_time(item.slot, now) {
            self.requests.list_mut(ix).cursor += 1;
            return;
        }
        if let Some(verdict) = self.shapes.get(shape).verdict(&self.state, self.stamps.power).copied() {
            return self.consider_blocked(ix, item, &verdict, now);
        }
        if self.within_quota(item.slot).is_err() {
            return self.stop_at_quota(ix, item);
        }
        let found = self.place(item.slot);
        match self.make_room(item.slot, found) {
            Ok(()) => self.requests.list_mut(ix).cursor += 1,
            Err(missing) => {
                self.shapes.set_verdict(shape, &self.state, self.stamps.power, Blocked::from(missing));
                self.mend_useful_below(shape);
            }
        }
    }

    /// Of one shape all ask the same of a quota; only what one was promised counts for it already.
    fn stop_at_quota(&mut self, ix: ListIx, item: Item) {
        let promised = self.promises.get(self.requests.get(item.slot).request.id).is_some();
        let list = self.requests.list_mut(ix);
        list.cursor = if promised { list.cursor + 1 } else { list.items.len() };
    }

    /// There is no room: a short run may still fit before a promised start, and the first in line get a promise.
    fn consider_blocked(&mut self, ix: ListIx, item: Item, verdict: &Verdict, now: At) {
        let shape_ix = self.requests.list(ix).shape;
        let entry = self.shapes.get(shape_ix);
        let (shape, classes) = (entry.kind.shape, entry.classes);
        let mut limit = self.backfill_limit(&shape, verdict);
        if limit > 0 && verdict.backfill_limit == u32::MAX {
            let longest = self.longest_backfill(shape_ix, now);
            self.shapes.limit_backfill(shape_ix, longest, NoPlace::Room);
            limit = limit.min(longest);
        }
        let promised = self.promises.get(self.requests.get(item.slot).request.id).is_some();
        if self.take_joinable(ix, item.key) {
            self.start_together(item.slot, classes);
            self.mend_useful_below(shape_ix);
            self.requests.list_mut(ix).cursor += 1;
            return;
        }
        let promisable = self.may_promise(&shape, verdict) && self.may_promise_more(classes);
        if item.run_seconds >= limit && !promisable {
            self.skip_to_run_below(ix, limit);
            return;
        }
        if promised {
            self.requests.list_mut(ix).cursor += 1;
            return;
        }
        if self.within_quota(item.slot).is_err() {
            return self.stop_at_quota(ix, item);
        }
        if item.run_seconds < limit {
            match self.backfill(item, now) {
                Ok(()) => {
                    self.requests.list_mut(ix).cursor += 1;
                    return;
                }
                Err(missing) => {
                    let bound = self.longest_backfill(shape_ix, now).min(item.run_seconds);
                    self.shapes.limit_backfill(shape_ix, bound, missing);
                    self.mend_useful_below(shape_ix);
                }
            }
        }
        if promisable {
            if !self.promise(item.slot, now) {
                self.shapes.set_unpromised(shape_ix, self.stamps.promises);
                self.mend_useful_below(shape_ix);
                return;
            }
            self.requests.list_mut(ix).cursor += 1;
            if !self.may_promise_more(classes) {
                self.end_promises();
            }
        }
    }

    /// Whether a request's queue may have the least that it asks for.
    pub(super) fn within_quota(&mut self, slot: Slot) -> Result<(), QuotaBlock> {
        let nodes = self.requests.get(slot).request.shape.nodes.min;
        self.may_have(slot, nodes)
    }

    /// Whether a request's queue may have so many nodes of it; what it was promised counts for it, not against it.
    fn may_have(&mut self, slot: Slot, nodes: u16) -> Result<(), QuotaBlock> {
        let request = &self.requests.get(slot).request;
        let (id, queue) = (request.id, request.queue);
        let asked = self.amount(&request.shape, usize::from(nodes));
        let Some(promised) = self.promises.get(id).map(|promise| promise.amount) else {
            return self.shares.verdict(queue, &asked);
        };
        self.shares.refund(queue, &promised);
        let verdict = self.shares.verdict(queue, &asked);
        self.shares.charge(queue, &promised);
        verdict
    }

    /// Finds a place on nodes that are open to all, and proposes it.
    fn place(&mut self, slot: Slot) -> Result<(), NoPlace> {
        let waiting = self.requests.get(slot);
        let request = &waiting.request;
        let near =
            request.near.and_then(|lease| self.state.leases.find(lease)).and_then(|held| held.nodes.first().copied());
        let entry = self.shapes.get(self.requests.list(waiting.list).shape);
        let (shape, class) = (request.shape, request.class);
        if !entry.is_gang() {
            let ask = entry.ask;
            let (node, gpus) = self.place_single(&ask, &shape, class, near)?;
            self.propose(slot, std::iter::once((node, gpus)));
            return Ok(());
        }
        let (view, max) = (entry.view, self.most_nodes(slot));
        let ask = gang::Ask { shape: &shape, class, view, min: u32::from(shape.nodes.min), max, near };
        let mut scratch = std::mem::take(&mut self.gang_scratch);
        let found = gang::choose(&self.state, &mut self.power, &ask, &mut scratch);
        if found.is_ok() {
            self.propose_near(slot, &shape, &scratch.chosen);
        }
        self.gang_scratch = scratch;
        found
    }

    pub(super) fn propose_chosen(&mut self, slot: Slot, shape: &Shape, chosen: &[NodeIx]) {
        let mut grants = std::mem::take(&mut self.pass.grants);
        grants.clear();
        grants.extend(chosen.iter().filter_map(|node| Some((*node, self.state.grant(*node, shape)?))));
        grants.sort_unstable();
        debug_assert_eq!(grants.len(), chosen.len(), "nodes are chosen where a member fits");
        self.propose(slot, grants.iter().copied());
        self.pass.grants = grants;
    }

    /// Nodes that an elastic gang may have within its queue's limits.
    pub(super) fn most_nodes(&mut self, slot: Slot) -> u32 {
        let nodes = self.requests.get(slot).request.shape.nodes;
        let (mut least, mut most) = (nodes.min, nodes.max);
        // The least is within the quota; between it and the first number that is not, halve.
        while least < most {
            let middle = least + (most - least).div_ceil(2);
            if self.may_have(slot, middle).is_ok() {
                least = middle;
            } else {
                most = middle - 1;
            }
        }
        u32::from(least)
    }

    /// Finds a place before a promised start, and proposes it.
    fn backfill(&mut self, item: Item, now: At) -> Result<(), NoPlace> {
        let ends_at = now.plus(i64::from(item.run_seconds));
        let waiting = self.requests.get(item.slot);
        let shape = waiting.request.shape;
        let entry = self.shapes.get(self.requests.list(waiting.list).shape);
        let (is_gang, classes, view) = (entry.is_gang(), entry.classes, entry.view);
        let mut gaps = std::mem::take(&mut self.pass.gaps);
        gaps.clear();
        let serves = |node: &NodeIx| serves_until(&self.state, *node, &shape, classes, ends_at);
        if shape.gpus == Gpus::Whole(0) {
            gaps.extend(self.promises.iter().flat_map(|(_, promise)| promise.nodes.iter().copied()).filter(serves));
        } else {
            gaps.extend(self.state.gaps().filter(serves));
        }
        let open = view.map_or(u32::MAX, |view| self.state.views.count(view, self.state.topology.whole(), 0));
        let found =
            if gaps.is_empty() || is_gang && open.saturating_add(narrow(gaps.len())) < u32::from(shape.nodes.min) {
                Err(NoPlace::Room)
            } else if is_gang {
                self.backfill_gang(item.slot, classes, ends_at)
            } else {
                self.backfill_single(item.slot, &gaps)
            };
        self.pass.gaps = gaps;
        found
    }

    /// Runs of fewer seconds than this have room before promised starts; others have none.
    pub(super) fn longest_backfill(&mut self, shape: ShapeIx, now: At) -> u32 {
        let entry = self.shapes.get(shape);
        let (shape, view) = (entry.kind.shape, entry.view);
        let table = self.state.topology.table_within(shape.within);
        let is_counted = !entry.is_gang() || view.is_some();
        let Some(table) = table.filter(|_| is_counted) else { return u32::MAX };
        let mut ends = std::mem::take(&mut self.pass.gap_ends);
        ends.clear();
        let domain_of = &self.state.topology.tables()[table].domain_of;
        let serves = |node: &NodeIx| serves_until(&self.state, *node, &shape, entry.classes, now);
        let end = |node: NodeIx| (domain_of[node.at()], Reverse(self.state.nodes.kept_until[node.at()]));
        if shape.gpus == Gpus::Whole(0) {
            let kept = self.promises.iter().flat_map(|(_, promise)| promise.nodes.iter().copied());
            ends.extend(kept.filter(serves).map(end));
        } else {
            ends.extend(self.state.gaps().filter(serves).map(end));
        }
        ends.retain(|(domain, _)| *domain != NO_DOMAIN);
        ends.sort_unstable();
        let last = ends.chunk_by(|left, right| left.0 == right.0).filter_map(|domain| {
            let open = view.map_or(0, |view| self.state.views.count(view, table, domain[0].0));
            let missing = u32::from(shape.nodes.min).saturating_sub(open).max(1) as usize;
            domain.get(missing - 1).map(|(_, Reverse(until))| *until)
        });
        let limit = last.max().map_or(0, |until| seconds(until.since(now)).saturating_add(1));
        self.pass.gap_ends = ends;
        limit
    }

    fn backfill_gang(&mut self, slot: Slot, classes: u64, ends_at: At) -> Result<(), NoPlace> {
        let max = self.most_nodes(slot);
        let request = &self.requests.get(slot).request;
        let (shape, class) = (request.shape, request.class);
        let ask = gang::Ask { shape: &shape, class, view: None, min: u32::from(shape.nodes.min), max, near: None };
        let mut scratch = std::mem::take(&mut self.gang_scratch);
        let state = &self.state;
        let serves = |node: NodeIx| serves_until(state, node, &shape, classes, ends_at);
        let found = gang::choose_among(state, &mut self.power, &ask, &mut scratch, serves);
        if found.is_ok() {
            self.propose_near(slot, &shape, &scratch.chosen);
        }
        self.gang_scratch = scratch;
        found
    }

    /// Starts a promised gang on nodes of which some are kept for it and others open to all, if there are enough.
    fn start_together(&mut self, slot: Slot, classes: u64) {
        if self.within_quota(slot).is_err() {
            return;
        }
        let max = self.most_nodes(slot);
        let request = &self.requests.get(slot).request;
        let (shape, class, id) = (request.shape, request.class, request.id);
        let ask = gang::Ask { shape: &shape, class, view: None, min: u32::from(shape.nodes.min), max, near: None };
        let mut scratch = std::mem::take(&mut self.gang_scratch);
        let state = &self.state;
        let serves = |node: NodeIx| {
            classes >> state.nodes.class[node.at()] & 1 == 1
                && state.nodes.reserved[node.at()].is_none_or(|owner| owner == id)
                && state.could_place(node, &shape)
        };
        if gang::choose_among(state, &mut self.power, &ask, &mut scratch, serves).is_ok() {
            self.propose_near(slot, &shape, &scratch.chosen);
        }
        self.gang_scratch = scratch;
    }

    fn backfill_single(&mut self, slot: Slot, gaps: &[NodeIx]) -> Result<(), NoPlace> {
        let request = &self.requests.get(slot).request;
        let (shape, class) = (request.shape, request.class);
        let (nodes, watts) = (&self.state.nodes, i64::from(shape.peak_watts));
        let mut blocked = None;
        let mut tightest: Option<(u8, NodeIx)> = None;
        for node in gaps {
            let key = (nodes.whole[node.at()], *node);
            // Watts are asked at six points above a node: only where it would be chosen.
            if tightest.is_none_or(|best| key < best) {
                match self.power.fits(nodes.power[node.at()], class, watts) {
                    Ok(()) => tightest = Some(key),
                    Err(block) => blocked = Some(block),
                }
            }
        }
        let placed = tightest.and_then(|(_, node)| Some((node, self.state.grant(node, &shape)?)));
        let Some((node, gpus)) = placed else { return Err(blocked.map_or(NoPlace::Room, NoPlace::Power)) };
        self.power.add(self.state.nodes.power[node.at()], class, watts);
        self.propose(slot, std::iter::once((node, gpus)));
        Ok(())
    }

    /// Promises a start; `false`: nobody can say when there will be room.
    fn promise(&mut self, slot: Slot, now: At) -> bool {
        let waiting = self.requests.get(slot);
        let (request, queue, shape) = (waiting.request.id, waiting.request.queue, waiting.request.shape);
        let classes = self.shapes.get(self.requests.list(waiting.list).shape).classes;
        let found = reserve::earliest(&mut self.state, &shape, classes, now, &mut self.reserve_scratch);
        let Some((starts_at, nodes)) = found else { return false };
        let (starts_at, nodes) = self.nearer(slot, starts_at, nodes);
        let amount = self.amount(&shape, nodes.len());
        self.pass.longest_gap = self.pass.longest_gap.max(seconds(starts_at.since(now)));
        self.pass.promised.push(self.classes_of(&nodes));
        self.proposals.promised.push((request, None));
        let stops = Vec::new();
        self.keep_promise(
            request,
            Promise { starts_at, nodes, stops, for_nearness: false, queue, amount, told: false, missing: 0 },
        );
        true
    }
}

/// Whether a member that ends then has room on a node, open or kept until then.
fn serves_until(state: &State, node: NodeIx, shape: &Shape, classes: u64, ends_at: At) -> bool {
    classes >> state.nodes.class[node.at()] & 1 == 1
        && ends_at <= state.nodes.kept_until[node.at()]
        && state.could_place(node, shape)
}

pub(super) fn seconds(count: i64) -> u32 {
    u32::try_from(count).unwrap_or(u32::MAX - 1)
}

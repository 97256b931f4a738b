//! Fair share: which queue comes first, and what a queue may still take.
//!
//! Queues form a tree; a leaf holds requests. At each inner queue the next child is, first, the one that uses the
//! smallest part of its guarantee while it is below it, and then the one with the smallest dominant share over its
//! weight (dominant resource fairness, Ghodsi et al., NSDI 2011, made hierarchical by asking at every level).
//! Shares are rationals compared by multiplication: no rounding, ties by queue number.
//!
//! Each inner queue keeps a winner tree over its children, mended along the path when one of them changes: a pick
//! costs the depth of the tree, a charge the depth times the logarithm of the children.
//!
//! INVARIANT: what a queue uses is the sum of what was charged to it and below it, less what was refunded.
//! Deliberately absent: what is asked and where it fits. Refusing an unsound tree is the fleet's work; here parents
//! form no cycle, weights are above zero.

use std::cmp::Ordering;

use crate::fleet::{Amount, QueueSpec};
use crate::reason::{Cause, Resource};
use crate::units::QueueId;

pub mod filling;

impl Resource {
    /// Every resource, in the order of the enum.
    pub const ALL: [Self; 4] = [Self::Gpu, Self::Cpu, Self::Memory, Self::Power];
}

impl Amount {
    /// How much of one resource.
    pub const fn of(&self, resource: Resource) -> i64 {
        match resource {
            Resource::Gpu => self.gpu_milli,
            Resource::Cpu => self.cpu_milli,
            Resource::Memory => self.memory_mib,
            Resource::Power => self.watts,
        }
    }

    /// Both together; stays at the largest number where there is no larger.
    #[must_use]
    pub const fn plus(&self, other: &Self) -> Self {
        Self {
            gpu_milli: self.gpu_milli.saturating_add(other.gpu_milli),
            cpu_milli: self.cpu_milli.saturating_add(other.cpu_milli),
            memory_mib: self.memory_mib.saturating_add(other.memory_mib),
            watts: self.watts.saturating_add(other.watts),
        }
    }

    /// The larger of each resource.
    #[must_use]
    fn most(&self, other: &Self) -> Self {
        Self {
            gpu_milli: self.gpu_milli.max(other.gpu_milli),
            cpu_milli: self.cpu_milli.max(other.cpu_milli),
            memory_mib: self.memory_mib.max(other.memory_mib),
            watts: self.watts.max(other.watts),
        }
    }

    /// What is left without `other`.
    #[must_use]
    pub const fn minus(&self, other: &Self) -> Self {
        Self {
            gpu_milli: self.gpu_milli.saturating_sub(other.gpu_milli),
            cpu_milli: self.cpu_milli.saturating_sub(other.cpu_milli),
            memory_mib: self.memory_mib.saturating_sub(other.memory_mib),
            watts: self.watts.saturating_sub(other.watts),
        }
    }
}

/// The limit that a request would exceed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct QuotaBlock {
    /// The request's queue or one above it: the lowest that blocks.
    pub queue: QueueId,
    pub resource: Resource,
    pub limit: i64,
    pub used: i64,
    pub asked: i64,
}

impl QuotaBlock {
    /// The same as a cause to wait.
    pub const fn cause(&self) -> Cause {
        let Self { queue, resource, limit, used, asked } = *self;
        Cause::Quota { queue, resource, limit, used, asked }
    }
}

/// A share: `used / (of × weight)`, of the resource where that is largest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Share {
    /// Below its guarantee, `of` is the guarantee and the weight is one; else `of` is the fleet's capacity.
    pub below_guarantee: bool,
    pub used: u64,
    pub of: u64,
    pub weight: u32,
}

impl Share {
    /// `Less` comes first: queues below their guarantee, then the smaller rational.
    pub(crate) fn order(&self, other: &Self) -> Ordering {
        other.below_guarantee.cmp(&self.below_guarantee).then_with(|| {
            let left = wide(u128::from(self.used) * u128::from(other.weight), other.of);
            let right = wide(u128::from(other.used) * u128::from(self.weight), self.of);
            left.cmp(&right)
        })
    }
}

/// The exact product of a number of at most 96 bits with one of 64, high part first.
fn wide(left: u128, right: u64) -> (u128, u64) {
    let low_mask = u128::from(u64::MAX);
    let low = (left & low_mask) * u128::from(right);
    let high = (left >> 64) * u128::from(right) + (low >> 64);
    (high, u64::try_from(low & low_mask).unwrap_or(u64::MAX))
}

/// What each queue is guaranteed: what it says, or what its children have together where that is more, so that an
/// inner queue that says nothing has what those below it were promised. A parent beyond the last queue is the root.
fn guarantees(parents: &[usize], own: &[Amount]) -> Vec<Amount> {
    let depth = |queue: usize| {
        std::iter::successors(Some(queue), |queue| parents.get(*queue).copied()).take(parents.len() + 1).count()
    };
    let mut order: Vec<usize> = (0..own.len()).collect();
    order.sort_by_key(|queue| std::cmp::Reverse(depth(*queue)));
    let mut below = vec![Amount::default(); own.len()];
    let mut all = own.to_vec();
    for queue in order {
        all[queue] = own[queue].most(&below[queue]);
        if let Some(above) = below.get_mut(parents[queue]) {
            *above = above.plus(&all[queue]);
        }
    }
    all
}

/// No child: in a winner tree, nobody has work there.
const NOBODY: u32 = u32::MAX;

/// What does not change while requests are placed.
#[derive(Debug, Clone, Copy)]
struct Quota {
    /// The inner queue above, or the place after the last queue: the root over all.
    parent: u32,
    weight: u32,
    /// What it says itself.
    own: Amount,
    /// That, or what its children are guaranteed together where that is more.
    guaranteed: Amount,
    limit: Option<Amount>,
    /// Where it stands in its parent's winner tree.
    slot: u32,
    /// Its own winner tree in `winners`; zero width for a leaf.
    tree: u32,
    width: u32,
}

/// Shares of all queues, and which comes next.
#[derive(Debug, Clone)]
pub struct Shares {
    capacity: Amount,
    /// One for each queue, then the root.
    quotas: Vec<Quota>,
    used: Vec<Amount>,
    shares: Vec<Share>,
    /// All winner trees: of a tree at `t` with width `w`, `t + 1` is the winner, `t + w ..` are the children.
    winners: Vec<u32>,
}

impl Shares {
    /// Nothing used, nobody with work. `capacity` is what the whole fleet has.
    pub fn new(capacity: Amount, queues: &[QueueSpec]) -> Self {
        let root = queues.len();
        let mut children = vec![0_u32; root + 1];
        let mut quotas: Vec<Quota> = queues
            .iter()
            .map(|queue| {
                let parent = queue.parent.map_or(root, |parent| parent.0 as usize);
                let slot = children[parent];
                children[parent] += 1;
                Quota {
                    parent: number(parent),
                    weight: queue.weight,
                    own: queue.guaranteed,
                    guaranteed: queue.guaranteed,
                    limit: queue.limit,
                    slot,
                    tree: 0,
                    width: 0,
                }
            })
            .collect();
        quotas.push(Quota {
            parent: NOBODY,
            weight: 1,
            own: Amount::default(),
            guaranteed: Amount::default(),
            limit: None,
            slot: 0,
            tree: 0,
            width: 0,
        });
        let mut end = 0;
        for (quota, count) in quotas.iter_mut().zip(&children) {
            if *count > 0 {
                quota.tree = end;
                quota.width = count.next_power_of_two();
                end += 2 * quota.width;
            }
        }
        let nothing = Share { below_guarantee: false, used: 0, of: 1, weight: 1 };
        let mut shares = Self {
            capacity,
            used: vec![Amount::default(); quotas.len()],
            shares: vec![nothing; quotas.len()],
            winners: vec![NOBODY; end as usize],
            quotas,
        };
        shares.mend_guarantees();
        for queue in 0..root {
            shares.shares[queue] = shares.share_now(queue);
        }
        shares
    }

    /// The fleet grew or shrank.
    pub fn set_capacity(&mut self, capacity: Amount) {
        self.capacity = capacity;
        for queue in 0..self.root() {
            self.shares[queue] = self.share_now(queue);
        }
        for queue in 0..self.root() {
            self.replay(queue);
        }
    }

    /// Another weight, guarantee and limit. What is used stays, also above the limit.
    pub fn set_quota(&mut self, queue: QueueId, weight: u32, guaranteed: Amount, limit: Option<Amount>) {
        let place = queue.0 as usize;
        let quota = &mut self.quotas[place];
        quota.weight = weight;
        quota.own = guaranteed;
        quota.limit = limit;
        self.mend_guarantees();
        let above: Vec<usize> = self.path(queue).collect();
        for place in above {
            self.shares[place] = self.share_now(place);
            self.replay(place);
        }
    }

    /// Whether `asked` stays within the limits of the queue and of all above it.
    ///
    /// # Errors
    /// The lowest limit that it would exceed.
    pub fn verdict(&self, queue: QueueId, asked: &Amount) -> Result<(), QuotaBlock> {
        self.verdict_without(queue, asked, |_| Amount::default())
    }

    /// The same if each queue had given back what `freed` says of it.
    ///
    /// # Errors
    /// The lowest limit that it would exceed.
    pub fn verdict_without(
        &self,
        queue: QueueId,
        asked: &Amount,
        freed: impl Fn(QueueId) -> Amount,
    ) -> Result<(), QuotaBlock> {
        for place in self.path(queue) {
            let Some(limit) = self.quotas[place].limit else { continue };
            let at = QueueId(number(place));
            let used = self.used[place].minus(&freed(at));
            let after = used.plus(asked);
            for resource in Resource::ALL {
                let (limit, asked) = (limit.of(resource), asked.of(resource));
                if asked > 0 && after.of(resource) > limit {
                    return Err(QuotaBlock { queue: at, resource, limit, used: used.of(resource), asked });
                }
            }
        }
        Ok(())
    }

    /// The queue has taken `amount`.
    pub fn charge(&mut self, queue: QueueId, amount: &Amount) {
        self.change(queue, |used| used.plus(amount));
    }

    /// The queue has given `amount` back.
    pub fn refund(&mut self, queue: QueueId, amount: &Amount) {
        self.change(queue, |used| used.minus(amount));
    }

    /// The leaf with work that comes first; `None` when nobody has work.
    pub fn next(&self) -> Option<QueueId> {
        let mut queue = number(self.root());
        while self.quotas[queue as usize].width > 0 {
            queue = self.winner(queue as usize);
            if queue == NOBODY {
                return None;
            }
        }
        // Without any queue the root itself is a leaf.
        (queue as usize != self.root()).then_some(QueueId(queue))
    }

    /// A leaf has work that may be placed.
    pub fn wake(&mut self, leaf: QueueId) {
        self.seat(leaf, leaf.0);
    }

    /// Nothing of a leaf can be placed in this pass, or it has nothing.
    pub fn park(&mut self, leaf: QueueId) {
        self.seat(leaf, NOBODY);
    }

    /// What the queue and those below it use.
    pub fn used(&self, queue: QueueId) -> Amount {
        self.used[queue.0 as usize]
    }

    /// The share by which the queue is compared with its siblings.
    pub fn share(&self, queue: QueueId) -> Share {
        self.shares[queue.0 as usize]
    }

    /// Which of two leaves comes first, as a walk from the root decides: where they part, by share, then by number.
    pub(crate) fn order(&self, left: QueueId, right: QueueId) -> Ordering {
        let Some((left, right)) = self.fork(left, right) else { return Ordering::Equal };
        self.share(left).order(&self.share(right)).then(left.cmp(&right))
    }

    /// Where `asker` and `holder` part: the queue on either's path just below what is above both. `None` when one
    /// stands above the other or they are the same.
    pub fn fork(&self, asker: QueueId, holder: QueueId) -> Option<(QueueId, QueueId)> {
        let (mut left, mut right) = (asker.0 as usize, holder.0 as usize);
        let (mut left_depth, mut right_depth) = (self.path(asker).count(), self.path(holder).count());
        while left_depth > right_depth {
            left = self.quotas[left].parent as usize;
            left_depth -= 1;
        }
        while right_depth > left_depth {
            right = self.quotas[right].parent as usize;
            right_depth -= 1;
        }
        if left == right {
            return None;
        }
        while self.quotas[left].parent != self.quotas[right].parent {
            left = self.quotas[left].parent as usize;
            right = self.quotas[right].parent as usize;
        }
        Some((QueueId(number(left)), QueueId(number(right))))
    }

    /// Whether the queue would stay within its guarantee with `asked` more: in every resource that it is guaranteed,
    /// and there is one.
    pub fn is_guaranteed(&self, queue: QueueId, asked: &Amount) -> bool {
        let place = queue.0 as usize;
        let (guaranteed, after) = (self.quotas[place].guaranteed, self.used[place].plus(asked));
        let mut promised = Resource::ALL.into_iter().filter(|&resource| guaranteed.of(resource) > 0).peekable();
        promised.peek().is_some() && promised.all(|resource| after.of(resource) <= guaranteed.of(resource))
    }

    /// Whether the queue, with `freed` given back, still uses more than it is guaranteed of something. One that is
    /// guaranteed nothing borrows all it uses.
    pub fn is_borrowing(&self, queue: QueueId, freed: &Amount) -> bool {
        let place = queue.0 as usize;
        let (guaranteed, used) = (self.quotas[place].guaranteed, self.used[place].minus(freed));
        let nothing = guaranteed == Amount::default();
        Resource::ALL.into_iter().any(|resource| {
            let promised = guaranteed.of(resource);
            (nothing || promised > 0) && used.of(resource) > promised
        })
    }

    /// Queues.
    pub fn len(&self) -> usize {
        self.root()
    }

    /// Whether there are none: then nothing limits and nobody comes first.
    pub fn is_empty(&self) -> bool {
        self.root() == 0
    }

    /// The queue and all above it.
    pub fn above(&self, queue: QueueId) -> impl Iterator<Item = QueueId> {
        self.path(queue).map(|place| QueueId(number(place)))
    }

    fn root(&self) -> usize {
        self.quotas.len() - 1
    }

    /// The queue and all above it, without the root.
    fn path(&self, queue: QueueId) -> impl Iterator<Item = usize> {
        let root = self.root();
        std::iter::successors(Some(queue.0 as usize), |&place| Some(self.quotas[place].parent as usize))
            .take_while(move |&place| place != root)
    }

    /// From the leaves up: what an inner queue is guaranteed at least follows from its children.
    fn mend_guarantees(&mut self) {
        let parents: Vec<usize> = self.quotas[..self.root()].iter().map(|quota| quota.parent as usize).collect();
        let own: Vec<Amount> = self.quotas[..self.root()].iter().map(|quota| quota.own).collect();
        for (quota, guaranteed) in self.quotas.iter_mut().zip(guarantees(&parents, &own)) {
            quota.guaranteed = guaranteed;
        }
    }

    fn winner(&self, inner: usize) -> u32 {
        self.winners[self.quotas[inner].tree as usize + 1]
    }

    fn change(&mut self, queue: QueueId, step: impl Fn(&Amount) -> Amount) {
        let root = self.root();
        let mut place = queue.0 as usize;
        while place != root {
            self.used[place] = step(&self.used[place]);
            self.shares[place] = self.share_now(place);
            self.replay(place);
            place = self.quotas[place].parent as usize;
        }
    }

    /// The share as its numbers are now.
    fn share_now(&self, place: usize) -> Share {
        let (quota, used) = (&self.quotas[place], &self.used[place]);
        if let Some((used, of)) = largest_part(used, &quota.guaranteed)
            && used < of
        {
            return Share { below_guarantee: true, used, of, weight: 1 };
        }
        let (used, of) = largest_part(used, &self.capacity).unwrap_or((0, 1));
        Share { below_guarantee: false, used, of, weight: quota.weight }
    }

    /// Puts `occupant` on a leaf's seat in its parent's tree, and on upwards where that wakes or parks an inner queue.
    fn seat(&mut self, leaf: QueueId, occupant: u32) {
        let (mut place, mut occupant) = (leaf.0 as usize, occupant);
        while place != self.root() {
            let quota = self.quotas[place];
            let parent = self.quotas[quota.parent as usize];
            let seat = (parent.tree + parent.width + quota.slot) as usize;
            if self.winners[seat] == occupant {
                return;
            }
            self.winners[seat] = occupant;
            self.play(parent, parent.width + quota.slot);
            place = quota.parent as usize;
            occupant = if self.winner(place) == NOBODY { NOBODY } else { quota.parent };
        }
    }

    /// Plays all matches again in which `place` takes part among its siblings.
    fn replay(&mut self, place: usize) {
        let quota = self.quotas[place];
        let parent = self.quotas[quota.parent as usize];
        if self.winners[(parent.tree + parent.width + quota.slot) as usize] != NOBODY {
            self.play(parent, parent.width + quota.slot);
        }
    }

    /// Plays the matches above a seat of an inner queue's tree.
    fn play(&mut self, inner: Quota, seat: u32) {
        let tree = &mut self.winners[inner.tree as usize..][..2 * inner.width as usize];
        let mut seat = seat as usize;
        while seat > 1 {
            let (left, right) = (tree[seat & !1], tree[seat | 1]);
            seat /= 2;
            tree[seat] = match (left, right) {
                (NOBODY, other) | (other, NOBODY) => other,
                // Children stand in the order of their numbers: on a tie the left one is the lower.
                _ if self.shares[left as usize].order(&self.shares[right as usize]).is_gt() => right,
                _ => left,
            };
        }
    }
}

/// The largest `used / of` over the resources that `of` has; `None` when it has none.
fn largest_part(used: &Amount, of: &Amount) -> Option<(u64, u64)> {
    let mut largest: Option<(u64, u64)> = None;
    for resource in Resource::ALL {
        let (used, of) = (used.of(resource).max(0).unsigned_abs(), of.of(resource).max(0).unsigned_abs());
        if of == 0 {
            continue;
        }
        let larger = largest
            .is_none_or(|(most, whole)| u128::from(used) * u128::from(whole) > u128::from(most) * u128::from(of));
        if larger {
            largest = Some((used, of));
        }
    }
    largest
}

/// A place as the number that names it. Fleets have far fewer queues than numbers.
fn number(place: usize) -> u32 {
    u32::try_from(place).unwrap_or(NOBODY)
}

#[cfg(test)]
mod tests;

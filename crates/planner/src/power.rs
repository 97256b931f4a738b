//! Power: what each point of the power tree may still admit, and, in the modules below, who gets how many watts while
//! it runs, what to shed when a cap falls, and how far measured peaks stay below asked ones.
//!
//! Watts are whole numbers. Admission counts *committed* watts: the peak a request asks for, times κ (`kappa`), where
//! the caller knows one. κ enters before the planner: the caller writes `Kappa::committed_watts` into
//! `Shape::peak_watts`, so that a replay of the same events commits the same watts, whatever was learned since.
//!
//! INVARIANT: at each point, committed watts of every class plus what is kept of the other classes' floors stay within
//! the cap, unless the cap was lowered below them: then nothing fits there until enough has ended.
//!
//! Deliberately absent: meters, the clock, shares of money or carbon. A floor is kept at its own point: where a point
//! above is tighter, it must be stated there as well.

pub mod allocate;
pub mod certificate;
pub mod emergency;
pub mod kappa;

use crate::fleet::PowerSpec;
use crate::units::{MAX_TENANT_CLASSES, PowerId, TenantClass};

const NO_PARENT: u32 = u32::MAX;

/// Caps and committed watts of every point. The hot path allocates nothing and costs one walk to the root.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PowerTree {
    points: Vec<Point>,
}

/// One point, all that an admission reads of it in a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Point {
    cap: i64,
    /// Over all classes.
    committed_sum: i64,
    /// Σ max(committed, floor) over all classes.
    reserved: i64,
    parent: u32,
    committed: [i64; MAX_TENANT_CLASSES],
    floor: [i64; MAX_TENANT_CLASSES],
}

/// Why watts do not fit: the tightest point on the way to the root, the one nearest the node among equals.
///
/// `committed + kept + asked` exceeds `cap` there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PowerBlock {
    pub power: PowerId,
    pub cap_watts: i64,
    /// Committed below the point, all classes.
    pub committed_watts: i64,
    /// Not committed, but kept for the floors of other classes.
    pub kept_watts: i64,
    /// By the request; for a gang, by its members below the point.
    pub asked_watts: i64,
}

impl PowerTree {
    /// The tree of a fleet whose power points were checked: parents exist, no cycle, classes below
    /// `MAX_TENANT_CLASSES`.
    pub fn new(specs: &[PowerSpec]) -> Self {
        let points: Vec<Point> = specs.iter().map(Point::new).collect();
        let tree = Self { points };
        for start in 0..tree.points.len() {
            let depth = tree.path(PowerId(index_u32(start))).take(tree.points.len() + 1).count();
            assert!(
                depth <= tree.points.len(),
                "a fleet's power points are checked to be a tree before they come here"
            );
        }
        tree
    }

    /// Whether `watts` more of a class fit at a node drawing from `leaf`, at this point and every one above.
    ///
    /// # Errors
    /// The tightest point, when they do not.
    pub fn fits(&self, leaf: PowerId, class: TenantClass, watts: i64) -> Result<(), PowerBlock> {
        let mut tightest: Option<(i64, PowerBlock)> = None;
        for (power, point) in self.path(leaf) {
            let room = point.room(class);
            // What draws nothing changes nothing, even where a cap has fallen below what is committed.
            if watts > room && watts > 0 && tightest.is_none_or(|(least, _)| room < least) {
                tightest = Some((room, point.block(power, class, watts)));
            }
        }
        tightest.map_or(Ok(()), |(_, block)| Err(block))
    }

    /// Whether a gang fits with `watts` at each of `leaves` together; a leaf may stand there more than once.
    ///
    /// Leaves the tree as it was; needs it only to count on.
    ///
    /// # Errors
    /// The tightest point when the first member that does not fit is added, with the whole gang's watts below it.
    pub fn fits_many(&mut self, leaves: &[PowerId], class: TenantClass, watts: i64) -> Result<(), PowerBlock> {
        let mut verdict = Ok(());
        let mut added = 0;
        for &leaf in leaves {
            verdict = self.fits(leaf, class, watts);
            if verdict.is_err() {
                break;
            }
            self.add(leaf, class, watts);
            added += 1;
        }
        for &leaf in &leaves[..added] {
            self.remove(leaf, class, watts);
        }
        verdict.map_err(|block| {
            let below = leaves.iter().filter(|&&leaf| self.path(leaf).any(|(power, _)| power == block.power)).count();
            let members = i64::try_from(below).unwrap_or(i64::MAX);
            self.points[index(block.power)].block(block.power, class, watts.saturating_mul(members))
        })
    }

    /// How many more members of `watts` each fit below a point, as far as it and those above it decide; those between
    /// it and the members may admit fewer.
    pub fn members_that_fit(&self, point: PowerId, class: TenantClass, watts: i64) -> u32 {
        if watts <= 0 {
            return u32::MAX;
        }
        let room = self.path(point).map(|(_, point)| point.room(class)).min().unwrap_or(i64::MAX);
        u32::try_from(room.max(0) / watts).unwrap_or(u32::MAX)
    }

    /// Commits watts, asked or not: a lease that runs draws them, whatever the cap.
    pub fn add(&mut self, leaf: PowerId, class: TenantClass, watts: i64) {
        self.change(leaf, class, watts);
    }

    /// Takes committed watts back; the same numbers as were added.
    pub fn remove(&mut self, leaf: PowerId, class: TenantClass, watts: i64) {
        self.change(leaf, class, -watts);
    }

    /// Another cap. One below what is committed is allowed: nothing fits there until enough has ended (`emergency`
    /// says what to shed first).
    pub fn set_cap(&mut self, power: PowerId, cap_watts: i64) {
        self.points[index(power)].cap = cap_watts;
    }

    /// Points in the tree.
    pub const fn len(&self) -> usize {
        self.points.len()
    }

    /// Whether there is no power tree: then everything fits.
    pub const fn is_empty(&self) -> bool {
        self.points.is_empty()
    }

    /// The point above.
    pub fn parent(&self, power: PowerId) -> Option<PowerId> {
        let parent = self.points[index(power)].parent;
        (parent != NO_PARENT).then_some(PowerId(parent))
    }

    /// The cap in watts.
    pub fn cap(&self, power: PowerId) -> i64 {
        self.points[index(power)].cap
    }

    /// Committed watts below the point, all classes.
    pub fn committed(&self, power: PowerId) -> i64 {
        self.points[index(power)].committed_sum
    }

    /// Committed watts below the point of one class.
    pub fn committed_of(&self, power: PowerId, class: TenantClass) -> i64 {
        self.points[index(power)].committed[usize::from(class.0)]
    }

    /// Watts kept below the point for one class.
    pub fn floor(&self, power: PowerId, class: TenantClass) -> i64 {
        self.points[index(power)].floor[usize::from(class.0)]
    }

    /// Σ max(committed, floor) over the classes: what nobody else can have.
    pub fn reserved(&self, power: PowerId) -> i64 {
        self.points[index(power)].reserved
    }

    /// Watts a class may still have at this point alone; negative where a cap has fallen below what is committed.
    pub fn room(&self, power: PowerId, class: TenantClass) -> i64 {
        self.points[index(power)].room(class)
    }

    /// Points where more is committed than the cap allows, with the watts over it, in order of their ids.
    pub fn over_cap(&self) -> impl Iterator<Item = (PowerId, i64)> + '_ {
        let over = |(at, point): (usize, &Point)| (PowerId(index_u32(at)), point.committed_sum - point.cap);
        self.points.iter().enumerate().map(over).filter(|&(_, watts)| watts > 0)
    }

    /// From a point to the root.
    fn path(&self, leaf: PowerId) -> impl Iterator<Item = (PowerId, &Point)> {
        // Without a power tree, a node's point does not exist and nothing limits it.
        let first = self.points.get(index(leaf)).map(|point| (leaf, point));
        std::iter::successors(first, |(_, point)| {
            (point.parent != NO_PARENT).then(|| (PowerId(point.parent), &self.points[point.parent as usize]))
        })
    }

    fn change(&mut self, leaf: PowerId, class: TenantClass, watts: i64) {
        let class = usize::from(class.0);
        let mut at = leaf.0;
        while let Some(point) = self.points.get_mut(at as usize) {
            let before = point.committed[class];
            let after = before + watts;
            point.committed[class] = after;
            point.committed_sum += watts;
            point.reserved += after.max(point.floor[class]) - before.max(point.floor[class]);
            at = point.parent;
        }
    }
}

impl Point {
    fn new(spec: &PowerSpec) -> Self {
        let mut floor = [0; MAX_TENANT_CLASSES];
        for &(class, watts) in &spec.floors {
            floor[usize::from(class.0)] += watts;
        }
        Self {
            cap: spec.cap_watts,
            committed_sum: 0,
            reserved: floor.iter().sum(),
            parent: spec.parent.map_or(NO_PARENT, |parent| parent.0),
            committed: [0; MAX_TENANT_CLASSES],
            floor,
        }
    }

    /// Cap less what is committed and what is kept for other classes.
    fn room(&self, class: TenantClass) -> i64 {
        self.cap - self.committed_sum - self.kept(class)
    }

    /// Kept for classes other than this one: all that is reserved but not committed, less this one's own.
    fn kept(&self, class: TenantClass) -> i64 {
        let class = usize::from(class.0);
        let own = self.committed[class].max(self.floor[class]) - self.committed[class];
        self.reserved - self.committed_sum - own
    }

    fn block(&self, power: PowerId, class: TenantClass, asked_watts: i64) -> PowerBlock {
        PowerBlock {
            power,
            cap_watts: self.cap,
            committed_watts: self.committed_sum,
            kept_watts: self.kept(class),
            asked_watts,
        }
    }
}

const fn index(power: PowerId) -> usize {
    power.0 as usize
}

fn index_u32(at: usize) -> u32 {
    u32::try_from(at).expect("power points are named by thirty-two bits")
}

#[cfg(test)]
mod tests;

//! Exact spreading: which hours deferrable work takes, when every hour has a cost and a capacity.
//!
//! What an hour costs does not depend on whose work it holds, so the cost of a plan depends on the loads of the hours
//! alone, and the loads that can be served are the independent vectors of a polymatroid (Megiddo 1974; they are the
//! right-hand sides of a flow). On a polymatroid the greedy is exact (Edmonds 1970): take the hours cheapest first and
//! fill each as far as augmenting paths allow; an hour once filled keeps its load, and what could not reach it never
//! can later. So this min-cost flow needs no shortest paths, only reachability. It serves as much work as possible,
//! and that at the least cost.
//!
//! Deliberately absent: gangs whose units must share their hours, and work that may not be interrupted.
//! The proof of each answer is in `certificate`.

/// Work that may take any of the hours `from..until`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Work {
    /// First hour it may use.
    pub from: usize,
    /// Its deadline: the first hour it may not use.
    pub until: usize,
    /// Units × hours to be served.
    pub demand: i64,
    /// Most units in one hour.
    pub width: i64,
}

/// Hours and what is to be spread over them. Costs and capacities have one entry for each hour.
#[derive(Debug, Clone, Copy)]
pub struct Problem<'a> {
    /// Of one unit in this hour, zero or more.
    pub cost: &'a [i64],
    /// Units an hour holds, zero or more.
    pub capacity: &'a [i64],
    /// Windows beyond the last hour are cut there.
    pub work: &'a [Work],
}

/// An optimal plan with its prices.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Spread {
    /// Where each work's hours begin in `units`; one entry more than there is work.
    pub begin: Vec<usize>,
    /// Units in each hour of each work's window, one work after another.
    pub units: Vec<i64>,
    /// Unit-hours of each work that no hour holds.
    pub missed: Vec<i64>,
    /// What one unit of an hour's capacity is worth: zero where some is left.
    pub price: Vec<i64>,
    /// Sum over all unit-hours served.
    pub cost: i64,
}

impl Spread {
    /// Units of one work in each hour of its window.
    pub fn of(&self, work: usize) -> &[i64] {
        &self.units[self.begin[work]..self.begin[work + 1]]
    }

    /// Unit-hours that no hour holds.
    pub fn missed_total(&self) -> i64 {
        self.missed.iter().sum()
    }
}

impl Problem<'_> {
    /// What a missed unit-hour counts: more than any hour, so that as little as possible is missed.
    pub fn missed_cost(&self) -> i64 {
        self.cost.iter().max().copied().unwrap_or(0).saturating_add(1)
    }

    /// The hours that one work may use.
    pub fn window(&self, work: &Work) -> std::ops::Range<usize> {
        let end = work.until.min(self.cost.len());
        work.from.min(end)..end
    }

    /// Serves as much as possible, and that at the least cost; the prices prove it.
    pub fn spread(&self) -> Spread {
        let mut flow = self.filled();
        let price = flow.prices();
        Spread { price, ..flow.finish() }
    }

    /// The same plan without prices.
    pub fn served(&self) -> Spread {
        self.filled().finish()
    }

    fn filled(&self) -> Flow<'_> {
        let mut flow = Flow::new(self);
        let mut order: Vec<usize> = (0..self.cost.len()).collect();
        order.sort_unstable_by_key(|&hour| (self.cost[hour], hour));
        for hour in order {
            flow.fill(hour);
        }
        flow
    }
}

/// The flow while it grows.
struct Flow<'a> {
    problem: &'a Problem<'a>,
    begin: Vec<usize>,
    units: Vec<i64>,
    unmet: Vec<i64>,
    room: Vec<i64>,
    /// A bit for each hour a work uses, 64 hours to a word; each work's words begin at `used_begin`.
    used: Vec<u64>,
    used_begin: Vec<usize>,
    /// Hours of each work's window that are still to be filled.
    ahead: Vec<i64>,
    /// Works whose window covers an hour, one hour after another.
    covering: Vec<u32>,
    covering_begin: Vec<usize>,
    /// A bit for each hour the search saw; those that are closed for good, as nothing unserved can be reached.
    seen_hour: Vec<u64>,
    closed_hour: Vec<u64>,
    /// Mark of the last search that saw a work; `CLOSED` for good.
    seen_work: Vec<u32>,
    mark: u32,
    /// How a search came to an hour: the work that would leave it, and the hour that work would take instead.
    came: Vec<(u32, usize)>,
    queue: Vec<usize>,
}

const CLOSED: u32 = u32::MAX;

fn at(work: u32) -> usize {
    work as usize
}

const fn word(hour: usize) -> usize {
    hour / 64
}

const fn bit(hour: usize) -> u64 {
    1 << (hour % 64)
}

impl<'a> Flow<'a> {
    fn new(problem: &'a Problem<'a>) -> Self {
        let hours = problem.cost.len();
        let mut begin = Vec::with_capacity(problem.work.len() + 1);
        let mut covering_begin = vec![0; hours + 2];
        let mut used_begin = Vec::with_capacity(problem.work.len());
        let (mut total, mut words) = (0, 0);
        for work in problem.work {
            begin.push(total);
            used_begin.push(words);
            let window = problem.window(work);
            total += window.len();
            words += word(window.end + 63) - word(window.start);
            window.for_each(|hour| covering_begin[hour + 2] += 1);
        }
        begin.push(total);
        for hour in 2..hours + 2 {
            covering_begin[hour] += covering_begin[hour - 1];
        }
        let mut covering = vec![0; total];
        for (number, work) in (0u32..).zip(problem.work) {
            for hour in problem.window(work) {
                covering[covering_begin[hour + 1]] = number;
                covering_begin[hour + 1] += 1;
            }
        }
        Self {
            problem,
            begin,
            units: vec![0; total],
            unmet: problem.work.iter().map(|work| work.demand.max(0)).collect(),
            room: problem.capacity.to_vec(),
            ahead: problem.work.iter().map(|work| i64::try_from(problem.window(work).len()).unwrap_or(0)).collect(),
            covering,
            covering_begin,
            used: vec![0; words],
            used_begin,
            seen_hour: vec![0; word(hours + 63)],
            closed_hour: vec![0; word(hours + 63)],
            seen_work: vec![0; problem.work.len()],
            mark: 0,
            came: vec![(0, 0); hours],
            queue: Vec::new(),
        }
    }

    fn finish(self) -> Spread {
        let used = self.problem.capacity.iter().zip(&self.room).map(|(capacity, room)| capacity - room);
        let cost = used.zip(self.problem.cost).map(|(units, cost)| units * cost).sum();
        Spread { begin: self.begin, units: self.units, missed: self.unmet, price: Vec::new(), cost }
    }

    fn covering(&self, hour: usize) -> std::ops::Range<usize> {
        self.covering_begin[hour]..self.covering_begin[hour + 1]
    }

    /// Where the units of `work` in `hour` are kept.
    fn place(&self, work: u32, hour: usize) -> usize {
        self.begin[at(work)] + hour - self.problem.work[at(work)].from
    }

    /// Adds units (or takes them away) and keeps the bit of the hour true.
    fn add(&mut self, work: u32, hour: usize, units: i64) {
        let place = self.place(work, hour);
        self.units[place] += units;
        let bits = &mut self.used[self.used_begin[at(work)] + word(hour) - word(self.problem.work[at(work)].from)];
        if self.units[place] > 0 { *bits |= bit(hour) } else { *bits &= !bit(hour) }
    }

    /// Units that `work` could still take in `hour`.
    fn spare(&self, work: u32, hour: usize) -> i64 {
        self.problem.work[at(work)].width - self.units[self.place(work, hour)]
    }

    /// Gives `hour` as much as it can hold: first to those with the fewest hours left for what they still need, so
    /// that later hours need few detours, then along augmenting paths.
    fn fill(&mut self, hour: usize) {
        let mut nearest: Vec<(i64, u32)> = Vec::new();
        for index in self.covering(hour) {
            let work = self.covering[index];
            let (unmet, width) = (self.unmet[at(work)], self.problem.work[at(work)].width);
            if unmet > 0 && width > 0 {
                nearest.push((self.ahead[at(work)] - unmet.div_euclid(width), work));
            }
            self.ahead[at(work)] -= 1;
        }
        nearest.sort_unstable();
        for (_, work) in nearest {
            let units = self.room[hour].min(self.unmet[at(work)]).min(self.spare(work, hour));
            if units > 0 {
                self.add(work, hour, units);
                self.unmet[at(work)] -= units;
                self.room[hour] -= units;
            }
        }
        while self.room[hour] > 0 && self.closed_hour[word(hour)] & bit(hour) == 0 {
            match self.search(hour) {
                Some((work, at_hour)) => self.augment(hour, work, at_hour),
                None => self.close(),
            }
        }
    }

    /// Looks for work with something unserved that could, over others giving way, use `hour`.
    fn search(&mut self, hour: usize) -> Option<(u32, usize)> {
        self.mark += 1;
        self.queue.clear();
        self.queue.push(hour);
        self.seen_hour.copy_from_slice(&self.closed_hour);
        self.seen_hour[word(hour)] |= bit(hour);
        let mut next = 0;
        while let Some(&hour) = self.queue.get(next) {
            next += 1;
            for index in self.covering(hour) {
                let work = self.covering[index];
                if self.seen_work[at(work)] >= self.mark || self.spare(work, hour) <= 0 {
                    continue;
                }
                if self.unmet[at(work)] > 0 {
                    return Some((work, hour));
                }
                self.expand(work, hour);
            }
        }
        None
    }

    /// Every hour that `work` uses could be left for `hour`.
    fn expand(&mut self, work: u32, hour: usize) {
        self.seen_work[at(work)] = self.mark;
        let window = self.problem.window(&self.problem.work[at(work)]);
        for (used, index) in (self.used_begin[at(work)]..).zip(word(window.start)..word(window.end + 63)) {
            let mut found = self.used[used] & !self.seen_hour[index];
            self.seen_hour[index] |= found;
            while found != 0 {
                let left = index * 64 + found.trailing_zeros() as usize;
                found &= found - 1;
                self.came[left] = (work, hour);
                self.queue.push(left);
            }
        }
    }

    /// Serves what is unserved of `work` in hour `at_hour`, from which others give way towards `hour`.
    fn augment(&mut self, hour: usize, work: u32, at_hour: usize) {
        let mut units = self.room[hour].min(self.unmet[at(work)]).min(self.spare(work, at_hour));
        let mut left = at_hour;
        while left != hour {
            let (mover, taken) = self.came[left];
            units = units.min(self.units[self.place(mover, left)]).min(self.spare(mover, taken));
            left = taken;
        }
        self.unmet[at(work)] -= units;
        self.add(work, at_hour, units);
        let mut left = at_hour;
        while left != hour {
            let (mover, taken) = self.came[left];
            self.add(mover, left, -units);
            self.add(mover, taken, units);
            left = taken;
        }
        self.room[hour] -= units;
    }

    /// What the last search saw has nothing unserved and cannot get any: no later search need enter it.
    fn close(&mut self) {
        for &hour in &self.queue {
            self.closed_hour[word(hour)] |= bit(hour);
            for index in self.covering_begin[hour]..self.covering_begin[hour + 1] {
                let work = self.covering[index];
                if self.seen_work[at(work)] == self.mark {
                    self.seen_work[at(work)] = CLOSED;
                }
            }
        }
    }

    /// Prices that prove the plan: an hour is worth as much as the dearest hour (or miss) whose unit could move there.
    fn prices(&mut self) -> Vec<i64> {
        let cost = self.problem.cost;
        let mut worth = vec![-1; cost.len()];
        self.mark = 1;
        self.seen_work.fill(0);
        self.queue.clear();
        for (number, work) in (0u32..).zip(self.problem.work) {
            if self.unmet[at(number)] > 0 {
                for hour in self.problem.window(work) {
                    if self.spare(number, hour) > 0 && worth[hour] < 0 {
                        worth[hour] = self.problem.missed_cost();
                        self.queue.push(hour);
                    }
                }
            }
        }
        self.spread_worth(&mut worth);
        let mut order: Vec<usize> = (0..cost.len()).collect();
        order.sort_unstable_by_key(|&hour| (std::cmp::Reverse(cost[hour]), hour));
        for hour in order {
            if worth[hour] < 0 {
                worth[hour] = cost[hour];
                self.queue.push(hour);
                self.spread_worth(&mut worth);
            }
        }
        worth.iter().zip(cost).map(|(worth, cost)| worth - cost).collect()
    }

    /// Carries the worth of the queued hours to every hour that their units could move to.
    fn spread_worth(&mut self, worth: &mut [i64]) {
        while let Some(hour) = self.queue.pop() {
            for index in self.covering(hour) {
                let work = self.covering[index];
                if self.seen_work[at(work)] == self.mark || self.units[self.place(work, hour)] <= 0 {
                    continue;
                }
                self.seen_work[at(work)] = self.mark;
                for better in self.problem.window(&self.problem.work[at(work)]) {
                    if worth[better] < 0 && self.spare(work, better) > 0 {
                        worth[better] = worth[hour];
                        self.queue.push(better);
                    }
                }
            }
        }
    }
}

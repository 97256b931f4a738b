//! What fair would be if requests could be cut at will: weighted max-min by progressive filling, level by level.
//!
//! A measure, not a decision: it knows every queue's whole demand and divides one resource, to a unit. What `Shares`
//! reaches with whole requests is compared with it.

use crate::fleet::{Amount, QueueSpec};
use crate::reason::Resource;

/// What each queue should have of `total`, by place in `queues`, if leaf `q` asked for `demand[q]` in the smallest
/// pieces. Inner queues' own demand is not looked at.
///
/// At each level guarantees are filled first, evenly by their size (an inner queue has at least its children's); then
/// the rest goes to the smallest `used / weight`, up to each queue's limit and demand.
pub fn max_min(total: i64, queues: &[QueueSpec], demand: &[i64], resource: Resource) -> Vec<i64> {
    let root = queues.len();
    let mut children = vec![Vec::new(); root + 1];
    for (place, queue) in queues.iter().enumerate() {
        children[queue.parent.map_or(root, |parent| parent.0 as usize)].push(place);
    }
    let mut order = vec![root];
    let mut next = 0;
    while let Some(&queue) = order.get(next) {
        order.extend(&children[queue]);
        next += 1;
    }
    let mut wanted = vec![0_i64; root + 1];
    for &queue in order.iter().rev() {
        let below: i64 = children[queue].iter().map(|&child| wanted[child]).sum();
        let own = if queue < root && children[queue].is_empty() { demand[queue].max(0) } else { below };
        let limit = queues.get(queue).and_then(|spec| spec.limit).map_or(i64::MAX, |limit| limit.of(resource));
        wanted[queue] = own.min(limit);
    }
    let parents: Vec<usize> =
        queues.iter().map(|queue| queue.parent.map_or(root, |parent| parent.0 as usize)).collect();
    let own: Vec<Amount> = queues.iter().map(|queue| queue.guaranteed).collect();
    let promised: Vec<i64> = super::guarantees(&parents, &own).iter().map(|all| all.of(resource).max(0)).collect();
    let mut given = vec![0_i64; root + 1];
    given[root] = total.max(0).min(wanted[root]);
    for &queue in &order {
        divide(&mut given, queue, &children[queue], &wanted, &promised, queues);
    }
    given.truncate(root);
    given
}

/// Divides what `queue` was given among its children.
fn divide(
    given: &mut [i64],
    queue: usize,
    children: &[usize],
    wanted: &[i64],
    guaranteed: &[i64],
    queues: &[QueueSpec],
) {
    let promised = |child: usize| guaranteed[child].min(wanted[child]);
    let all_promised: i64 = children.iter().map(|&child| promised(child)).sum();
    let bars: Vec<Bar> = if all_promised >= given[queue] {
        let guarantee = |child: usize| guaranteed[child].unsigned_abs();
        children.iter().map(|&child| Bar { from: 0, to: promised(child), width: guarantee(child) }).collect()
    } else {
        let weight = |child: usize| u64::from(queues[child].weight);
        children.iter().map(|&child| Bar { from: promised(child), to: wanted[child], width: weight(child) }).collect()
    };
    for (&child, height) in children.iter().zip(fill(given[queue], &bars)) {
        given[child] = height;
    }
}

/// A vessel that stands `from` the ground to `to`, so much of `width` that one step of the level takes so many units.
#[derive(Debug, Clone, Copy)]
struct Bar {
    from: i64,
    to: i64,
    width: u64,
}

impl Bar {
    /// What it holds when the level stands at `numerator / denominator` for each unit of width, rounded down.
    fn at(&self, numerator: i128, denominator: i128) -> i64 {
        let height = i128::from(self.width) * numerator / denominator;
        i64::try_from(height).unwrap_or(i64::MAX).clamp(self.from, self.to)
    }
}

/// Fills all bars to one level, so that they hold `total` together; units lost by rounding go to the first that take
/// them. Bars that cannot hold it are full.
fn fill(total: i64, bars: &[Bar]) -> Vec<i64> {
    // Where a bar begins or stops to rise the slope of the sum changes: look for the last such level that is too low.
    let mut levels: Vec<(i64, u64)> =
        bars.iter().filter(|bar| bar.width > 0).flat_map(|bar| [(bar.from, bar.width), (bar.to, bar.width)]).collect();
    levels.sort_by(|left, right| {
        (i128::from(left.0) * i128::from(right.1)).cmp(&(i128::from(right.0) * i128::from(left.1)))
    });
    let held = |&(height, width): &(i64, u64)| -> i128 {
        bars.iter().map(|bar| i128::from(bar.at(i128::from(height), i128::from(width)))).sum()
    };
    let below = levels.partition_point(|level| held(level) <= i128::from(total));
    let (height, width) = below.checked_sub(1).map_or((0, 1), |place| levels[place]);
    let mut heights: Vec<i64> = bars.iter().map(|bar| bar.at(i128::from(height), i128::from(width))).collect();
    // Above it these rise together until the total is reached.
    let rising: Vec<usize> = (0..bars.len())
        .filter(|&place| {
            let bar = &bars[place];
            let level = i128::from(bar.width) * i128::from(height);
            level >= i128::from(bar.from) * i128::from(width) && level < i128::from(bar.to) * i128::from(width)
        })
        .collect();
    let still: i128 = (0..bars.len()).filter(|place| !rising.contains(place)).map(|p| i128::from(heights[p])).sum();
    let widths: i128 = rising.iter().map(|&place| i128::from(bars[place].width)).sum();
    if widths > 0 {
        for &place in &rising {
            heights[place] = bars[place].at(i128::from(total) - still, widths);
        }
    }
    let mut rest = i128::from(total) - heights.iter().map(|&height| i128::from(height)).sum::<i128>();
    for (place, bar) in bars.iter().enumerate() {
        if rest > 0 && bar.width > 0 && heights[place] < bar.to {
            let more = i64::try_from(rest.min(1)).unwrap_or(0);
            heights[place] += more;
            rest -= i128::from(more);
        }
    }
    heights
}

//! How many nodes a site may take work on: by what requests ask at their peak, and by what such work was seen to draw.
#![allow(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "drawn shares become whole watts and places"
)]

use galerne_planner::power::PowerTree;
use galerne_planner::power::kappa::Kappa;
use galerne_planner::units::TenantClass;

use super::tree_caps::{Case, power_points};
use crate::random::SplitMix64;
use crate::table::{Csv, Row, Table};

/// Windows seen before κ is used: as long as a job draws evenly.
const WINDOWS: u32 = 5_000;
const SEED: u64 = 41;
const QUANTILE_MILLI: u32 = 990;

/// Learns κ, the 99th percentile of what jobs draw in a window, from draws out of `distribution` (shares of a
/// nameplate), then admits node after node. Over a whole hour such a job comes near its nameplate at some time, and κ
/// from hourly peaks would be one: what is drawn beyond κ is for the run-time shares to hold down.
pub(super) fn run(case: &Case, distribution: &[f64], table: &mut Table, csv: &mut Csv) {
    let mut kappa = Kappa::new(QUANTILE_MILLI);
    let mut random = SplitMix64::new(SEED);
    let classes = [0, 1, 2].map(TenantClass);
    for window in 0..WINDOWS {
        let share = distribution[(random.unit() * distribution.len() as f64) as usize];
        let class = classes[(window % 3) as usize];
        kappa.observe(class, case.node_watts, (share * case.node_watts as f64).ceil() as i64);
    }
    let by_peak = admitted(case, &Kappa::new(QUANTILE_MILLI), &classes);
    let by_kappa = admitted(case, &kappa, &classes);
    let learned = kappa.milli(classes[0]) as f64 / 1000.0;
    table.push(Row {
        what: format!("b {}: nodes admitted with kappa {learned:.2} (peer: asked peaks)", case.name),
        peer: by_peak.to_string(),
        ours: by_kappa.to_string(),
        difference: format!("{:+.1} %", (by_kappa as f64 / by_peak as f64 - 1.0) * 100.0),
        ..Row::default()
    });
    csv.line(&[&"b", &case.name, &"kappa", &learned, &"1", &""]);
    csv.line(&[&"b", &case.name, &"nodes_admitted_by_asked_peak", &by_peak, &"count", &""]);
    csv.line(&[&"b", &case.name, &"nodes_admitted_by_kappa", &by_kappa, &"count", &""]);
}

/// Nodes that fit below every cap when each asks for its nameplate.
fn admitted(case: &Case, kappa: &Kappa, classes: &[TenantClass]) -> usize {
    let (specs, points) = power_points(case);
    let mut tree = PowerTree::new(&specs);
    let mut count = 0;
    for (&point, &class) in points.iter().zip(classes.iter().cycle()) {
        let watts = i64::from(kappa.committed_watts(class, u32::try_from(case.node_watts).unwrap_or(u32::MAX)));
        if tree.fits(point, class, watts).is_ok() {
            tree.add(point, class, watts);
            count += 1;
        }
    }
    count
}

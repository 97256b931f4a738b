//! B4: power. (a) `static_power`: the published lists placed so that fewer watts are drawn; (b) `tree_caps`: a site's
//! watts shared anew every second under nested caps (`tree_caps`), and how many nodes they admit (`admission`).

use std::path::Path;

use anyhow::Result;

use crate::table::{Csv, Table};

mod admission;
mod static_power;
mod tree_caps;

/// Lines of `b4.csv`: `part` is `a` or `b`, `peer` a figure that was published for the same metric.
pub(crate) const HEADER: &str = "part,case,metric,value,unit,peer";

pub(crate) fn run(data: &Path, out: &Path) -> Result<Table> {
    let mut table = Table::new("B4 power");
    let mut csv = Csv::new(out.join("b4.csv"), HEADER);
    static_power::run(data, out, &mut table, &mut csv)?;
    tree_caps::run(data, out, &mut table, &mut csv)?;
    csv.finish()?;
    Ok(table)
}

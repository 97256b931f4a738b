//! The Alibaba "openb" lists (GPU cluster trace 2023): nodes, tasks, and the orders in which tasks arrive.
//!
//! Any folder in the same format can be read: lists are found by their names, files may be gzipped or not.

use std::collections::BTreeMap;
use std::io::Read as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};

use crate::random::SplitMix64;

/// The nodes of a site.
#[derive(Debug, Clone)]
pub(crate) struct Site {
    pub(crate) nodes: Vec<Node>,
    /// Names of GPU models; nodes and tasks name them by place.
    pub(crate) models: Vec<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Node {
    pub(crate) model: u8,
    pub(crate) gpus: u8,
    pub(crate) cpu_milli: u32,
    pub(crate) memory_mib: u32,
}

/// What a task asks of one node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Task {
    /// Of each of its GPUs; below 1000 only when it asks for one.
    pub(crate) milli: u16,
    pub(crate) gpus: u8,
    pub(crate) cpu_milli: u32,
    pub(crate) memory_mib: u32,
    /// Allowed models, a bit each; zero allows all.
    pub(crate) models: u64,
}

/// A seed, and the places of the tasks that arrive.
pub(crate) type Order = (u32, Vec<usize>);

/// A list of tasks, and for each seed the places of the tasks that arrive.
#[derive(Debug, Clone)]
pub(crate) struct List {
    pub(crate) name: String,
    pub(crate) tasks: Vec<Task>,
    pub(crate) orders: Vec<Order>,
    /// Whether the orders were made here, because the folder has none for this list.
    pub(crate) is_order_made: bool,
}

impl Task {
    pub(crate) const fn is_share(&self) -> bool {
        self.gpus == 1 && self.milli < 1000
    }

    /// All its GPUs, in thousandths.
    pub(crate) fn total_milli(&self) -> i64 {
        i64::from(self.gpus) * i64::from(self.milli)
    }
}

impl Site {
    /// All GPUs, in thousandths.
    pub(crate) fn capacity_milli(&self) -> i64 {
        self.nodes.iter().map(|node| i64::from(node.gpus) * 1000).sum()
    }
}

impl List {
    /// How often each kind of task is in the list, the most frequent first.
    pub(crate) fn frequencies(&self) -> Vec<(Task, u32)> {
        let mut counts: BTreeMap<Task, u32> = BTreeMap::new();
        for task in &self.tasks {
            *counts.entry(*task).or_insert(0) += 1;
        }
        let mut counts: Vec<(Task, u32)> = counts.into_iter().collect();
        counts.sort_by_key(|(task, count)| (std::cmp::Reverse(*count), *task));
        counts
    }
}

/// Reads the nodes and every list of a folder (or of `openb` below it), by name.
pub(crate) fn read(data: &Path) -> Result<(Site, Vec<List>)> {
    let folder = if data.join("openb").is_dir() { data.join("openb") } else { data.to_owned() };
    let site = read_site(&folder)?;
    let mut names: Vec<String> = Vec::new();
    for entry in std::fs::read_dir(&folder).with_context(|| format!("cannot read `{}`", folder.display()))? {
        let file = entry?.file_name().to_string_lossy().into_owned();
        let name = file.strip_prefix("openb_pod_list_").map(|name| name.trim_end_matches(".gz"));
        if let Some(name) = name.and_then(|name| name.strip_suffix(".csv")) {
            names.push(name.to_owned());
        }
    }
    names.sort();
    names.dedup();
    if names.is_empty() {
        bail!("`{}` has no `openb_pod_list_NAME.csv` or `.csv.gz`", folder.display());
    }
    // The published lists first, in the order of the paper's table.
    let rank = |name: &String| PUBLISHED.iter().position(|known| known == name).unwrap_or(PUBLISHED.len());
    names.sort_by_key(rank);
    let lists = names.iter().map(|name| read_list(&folder, name, &site)).collect::<Result<Vec<List>>>()?;
    Ok((site, lists))
}

const PUBLISHED: [&str; 5] = ["default", "cpu100", "gpushare40", "gpuspec33", "multigpu20"];

fn read_site(folder: &Path) -> Result<Site> {
    let rows = Rows::read(folder, "openb_node_list_gpu_node.csv")?;
    let mut site = Site { nodes: Vec::new(), models: Vec::new() };
    for row in &rows.rows {
        let name = rows.text(row, "model").unwrap_or_default();
        let place = site.models.iter().position(|model| model == name).unwrap_or_else(|| {
            site.models.push(name.to_owned());
            site.models.len() - 1
        });
        site.nodes.push(Node {
            model: u8::try_from(place).context("more GPU models than a mask holds")?,
            gpus: rows.number(row, "gpu")?,
            cpu_milli: rows.number(row, "cpu_milli")?,
            memory_mib: rows.number(row, "memory_mib")?,
        });
    }
    Ok(site)
}

fn read_list(folder: &Path, name: &str, site: &Site) -> Result<List> {
    let rows = Rows::read(folder, &format!("openb_pod_list_{name}.csv"))?;
    let mut tasks = Vec::new();
    for row in &rows.rows {
        let gpus: u8 = rows.number(row, "num_gpu")?;
        let spec = rows.text(row, "gpu_spec").unwrap_or_default();
        let bit = |wanted: &str| site.models.iter().position(|model| model == wanted).map_or(0, |place| 1_u64 << place);
        let models = spec.split('|').fold(0, |mask, wanted| mask | bit(wanted));
        // A task for models that the site has not can be placed nowhere: a bit beyond all models says so.
        let models = if models == 0 && !spec.is_empty() { 1 << 63 } else { models };
        tasks.push(Task {
            milli: if gpus == 0 { 0 } else { rows.number(row, "gpu_milli")? },
            gpus,
            cpu_milli: rows.number(row, "cpu_milli")?,
            memory_mib: rows.number(row, "memory_mib")?,
            models,
        });
    }
    let known = read_orders(folder, name, tasks.len())?;
    let is_order_made = known.is_none();
    let orders = known.unwrap_or_else(|| make_orders(&tasks, site.capacity_milli()));
    Ok(List { name: name.to_owned(), tasks, orders, is_order_made })
}

/// The orders of a list; lists of GPU specs that are the default list's tasks arrive as those do.
fn read_orders(folder: &Path, name: &str, tasks: usize) -> Result<Option<Vec<Order>>> {
    let own = format!("arrival_order_{name}.txt");
    let file = if exists(folder, &own) {
        own
    } else if name.starts_with("gpuspec") && exists(folder, "arrival_order_default.txt") {
        "arrival_order_default.txt".to_owned()
    } else {
        return Ok(None);
    };
    let mut orders = Vec::new();
    for line in text(folder, &file)?.lines() {
        let mut numbers = line.split_whitespace().map(str::parse::<usize>);
        let Some(seed) = numbers.next() else { continue };
        let seed = u32::try_from(seed.with_context(|| format!("`{file}` is not a list of numbers"))?)?;
        let order = numbers.collect::<Result<Vec<usize>, _>>().with_context(|| format!("`{file}`, seed {seed}"))?;
        if order.iter().any(|row| *row >= tasks) {
            return if file.contains(name) { bail!("`{file}` names a row that `{name}` has not") } else { Ok(None) };
        }
        orders.push((seed, order));
    }
    Ok(Some(orders))
}

/// Orders as in the published procedure: all tasks shuffled, then cut, or random ones added, up to 130 % of the GPUs.
fn make_orders(tasks: &[Task], capacity_milli: i64) -> Vec<Order> {
    let make = |seed: u32| {
        let mut random = SplitMix64::new(u64::from(seed));
        let mut order: Vec<usize> = (0..tasks.len()).collect();
        random.shuffle(&mut order);
        let wanted = capacity_milli * 13 / 10;
        let mut requested = 0;
        let whole = order.iter().position(|row| {
            requested += tasks[*row].total_milli();
            requested > wanted
        });
        order.truncate(whole.unwrap_or(order.len()));
        let can_grow = tasks.iter().any(|task| task.gpus > 0);
        while whole.is_none() && can_grow {
            let row = random.below(u32::try_from(tasks.len()).unwrap_or(u32::MAX)) as usize;
            if requested + tasks[row].total_milli() > wanted {
                break;
            }
            requested += tasks[row].total_milli();
            order.push(row);
        }
        (seed, order)
    };
    (42..52).map(make).collect()
}

/// A CSV file by the names of its columns.
struct Rows {
    file: String,
    header: Vec<String>,
    rows: Vec<Vec<String>>,
}

impl Rows {
    fn read(folder: &Path, file: &str) -> Result<Self> {
        let text = text(folder, file)?;
        let split = |line: &str| line.split(',').map(|cell| cell.trim().to_owned()).collect::<Vec<String>>();
        let mut lines = text.lines().filter(|line| !line.is_empty()).map(split);
        let header = lines.next().with_context(|| format!("`{file}` is empty"))?;
        Ok(Self { file: file.to_owned(), header, rows: lines.collect() })
    }

    fn text<'a>(&self, row: &'a [String], column: &str) -> Option<&'a str> {
        row.get(self.header.iter().position(|name| name == column)?).map(String::as_str)
    }

    fn number<T: std::str::FromStr>(&self, row: &[String], column: &str) -> Result<T> {
        let cell = self.text(row, column).with_context(|| format!("`{}` has no column `{column}`", self.file))?;
        cell.parse().ok().with_context(|| format!("`{}`: `{cell}` is no `{column}`", self.file))
    }
}

fn exists(folder: &Path, file: &str) -> bool {
    folder.join(file).is_file() || gzipped(folder, file).is_file()
}

fn gzipped(folder: &Path, file: &str) -> PathBuf {
    folder.join(format!("{file}.gz"))
}

/// A file, or the same gzipped.
pub(crate) fn text(folder: &Path, file: &str) -> Result<String> {
    let plain = folder.join(file);
    let path = if plain.is_file() { plain } else { gzipped(folder, file) };
    let bytes = std::fs::read(&path).with_context(|| format!("cannot read `{}`", path.display()))?;
    let mut text = String::new();
    if path.extension().is_some_and(|extension| extension == "gz") {
        flate2::read::GzDecoder::new(bytes.as_slice()).read_to_string(&mut text)?;
    } else {
        text = String::from_utf8(bytes)?;
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::{Task, make_orders};

    #[test]
    fn made_orders_ask_for_just_under_130_percent_and_hold_every_task_once_first() {
        let task = |gpus, milli| Task { milli, gpus, cpu_milli: 1000, memory_mib: 0, models: 0 };
        let tasks: Vec<Task> = (0..40).map(|place| if place % 2 == 0 { task(1, 500) } else { task(1, 1000) }).collect();
        for (seed, order) in make_orders(&tasks, 100_000) {
            let requested: i64 = order.iter().map(|row| tasks[*row].total_milli()).sum();
            assert!((129_000..=130_000).contains(&requested), "seed {seed} asks for {requested}");
            let mut first: Vec<usize> = order[..40].to_vec();
            first.sort_unstable();
            assert_eq!(first, (0..40).collect::<Vec<usize>>(), "seed {seed}");
        }
        // A list that asks for more than that is cut.
        assert!(make_orders(&tasks, 10_000).iter().all(|(_, order)| order.len() < 40));
    }
}

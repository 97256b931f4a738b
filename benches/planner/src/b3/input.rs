//! Carbon intensities and jobs, by the names and columns of the data folder, and jobs of our own making.

use std::io::Read as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};

use crate::random::SplitMix64;

/// A zone's year.
#[derive(Debug)]
pub(crate) struct Zone {
    /// Such as `DE_2023`.
    pub(crate) name: String,
    /// Milligrams of CO₂ equivalent for one unit's kWh in each hour, lifecycle.
    pub(crate) cost: Vec<i64>,
}

/// A job: runs whole hours in `arrival..deadline`, any of them, one unit each.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Job {
    pub(crate) arrival: usize,
    pub(crate) hours: i64,
    pub(crate) deadline: usize,
}

/// A list of jobs by arrival.
#[derive(Debug)]
pub(crate) struct Jobs {
    /// Such as `jobs_2023_seed0`.
    pub(crate) name: String,
    pub(crate) jobs: Vec<Job>,
}

/// Every zone and every list of jobs in the folder, by name.
pub(crate) fn read(folder: &Path) -> Result<(Vec<Zone>, Vec<Jobs>)> {
    let mut paths: Vec<PathBuf> = Vec::new();
    for entry in std::fs::read_dir(folder).with_context(|| format!("cannot read `{}`", folder.display()))? {
        paths.push(entry?.path());
    }
    paths.sort();
    let (mut zones, mut lists) = (Vec::new(), Vec::new());
    for path in paths {
        let file = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        let stem = file.trim_end_matches(".gz").trim_end_matches(".csv");
        if let Some(name) = stem.strip_suffix("_hourly").filter(|_| file.contains(".csv")) {
            zones.push(read_zone(&path, name).with_context(|| format!("cannot use `{}`", path.display()))?);
        } else if stem.starts_with("jobs_") && stem.contains("_seed") && file.contains(".csv") {
            lists.push(read_jobs(&path, stem).with_context(|| format!("cannot use `{}`", path.display()))?);
        }
    }
    ensure!(!zones.is_empty(), "`{}` has no `<ZONE>_<YEAR>_hourly.csv`", folder.display());
    ensure!(!lists.is_empty(), "`{}` has no `jobs_<NAME>_seed<NUMBER>.csv`", folder.display());
    Ok((zones, lists))
}

fn text(path: &Path) -> Result<String> {
    let bytes = std::fs::read(path)?;
    let mut text = String::new();
    if bytes.starts_with(&[0x1f, 0x8b]) {
        flate2::read::MultiGzDecoder::new(bytes.as_slice()).read_to_string(&mut text)?;
    } else {
        text = String::from_utf8(bytes)?;
    }
    Ok(text)
}

/// Columns by their names, then every line's values of them.
fn columns<const N: usize>(text: &str, names: [&str; N]) -> Result<Vec<[String; N]>> {
    let mut lines = text.lines();
    let header: Vec<&str> = lines.next().unwrap_or_default().split(',').map(str::trim).collect();
    let mut places = [0; N];
    for (place, name) in places.iter_mut().zip(names) {
        *place = header.iter().position(|column| *column == name).with_context(|| format!("no column `{name}`"))?;
    }
    let line = |line: &str| {
        let cells: Vec<&str> = line.split(',').map(str::trim).collect();
        places.map(|place| cells.get(place).copied().unwrap_or_default().to_owned())
    };
    Ok(lines.filter(|line| !line.trim().is_empty()).map(line).collect())
}

fn read_zone(path: &Path, name: &str) -> Result<Zone> {
    let mut cost = Vec::new();
    for (hour, [grams]) in columns(&text(path)?, ["ci_lifecycle_g_per_kwh"])?.into_iter().enumerate() {
        let grams: f64 = grams.parse().with_context(|| format!("hour {hour}: `{grams}` is no number"))?;
        ensure!((0.0..1e6).contains(&grams), "hour {hour}: {grams} g/kWh cannot be");
        cost.push(milligrams(grams));
    }
    ensure!(!cost.is_empty(), "no hours");
    Ok(Zone { name: name.to_owned(), cost })
}

#[allow(clippy::cast_possible_truncation, reason = "checked to be below a million grams")]
pub(crate) fn milligrams(grams: f64) -> i64 {
    (grams * 1000.0).round() as i64
}

fn read_jobs(path: &Path, name: &str) -> Result<Jobs> {
    let mut jobs = Vec::new();
    for (row, cells) in columns(&text(path)?, ["arrival_hour", "duration_h", "deadline_hour"])?.into_iter().enumerate()
    {
        let number =
            |text: &str| text.parse::<u32>().with_context(|| format!("job {row}: `{text}` is no whole number"));
        let [arrival, hours, deadline] = [number(&cells[0])?, number(&cells[1])?, number(&cells[2])?];
        ensure!(arrival + hours <= deadline, "job {row} cannot run {hours} h between {arrival} and {deadline}");
        jobs.push(Job { arrival: arrival as usize, hours: i64::from(hours), deadline: deadline as usize });
    }
    jobs.sort_by_key(|job| job.arrival);
    Ok(Jobs { name: name.to_owned(), jobs })
}

/// How jobs of our own arrive: to see that nothing is tuned to the list of the folder.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Made {
    /// On workdays from 9 to 17, done by the next Monday or Thursday at 9 that they can reach: as in the folder.
    Workdays,
    /// At any hour, with a slack of their own between nothing and four days.
    AnyHour,
    /// In bursts of twenty equal jobs (sweeps), nine a week on average, due the next morning at 9 or the one after.
    Bursts,
}

impl Made {
    pub(crate) const ALL: [Self; 3] = [Self::Workdays, Self::AnyHour, Self::Bursts];

    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Workdays => "made, workdays",
            Self::AnyHour => "made, any hour",
            Self::Bursts => "made, bursts",
        }
    }

    /// About 17 units of load on average over `hours`, as the list of the folder has.
    pub(crate) fn jobs(self, hours: usize, seed: u64) -> Jobs {
        let mut random = SplitMix64::new(seed);
        let mut jobs = Vec::new();
        for arrival in 0..hours {
            let (day, hour) = (arrival / 24 % 7, arrival % 24);
            let (expected, copies) = match self {
                Self::Workdays => (if (1..=5).contains(&day) && (9..17).contains(&hour) { 1.6 } else { 0.0 }, 1),
                Self::AnyHour => (0.42, 1),
                Self::Bursts => (9.0 / 168.0, 20),
            };
            for _ in 0..poisson(&mut random, expected) {
                let most = if self == Self::Bursts { 24 } else { 86 };
                let run = 4 + random.below(most);
                let job = |slack: u32| arrival + (run + slack) as usize;
                let deadline = match self {
                    Self::Workdays => (job(0)..).find(|hour| matches!(hour % 168, 33 | 105)),
                    Self::AnyHour => Some(job(random.below(96))),
                    Self::Bursts => (job(0)..).find(|hour| hour % 24 == 9).map(|hour| hour + 24),
                };
                if let Some(deadline) = deadline.filter(|&deadline| deadline <= hours) {
                    jobs.extend(std::iter::repeat_n(Job { arrival, hours: i64::from(run), deadline }, copies));
                }
            }
        }
        Jobs { name: format!("{}, seed {seed}", self.name()), jobs }
    }
}

/// How many come when so many are expected (Knuth's product of uniforms).
fn poisson(random: &mut SplitMix64, expected: f64) -> u32 {
    let (limit, mut product, mut count) = ((-expected).exp(), random.unit(), 0);
    while product > limit {
        product *= random.unit();
        count += 1;
    }
    count
}

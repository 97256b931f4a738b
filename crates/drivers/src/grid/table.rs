//! Files of intervals: ours (`zone,start,end,g_per_kwh,scope,source,estimated`) and the hourly form with one row per
//! hour and both scopes (`datetime_utc,ci_direct_g_per_kwh,ci_lifecycle_g_per_kwh,…`).

use jiff::civil::DateTime;
use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};

use super::amount::milligrams;
use super::{GridError, Scope};

/// Largest file: ten years of quarter-hours in 20 zones are below it.
pub(super) const FILE_MAX_BYTES: u64 = 512 * 1024 * 1024;
/// Most rows of a file, for the memory they take.
const ROWS_MAX: usize = 4_000_000;
/// Columns of our own form.
const OWN_HEADER: [&str; 7] = ["zone", "start", "end", "g_per_kwh", "scope", "source", "estimated"];

/// One interval with one intensity; `until` is not part of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Interval {
    pub(super) from: Timestamp,
    pub(super) until: Timestamp,
    pub(super) mg_per_kwh: i64,
    pub(super) source: std::sync::Arc<str>,
    pub(super) is_estimated: bool,
}

/// One interval and where it belongs.
#[derive(Debug)]
pub(super) struct Row {
    pub(super) zone: String,
    pub(super) scope: Scope,
    pub(super) interval: Interval,
}

/// Reads a whole file.
pub(super) fn parse(name: &str, text: &str) -> Result<Vec<Row>, GridError> {
    let mut lines = text.lines().enumerate().map(|(at, line)| (at + 1, line.trim_end_matches('\r')));
    let Some((_, header)) = lines.next() else {
        return Err(GridError::BadFile { line: 0, what: "it is empty".to_owned() });
    };
    let columns: Vec<_> = header.trim_start_matches('\u{feff}').split(',').map(str::trim).collect();
    let lines = lines.filter(|(_, line)| !line.trim().is_empty());
    let rows = if columns == OWN_HEADER {
        lines.map(|(at, line)| own_row(at, line)).take(ROWS_MAX + 1).collect::<Result<Vec<_>, _>>()?
    } else {
        hourly_rows(name, &columns, lines)?
    };
    if rows.len() > ROWS_MAX {
        return Err(GridError::BadFile { line: 0, what: format!("it has more than {ROWS_MAX} rows") });
    }
    Ok(rows)
}

fn own_row(line: usize, text: &str) -> Result<Row, GridError> {
    let bad = |what: &str| GridError::BadFile { line, what: what.to_owned() };
    let cells: Vec<_> = text.split(',').map(str::trim).collect();
    let [zone, from, until, grams, scope, source, estimated] = cells.as_slice() else {
        return Err(bad("it does not have seven columns"));
    };
    let scope = match *scope {
        "direct" => Scope::Direct,
        "lifecycle" => Scope::Lifecycle,
        _ => return Err(bad("the scope must be `direct` or `lifecycle`")),
    };
    let (from, until) = (time(from).ok_or_else(|| bad(TIME_FORM))?, time(until).ok_or_else(|| bad(TIME_FORM))?);
    if from >= until {
        return Err(bad("the interval ends before it begins"));
    }
    Ok(Row {
        zone: zone_of(zone).ok_or_else(|| bad("the zone is not a code such as `FR`"))?,
        scope,
        interval: Interval {
            from,
            until,
            mg_per_kwh: milligrams(grams).ok_or_else(|| bad("the intensity is not a decimal number of grams"))?,
            source: (*source).into(),
            is_estimated: truth(estimated).ok_or_else(|| bad("`estimated` must be `true` or `false`"))?,
        },
    })
}

fn hourly_rows<'a>(
    name: &str,
    columns: &[&str],
    lines: impl Iterator<Item = (usize, &'a str)>,
) -> Result<Vec<Row>, GridError> {
    let column = |wanted: &str| columns.iter().position(|column| *column == wanted);
    let Some(time_column) = column("datetime_utc") else {
        let what = format!("its columns must be `{}`, or start with `datetime_utc`", OWN_HEADER.join(","));
        return Err(GridError::BadFile { line: 1, what });
    };
    let zone = name.split(['_', '.']).next().and_then(zone_of);
    let zone = zone.ok_or_else(|| GridError::BadFile {
        line: 0,
        what: "its name does not begin with a zone such as `FR_`".to_owned(),
    })?;
    let scopes = [(Scope::Direct, column("ci_direct_g_per_kwh")), (Scope::Lifecycle, column("ci_lifecycle_g_per_kwh"))];
    let estimated_column = column("estimated");
    let source: std::sync::Arc<str> = format!("hourly file {name}").into();
    let mut rows = Vec::new();
    for (line, text) in lines.take(ROWS_MAX) {
        let bad = |what: &str| GridError::BadFile { line, what: what.to_owned() };
        let cells: Vec<_> = text.split(',').map(str::trim).collect();
        let cell = |at: usize| cells.get(at).copied().ok_or_else(|| bad("it has too few columns"));
        let from = time(cell(time_column)?).ok_or_else(|| bad(TIME_FORM))?;
        let until = from.checked_add(SignedDuration::from_hours(1)).map_err(|_| bad(TIME_FORM))?;
        let is_estimated = match estimated_column {
            Some(at) => truth(cell(at)?).ok_or_else(|| bad("`estimated` must be `true` or `false`"))?,
            None => false,
        };
        for (scope, at) in scopes {
            // An empty cell is a gap: the yearly mean will stand in and say so.
            let Some(at) = at else { continue };
            let grams = cell(at)?;
            if grams.is_empty() {
                continue;
            }
            let mg_per_kwh = milligrams(grams).ok_or_else(|| bad("the intensity is not a decimal number of grams"))?;
            let interval = Interval { from, until, mg_per_kwh, source: source.clone(), is_estimated };
            rows.push(Row { zone: zone.clone(), scope, interval });
        }
    }
    Ok(rows)
}

const TIME_FORM: &str =
    "the time must be UTC, as in `2023-01-31T00:00:00Z` or `2023-01-31 00:00:00`; `01/02/2023` reads two ways";

/// UTC with or without a zone mark. Other offsets are read for what they are; a bare time is UTC by agreement.
fn time(text: &str) -> Option<Timestamp> {
    if let Ok(at) = text.parse::<Timestamp>() {
        return Some(at);
    }
    let civil: DateTime = text.parse().ok()?;
    TimeZone::UTC.to_timestamp(civil).ok()
}

fn truth(text: &str) -> Option<bool> {
    match text.to_ascii_lowercase().as_str() {
        "true" | "1" => Some(true),
        "false" | "0" => Some(false),
        _ => None,
    }
}

fn zone_of(text: &str) -> Option<String> {
    let is_code =
        (2..=16).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-');
    is_code.then(|| text.to_ascii_uppercase())
}

/// Orders the intervals of a zone; two answers for one moment are refused.
pub(super) fn sort_and_check(zone: &str, intervals: &mut [Interval]) -> Result<(), GridError> {
    intervals.sort_by_key(|interval| interval.from);
    match intervals.windows(2).find(|pair| pair[0].until > pair[1].from) {
        None => Ok(()),
        Some(pair) => {
            let what = format!("zone `{zone}` has two intensities for {}", pair[1].from);
            Err(GridError::BadFile { line: 0, what })
        }
    }
}

/// The interval that holds a moment.
pub(super) fn at(intervals: &[Interval], moment: Timestamp) -> Option<&Interval> {
    let after = intervals.partition_point(|interval| interval.from <= moment);
    intervals[..after].last().filter(|interval| moment < interval.until)
}

//! The whole table: everybody started, every load in every round, then what can be done once.

use std::fs;

use anyhow::{Context as _, Result};

use crate::figure::Figure;
use crate::load::{Load, run};
use crate::peers::{Mocks, Peer, Places, Running};
use crate::stats::median;
use crate::steps::{self, Step};
use crate::table::Results;
use crate::{curves, faults};

/// A part of the run, as ONLY= names it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Part {
    /// A load of every round.
    Rounds(Step),
    Curves,
    Cancel,
    Overload,
    Crowd,
    Killed,
    Memory,
}

const PARTS: [(&str, Part); 12] = [
    ("latency", Part::Rounds(Step::Latency)),
    ("plain", Part::Rounds(Step::Plain)),
    ("burst", Part::Rounds(Step::Burst)),
    ("stream", Part::Rounds(Step::Stream)),
    ("paced", Part::Rounds(Step::Paced)),
    ("prompts", Part::Rounds(Step::Prompts)),
    ("curves", Part::Curves),
    ("cancel", Part::Cancel),
    ("overload", Part::Overload),
    ("streams", Part::Crowd),
    ("killed", Part::Killed),
    ("memory", Part::Memory),
];

/// The parts of these names; all when there are none.
pub(crate) fn parts(names: &[String]) -> Result<Vec<Part>> {
    let names: Vec<&str> = names.iter().map(|name| name.trim()).filter(|name| !name.is_empty()).collect();
    if names.is_empty() {
        return Ok(PARTS.iter().map(|(_, part)| *part).collect());
    }
    let known = || PARTS.map(|(name, _)| name).join(",");
    let one = |name: &&str| {
        let found = PARTS.iter().find(|(its, _)| its == name);
        let part =
            found.with_context(|| format!("there is no part `{name}`\nhint: ONLY={} are all there are", known()));
        part.map(|(_, part)| *part)
    };
    names.iter().map(one).collect()
}

/// How much of everything.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Amounts {
    pub(crate) rounds: usize,
    pub(crate) seconds: f64,
    pub(crate) prompts: u64,
    pub(crate) prompts_seconds: f64,
}

/// Measures, prints the table, writes CSV, Markdown and drawings; says what was missed.
pub(crate) fn measure(places: &Places, peers: &[Peer], parts: &[Part], amounts: Amounts) -> Result<Vec<String>> {
    let mut mocks = Mocks::start(places)?;
    let mut results = Results::default();
    let running = start(places, peers, &mocks, &mut results)?;
    let loads: Vec<Step> =
        parts.iter().filter_map(|part| if let Part::Rounds(step) = part { Some(*step) } else { None }).collect();
    rounds(places, &running, &mocks, &loads, amounts, &mut results)?;
    for part in parts {
        if *part == Part::Curves {
            println!("curves");
            curves::connections(&places.folder, &running, amounts.seconds * 0.5)?;
        }
        for one in running.iter().filter(|one| one.peer != Peer::Direct) {
            match part {
                Part::Rounds(_) | Part::Curves => continue,
                // The peers have no limits that could be met.
                Part::Overload if one.peer != Peer::Galerne => continue,
                Part::Cancel => faults::cancel(&mut results, one, &mocks)?,
                Part::Overload => faults::overload(&mut results, one)?,
                Part::Crowd => faults::crowd(&mut results, one, &mocks)?,
                Part::Killed => faults::killed(&mut results, one, &mut mocks)?,
                Part::Memory => {
                    faults::memory(&mut results, one, &mocks, amounts.prompts, amounts.prompts_seconds)?;
                }
            }
            println!("{part:?} {}", one.peer.name());
        }
    }
    let (text, folder) = (results.text(), &places.folder);
    println!("\n{text}");
    for (name, text) in [("table.txt", &text), ("table.md", &results.markdown()), ("rounds.csv", &results.csv())] {
        fs::write(folder.join(name), text).with_context(|| format!("cannot write `{name}`"))?;
    }
    println!("files in `{}`", folder.display());
    Ok(results.missed())
}

fn start(places: &Places, peers: &[Peer], mocks: &Mocks, results: &mut Results) -> Result<Vec<Running>> {
    let mut running = Vec::new();
    for peer in peers {
        match Running::start(*peer, places, mocks) {
            Ok(one) => {
                println!("{} answers, {:.1} MiB", peer.name(), one.memory_mib(mocks));
                if *peer != Peer::Direct {
                    results.push(Figure::MemoryIdle, *peer, one.memory_mib(mocks));
                }
                running.push(one);
            }
            Err(error) if *peer != Peer::Galerne => {
                println!("SKIPPED {}: {error:#}", peer.name());
                results.note(format!("skipped: {}: {error:#}", peer.name()));
            }
            Err(error) => return Err(error),
        }
    }
    for one in &running {
        run(one.target(), Load::plain(16, 0.5))?;
    }
    Ok(running)
}

fn rounds(
    places: &Places,
    running: &[Running],
    mocks: &Mocks,
    loads: &[Step],
    amounts: Amounts,
    results: &mut Results,
) -> Result<()> {
    let mut latencies: Vec<(Peer, Vec<u64>)> = running.iter().map(|one| (one.peer, Vec::new())).collect();
    let mut trouble: Vec<(Peer, Step, f64)> = Vec::new();
    for number in 0..amounts.rounds {
        for step in loads {
            let mut direct = None;
            for (place, one) in running.iter().enumerate() {
                let round = steps::round(one, mocks, step.load(amounts.seconds))?;
                let failed = round.report.errors();
                println!(
                    "{number} {step:?} {}: {:.0}/s, {:.1} us CPU each, p50 {:.0} us, failed {failed} {}",
                    one.peer.name(),
                    round.per_second(),
                    round.cpu_settled_us,
                    round.report.latency_us(crate::stats::P50),
                    round.report.trouble()
                );
                if failed > 0 {
                    trouble.push((one.peer, *step, failed as f64));
                }
                if *step == Step::Latency {
                    latencies[place].1.extend(&round.report.latency);
                }
                // The mock alone is the first of every round.
                steps::record(results, *step, one.peer, &round, direct.as_ref().or(Some(&round)));
                if place == 0 {
                    direct = Some(round);
                }
            }
        }
    }
    for one in running {
        for step in loads {
            let failed: Vec<f64> = trouble
                .iter()
                .filter(|(peer, its, _)| *peer == one.peer && its == step)
                .map(|(.., count)| *count)
                .collect();
            if let Some(count) = median(&failed) {
                results.note(format!("{step:?}: {} failed {count:.0} times in a round", one.peer.name()));
            }
        }
    }
    if loads.contains(&Step::Latency) {
        curves::shares(&places.folder, &latencies)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::{PARTS, Part, parts};
    use crate::steps::Step;

    #[test]
    fn nothing_named_is_everything_and_an_unknown_name_is_refused() {
        assert_eq!(parts(&[]).unwrap().len(), PARTS.len());
        assert_eq!(
            parts(&["plain".to_owned(), " killed".to_owned()]).unwrap(),
            [Part::Rounds(Step::Plain), Part::Killed]
        );
        let error = parts(&["latencies".to_owned()]).unwrap_err().to_string();
        assert!(error.contains("`latencies`") && error.contains("latency,plain"), "{error}");
    }
}

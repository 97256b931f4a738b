//! What clients see when something goes wrong: an upstream killed, a client that leaves, more asked than is allowed, two
//! thousand streams at once, a million prompts that share nothing.

use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use serde_json::Value;

use crate::call::call;
use crate::figure::Figure;
use crate::load::{self, Load, Report, Target, run};
use crate::mock::micros_now;
use crate::peers::{Mocks, Peer, Running};
use crate::stats::{P99, quantile};
use crate::steps::first_number;
use crate::table::Results;
use crate::wire::Connection;

/// How long the load of a killed upstream lasts; it dies after a third and is back after two.
const KILLED_SECONDS: f64 = 4.5;
/// Time for gateways to see that it is back.
const RECOVERY: Duration = Duration::from_secs(4);
/// Requests that are given up.
const LEAVERS: u64 = 10;
/// Longest wait until the mocks have begun them, and until they see them go.
const BEGUN_LIMIT: Duration = Duration::from_secs(5);
const GONE_LIMIT: Duration = Duration::from_secs(4);
const POLL: Duration = Duration::from_millis(10);
const CROWD: usize = 2_000;
/// Of the overload: requests per second, several times of what the key's seats let through.
const OFFERED: f64 = 1_000.0;

/// Kills the busier of two upstreams under load and starts it again.
pub(crate) fn killed(results: &mut Results, one: &Running, mocks: &mut Mocks) -> Result<()> {
    let pace = Duration::from_millis(1);
    let plain = Load { pace, ..Load::plain(32, KILLED_SECONDS) };
    let report = under_kill(one, mocks, plain)?;
    results.push(Figure::KilledPlain, one.peer, report.errors() as f64);
    note(results, one.peer, "upstream killed, plain", &report);
    let streams = Load::streams(32, KILLED_SECONDS, 50, Duration::from_millis(10));
    let report = under_kill(one, mocks, streams)?;
    results.push(Figure::KilledStreams, one.peer, (report.broken + report.streams_short) as f64);
    note(results, one.peer, "upstream killed, streams", &report);
    Ok(())
}

fn under_kill(one: &Running, mocks: &mut Mocks, load: Load) -> Result<Report> {
    let third = Duration::from_secs_f64(load.seconds / 3.0);
    let report = thread::scope(|scope| {
        let killer = scope.spawn(|| {
            thread::sleep(third);
            let busiest = mocks.busiest()?;
            mocks.kill(busiest);
            thread::sleep(third);
            mocks.start_again(busiest)
        });
        let report = run(one.target(), load);
        killer.join().ok().context("the thread that kills ended badly")??;
        report
    })?;
    thread::sleep(RECOVERY);
    if let Some(site) = one.site() {
        site.wait_ready(2)?;
    }
    Ok(report)
}

fn note(results: &mut Results, peer: Peer, what: &str, report: &Report) {
    let trouble = report.trouble();
    if !trouble.is_empty() {
        results.note(format!("{what}: {} of {} requests: {trouble}", peer.name(), report.answered + report.errors()));
    }
}

/// Ten clients leave in the middle of an answer that would take ten seconds; how long until the engine knows.
pub(crate) fn cancel(results: &mut Results, one: &Running, mocks: &Mocks) -> Result<()> {
    for (stream, figure) in [(false, Figure::CancelPlain), (true, Figure::CancelStream)] {
        let worst = leave(one.target(), mocks, stream)?;
        results.push(figure, one.peer, worst.unwrap_or(f64::INFINITY));
    }
    Ok(())
}

/// Milliseconds until the last one's engine knew; nothing when one never did.
fn leave(target: &Target, mocks: &Mocks, stream: bool) -> Result<Option<f64>> {
    let first = first_number();
    let before = mocks.stats("started")?;
    let load = Load { stream, tokens: 500, pace: Duration::from_millis(20), ..Load::plain(1, 1.0) };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let left_at = runtime.block_on(async {
        let mut open = Vec::new();
        for number in first..first + LEAVERS {
            let prompt = load::prompt(&load, &format!("id={number} "));
            let mut connection = Connection::open(&target.address).await?;
            connection.send(&load::request(target, &load, &prompt)).await?;
            open.push(connection);
        }
        let limit = Instant::now() + BEGUN_LIMIT;
        while mocks.stats("started")? < before + LEAVERS && Instant::now() < limit {
            tokio::time::sleep(POLL).await;
        }
        // Streams have begun towards the client as well.
        tokio::time::sleep(Duration::from_millis(300)).await;
        let left_at = micros_now();
        drop(open);
        anyhow::Ok(left_at)
    })?;
    let limit = Instant::now() + GONE_LIMIT;
    loop {
        let ids = first..first + LEAVERS;
        let gone: Vec<u64> =
            mocks.cancels()?.into_iter().filter(|(id, _)| ids.contains(id)).map(|(_, at)| at).collect();
        if gone.len() as u64 >= LEAVERS {
            let worst = gone.iter().map(|at| at.saturating_sub(left_at)).max().unwrap_or(0);
            return Ok(Some(worst as f64 / 1e3));
        }
        if Instant::now() > limit {
            return Ok(None);
        }
        thread::sleep(POLL);
    }
}

/// More is asked than a key's seats let through; only of Galerne, the peers have no such limit.
pub(crate) fn overload(results: &mut Results, one: &Running) -> Result<()> {
    let Some(site) = one.site() else { return Ok(()) };
    // An answer takes 100 ms, so 32 seats let 320 through in a second.
    let pace = Duration::from_micros(6_250);
    let load = Load { pace, rate: Some(OFFERED), ..Load::plain(400, 3.0) };
    let report = run(&site.narrow_target(), load)?;
    let refused = |status: &u16| [429, 503].contains(status);
    let times: Vec<u64> =
        report.refused.iter().filter(|(status, _)| refused(status)).flat_map(|(_, times)| times.clone()).collect();
    anyhow::ensure!(!times.is_empty(), "nothing was refused at {OFFERED} requests/s: {} answered", report.answered);
    let mut sorted = times;
    sorted.sort_unstable();
    results.push(Figure::OverloadTime, one.peer, quantile(&sorted, P99) as f64 / 1e6);
    let mute = (sorted.len() as u64).saturating_sub(report.refused_with_wait);
    results.push(Figure::OverloadMute, one.peer, mute as f64);
    let (answered, count) = (report.answered, sorted.len());
    let other = report.errors() - count as u64;
    results.note(format!("overload: {answered} answered, {count} refused in time, {other} other failures"));
    Ok(())
}

/// Two thousand streams that all run together: each lasts five seconds.
pub(crate) fn crowd(results: &mut Results, one: &Running, mocks: &Mocks) -> Result<()> {
    let pace = Duration::from_millis(250);
    let load = Load { most: Some(CROWD as u64), ..Load::streams(CROWD, 60.0, 20, pace) };
    let report = run(one.target(), load)?;
    results.push(Figure::CrowdErrors, one.peer, report.errors() as f64);
    note(results, one.peer, "2,000 streams", &report);
    if report.answered > 0 {
        results.push(Figure::CrowdFirst, one.peer, report.first_us(P99) / 1e3);
    }
    results.push(Figure::CrowdMemory, one.peer, one.memory_mib(mocks));
    Ok(())
}

/// How memory grows with prompts that share nothing: at most so many, for at most so long.
pub(crate) fn memory(results: &mut Results, one: &Running, mocks: &Mocks, prompts: u64, seconds: f64) -> Result<()> {
    let before = one.memory_mib(mocks);
    let load = Load { unique: true, most: Some(prompts), first_number: first_number(), ..Load::plain(64, seconds) };
    let report = run(one.target(), load)?;
    if let Some(site) = one.site() {
        site.settle()?;
    }
    let after = one.memory_mib(mocks);
    results.push(Figure::MemoryAfter, one.peer, after);
    // The bar is about all of them: fewer say nothing of it.
    if report.answered >= prompts {
        results.push(Figure::MemoryGrowth, one.peer, after - before);
    }
    results.note(format!(
        "distinct prompts: {} answered {} in {:.0} s, from {before:.0} to {after:.0} MiB",
        one.peer.name(),
        report.answered,
        report.seconds
    ));
    Ok(())
}

/// What both mocks say.
impl Mocks {
    fn told(&self) -> Result<Vec<Value>> {
        self.addresses().iter().map(|address| call(address, "GET", "/stats", "", None)?.json()).collect()
    }

    /// The one with the most requests running; that there are any is what makes a kill a test.
    fn busiest(&self) -> Result<usize> {
        let told = self.told()?;
        let running = told.iter().map(|told| told["running"].as_u64().unwrap_or(0));
        let (place, count) = running.enumerate().max_by_key(|(_, count)| *count).context("there are mocks")?;
        anyhow::ensure!(count > 0, "no request runs on any upstream that could be killed");
        Ok(place)
    }

    fn stats(&self, name: &str) -> Result<u64> {
        Ok(self.told()?.iter().filter_map(|told| told[name].as_u64()).sum())
    }

    fn cancels(&self) -> Result<Vec<(u64, u64)>> {
        let told = self.told()?;
        let lists = told.iter().filter_map(|told| told["cancels"].as_array()).flatten();
        Ok(lists.filter_map(|pair| Some((pair[0].as_u64()?, pair[1].as_u64()?))).collect())
    }
}

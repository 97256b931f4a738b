//! The load: so many connections, one request at a time on each, for so long; what came back, and when.
//!
//! It runs on one thread, on a runtime of its own, in the process that measures.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::Result;
use tokio::task::JoinSet;

use crate::mock;
use crate::stats::{Millionths, quantile};
use crate::wire::{Connection, Reply};

/// Pause after a connection could not be made: an endless loop of refusals would measure itself.
const REFUSED_PAUSE: Duration = Duration::from_millis(5);
/// Longest wait for the requests in flight when the time is over.
const TAIL_MAX: Duration = Duration::from_secs(20);
/// What a prompt is made of.
const FILLER: &str = "hello wo ";

/// Whom to ask, and with which key.
#[derive(Debug, Clone)]
pub(crate) struct Target {
    /// `HOST:PORT`.
    pub(crate) address: String,
    pub(crate) key: String,
}

/// What to ask, and how often.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Load {
    pub(crate) connections: usize,
    pub(crate) seconds: f64,
    /// Tokens of an answer.
    pub(crate) tokens: usize,
    pub(crate) stream: bool,
    /// Between two tokens; zero is as fast as can be.
    pub(crate) pace: Duration,
    pub(crate) prompt_bytes: usize,
    /// Every prompt differs from all others from its first character on.
    pub(crate) unique: bool,
    /// Requests per second of all connections together; absent is one after the other.
    pub(crate) rate: Option<f64>,
    /// Ends after so many requests, even if there is time left.
    pub(crate) most: Option<u64>,
    /// Numbers of unique prompts begin here, so that two loads share none.
    pub(crate) first_number: u64,
}

impl Load {
    /// Short prompts, 16 tokens, no stream.
    pub(crate) fn plain(connections: usize, seconds: f64) -> Self {
        Self {
            connections,
            seconds,
            tokens: 16,
            stream: false,
            pace: Duration::ZERO,
            prompt_bytes: 200,
            unique: false,
            rate: None,
            most: None,
            first_number: 0,
        }
    }

    /// Streams of so many tokens.
    pub(crate) fn streams(connections: usize, seconds: f64, tokens: usize, pace: Duration) -> Self {
        Self { tokens, stream: true, pace, ..Self::plain(connections, seconds) }
    }
}

/// What came back.
#[derive(Debug, Clone, Default)]
pub(crate) struct Report {
    /// Requests answered with 200 and whole.
    pub(crate) answered: u64,
    /// Nanoseconds to the end of those answers, in ascending order.
    pub(crate) latency: Vec<u64>,
    /// Nanoseconds until the first byte of their bodies, in ascending order.
    pub(crate) first: Vec<u64>,
    /// Other answers by status: how many, and nanoseconds to their end in ascending order.
    pub(crate) refused: BTreeMap<u16, Vec<u64>>,
    /// Of those, how many said when to come back.
    pub(crate) refused_with_wait: u64,
    /// Connections that failed before an answer began, or while it came.
    pub(crate) broken: u64,
    /// Streams that ended by telling an error.
    pub(crate) streams_with_error: u64,
    /// Streams that ended as if they were whole, with fewer events than tokens.
    pub(crate) streams_short: u64,
    pub(crate) seconds: f64,
    /// Tokens of an answer, from the load.
    pub(crate) tokens: u64,
}

impl Report {
    /// Events with tokens in whole streams.
    pub(crate) fn events(&self) -> u64 {
        self.answered * self.tokens
    }

    /// A quantile of the latency, in microseconds.
    pub(crate) fn latency_us(&self, share: Millionths) -> f64 {
        quantile(&self.latency, share) as f64 / 1e3
    }

    /// A quantile of the time to the first byte of the body, in microseconds.
    pub(crate) fn first_us(&self, share: Millionths) -> f64 {
        quantile(&self.first, share) as f64 / 1e3
    }

    /// Everything that is no whole answer.
    pub(crate) fn errors(&self) -> u64 {
        let refused: usize = self.refused.values().map(Vec::len).sum();
        self.broken + self.streams_with_error + self.streams_short + refused as u64
    }

    /// What went wrong, in words; empty when nothing did.
    pub(crate) fn trouble(&self) -> String {
        let mut words: Vec<String> =
            self.refused.iter().map(|(status, times)| format!("{} x {status}", times.len())).collect();
        let counts = [(self.broken, "broken"), (self.streams_with_error, "with error"), (self.streams_short, "short")];
        words.extend(counts.into_iter().filter(|(count, _)| *count > 0).map(|(count, what)| format!("{count} {what}")));
        words.join(", ")
    }

    fn add(&mut self, other: Self) {
        self.answered += other.answered;
        self.latency.extend(other.latency);
        self.first.extend(other.first);
        for (status, times) in other.refused {
            self.refused.entry(status).or_default().extend(times);
        }
        self.refused_with_wait += other.refused_with_wait;
        self.broken += other.broken;
        self.streams_with_error += other.streams_with_error;
        self.streams_short += other.streams_short;
    }

    fn take(&mut self, reply: &Reply, ended: bool, asked_at: Instant, load: &Load) {
        let took = nanos(asked_at.elapsed());
        if reply.head.status != 200 {
            self.refused.entry(reply.head.status).or_default().push(took);
            self.refused_with_wait += u64::from(reply.head.has_retry_after);
        } else if load.stream && reply.tells_error() {
            self.streams_with_error += 1;
        } else if !ended || (load.stream && !reply.is_whole()) {
            self.broken += 1;
        } else if load.stream && reply.events < load.tokens as u64 {
            self.streams_short += 1;
        } else {
            self.answered += 1;
            self.latency.push(took);
            self.first.push(nanos(reply.first_at.saturating_duration_since(asked_at)));
        }
    }

    fn sort(&mut self) {
        self.latency.sort_unstable();
        self.first.sort_unstable();
        self.refused.values_mut().for_each(|times| times.sort_unstable());
    }
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

/// Puts the load on and waits for its end.
pub(crate) fn run(target: &Target, load: Load) -> Result<Report> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(put(target, load))
}

async fn put(target: &Target, load: Load) -> Result<Report> {
    let begun = Instant::now();
    let mut connections = JoinSet::new();
    for place in 0..load.connections {
        connections.spawn(connection(target.clone(), load, place, begun));
    }
    let mut report = Report { tokens: load.tokens as u64, ..Report::default() };
    let limit = begun + Duration::from_secs_f64(load.seconds) + TAIL_MAX;
    loop {
        match tokio::time::timeout_at(limit.into(), connections.join_next()).await {
            Ok(Some(joined)) => report.add(joined?),
            Ok(None) => break,
            // A request of each of these was never answered.
            Err(_) => {
                report.broken += connections.len() as u64;
                break;
            }
        }
    }
    report.seconds = begun.elapsed().as_secs_f64();
    report.sort();
    Ok(report)
}

async fn connection(target: Target, load: Load, place: usize, begun: Instant) -> Report {
    let mut report = Report::default();
    let mut prompts = Prompts::new(&target, &load, place);
    let mut open: Option<Connection> = None;
    let end = begun + Duration::from_secs_f64(load.seconds);
    let share = load.most.map(|most| most.div_ceil(load.connections as u64));
    for turn in 0_u64.. {
        if share.is_some_and(|share| turn >= share) {
            break;
        }
        let Some(asked_at) = due(&load, place, turn, begun, end).await else { break };
        let mut connection = match open.take() {
            Some(connection) => connection,
            None => match Connection::open(&target.address).await {
                Ok(connection) => connection,
                Err(_) => {
                    report.broken += 1;
                    tokio::time::sleep(REFUSED_PAUSE).await;
                    continue;
                }
            },
        };
        match connection.ask(prompts.next()).await {
            Ok((reply, ended)) => {
                report.take(&reply, ended.is_ok(), asked_at, &load);
                let closes = reply.head.closes || ended.is_err() || reply.head.framing == crate::wire::Framing::ToEnd;
                open = (!closes).then_some(connection);
            }
            Err(_) => report.broken += 1,
        }
    }
    report
}

/// Waits until the next request is due; nothing when the time is over. Latency counts from the instant returned.
async fn due(load: &Load, place: usize, turn: u64, begun: Instant, end: Instant) -> Option<Instant> {
    if let Some(rate) = load.rate {
        let number = turn as f64 * load.connections as f64 + place as f64;
        let due = begun + Duration::from_secs_f64(number / rate);
        if due > end {
            return None;
        }
        tokio::time::sleep_until(due.into()).await;
        // The timer has a grain of a millisecond: what is later than two is the queue, and counts.
        let now = Instant::now();
        return Some(if now - due > Duration::from_millis(2) { due } else { now });
    }
    let now = Instant::now();
    (now < end).then_some(now)
}

/// The requests of one connection.
struct Prompts {
    request: Vec<u8>,
    /// Where the number of the prompt is.
    number_at: usize,
    unique: bool,
    number: u64,
}

impl Prompts {
    fn new(target: &Target, load: &Load, place: usize) -> Self {
        let prompt = prompt(load, "");
        let request = request(target, load, &prompt);
        let number_at = memchr::memmem::find(&request, ZEROS.as_bytes()).unwrap_or(0);
        // No connection asks more than a hundred million times.
        let number = load.first_number + place as u64 * 100_000_000;
        Self { request, number_at, unique: load.unique, number }
    }

    fn next(&mut self) -> &[u8] {
        if self.unique {
            self.number += 1;
            // Mixed, so that neighbours differ from the first digit on.
            let mixed = self.number.wrapping_mul(0x9E37_79B9_7F4A_7C15) % 1_000_000_000_000;
            let digits = format!("{mixed:012}");
            self.request[self.number_at..self.number_at + digits.len()].copy_from_slice(digits.as_bytes());
        }
        &self.request
    }
}

/// Where a unique prompt's number goes.
const ZEROS: &str = "000000000000";

/// A prompt of the load's size that tells the mock its pace.
pub(crate) fn prompt(load: &Load, more: &str) -> String {
    let mut prompt = format!("{ZEROS} {more}");
    if !load.pace.is_zero() {
        prompt.push_str(&format!("pace={} ", load.pace.as_micros()));
    }
    while prompt.len() < load.prompt_bytes {
        prompt.push_str(FILLER);
    }
    prompt
}

/// A chat request with this prompt.
pub(crate) fn request(target: &Target, load: &Load, prompt: &str) -> Vec<u8> {
    let (stream, tokens, model) = (load.stream, load.tokens, mock::MODEL);
    let body = format!(
        "{{\"model\":\"{model}\",\"stream\":{stream},\"max_tokens\":{tokens},\"messages\":[{{\"role\":\"user\",\"content\":\"{prompt}\"}}]}}"
    );
    let (address, key, length) = (&target.address, &target.key, body.len());
    format!(
        "POST /v1/chat/completions HTTP/1.1\r\nhost: {address}\r\ncontent-type: application/json\r\n\
         authorization: Bearer {key}\r\ncontent-length: {length}\r\n\r\n{body}"
    )
    .into_bytes()
}

#[cfg(test)]
mod tests;

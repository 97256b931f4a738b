//! How good the choice is: hit rate against an oracle, balance, latency; under several loads and with odd replicas.

use super::super::siphash;
use super::fleet::{Fleet, Outcome, Request, Router, SECOND, SECRET, ours};

const ENGINES: usize = 8;
/// 200,000 tokens for each engine.
const CACHE_BLOCKS: usize = 3_000;

/// Numbers by chance that are the same in every run.
struct Chance(u64);

impl Chance {
    fn below(&mut self, most: u64) -> u64 {
        self.0 += 1;
        siphash::hash(SECRET, self.0, &[9]) % most
    }
}

/// `count` leading blocks that only `prompt` has.
fn blocks(prompt: u64, count: u64) -> Vec<u64> {
    (0..count).map(|at| prompt * 1_000 + at).collect()
}

/// Popular prefixes: the n-th is asked for in proportion to 1/n; each request adds something of its own.
fn zipf(requests: u64) -> Vec<Request> {
    let mut chance = Chance(1);
    let weights: Vec<u64> = (1..=200).map(|rank| 1_000_000 / rank).collect();
    let sum: u64 = weights.iter().sum();
    let mut at = 0;
    let request = |n: u64| {
        at += chance.below(2 * 25_000);
        let mut drawn = chance.below(sum);
        let rank = weights.iter().position(|weight| {
            let is_it = drawn < *weight;
            drawn = drawn.saturating_sub(*weight);
            is_it
        });
        let rank = u64::try_from(rank.expect("drawn below the sum")).expect("small");
        let mut blocks = blocks(rank, 16 + rank % 33);
        blocks.extend((0..1 + chance.below(3)).map(|at| (1 << 40) + n * 10 + at));
        Request { at, blocks, completion: 60 + chance.below(80) }
    };
    (0..requests).map(request).collect()
}

/// Conversations over one system prompt, each turn longer by what was said.
fn sessions(requests: u64) -> Vec<Request> {
    let mut chance = Chance(2);
    let system = blocks(0, 8);
    let mut sessions: Vec<Vec<u64>> = Vec::new();
    let mut at = 0;
    let request = |n: u64| {
        at += chance.below(2 * 30_000);
        let open = u64::try_from(sessions.len()).expect("small");
        let which = chance.below(300);
        let which = if which < open {
            usize::try_from(which).expect("small")
        } else {
            sessions.push(system.clone());
            sessions.len() - 1
        };
        let said = (0..3 + chance.below(4)).map(|at| (1 << 41) + n * 10 + at);
        sessions[which].extend(said);
        let blocks = sessions[which].clone();
        if blocks.len() > 60 {
            sessions[which] = system.clone();
        }
        Request { at, blocks, completion: 100 }
    };
    (0..requests).map(request).collect()
}

/// Nothing is shared.
fn uniform(requests: u64) -> Vec<Request> {
    let mut chance = Chance(3);
    let mut at = 0;
    let request = |n: u64| {
        at += chance.below(2 * 60_000);
        Request { at, blocks: blocks(n + 1_000, 4 + chance.below(24)), completion: 40 + chance.below(120) }
    };
    (0..requests).map(request).collect()
}

/// Every two seconds forty requests at once, all over one long document that is new.
fn bursts(requests: u64) -> Vec<Request> {
    let request = |n: u64| {
        let burst = n / 40;
        let mut blocks = blocks(burst + 10, 40);
        blocks.push((1 << 42) + n);
        Request { at: burst * 2 * SECOND + n % 40, blocks, completion: 60 }
    };
    (0..requests).map(request).collect()
}

fn run(mut router: Router, requests: &[Request]) -> Outcome {
    Fleet::new(ENGINES, CACHE_BLOCKS).run(&mut router, requests)
}

fn oracle(requests: &[Request]) -> Outcome {
    Fleet::new(1, ENGINES * CACHE_BLOCKS).run(&mut Router::Oracle, requests)
}

fn show(load: &str, name: &str, outcome: &Outcome) {
    let (hit, imbalance, first) = (outcome.hit(), outcome.imbalance(), outcome.mean_first() / 1_000);
    println!("{load:9} {name:16} hit {hit:4}‰  busiest/mean {imbalance:5}‰  first token {first:6} ms");
}

/// Ours, round robin, fewest in flight, and the oracle's hit rate.
fn compare(load: &str, requests: &[Request]) -> (Outcome, Outcome, Outcome, u64) {
    let [ours, robin, fewest] =
        [ours(), Router::RoundRobin(0), Router::FewestInFlight].map(|router| run(router, requests));
    for (name, outcome) in [("ours", &ours), ("round robin", &robin), ("fewest in flight", &fewest)] {
        show(load, name, outcome);
    }
    let oracle = oracle(requests).hit();
    println!("{load:9} {:16} hit {oracle:4}‰", "oracle");
    (ours, robin, fewest, oracle)
}

#[test]
fn popular_prefixes_are_hit_as_an_oracle_would_and_no_replica_is_overrun() {
    let (ours, robin, fewest, oracle) = compare("zipf", &zipf(8_000));
    assert!(ours.hit() * 100 >= oracle * 95, "{} of {oracle}", ours.hit());
    assert!(ours.imbalance() <= 1_300, "{}", ours.imbalance());
    assert!(ours.hit() > robin.hit() + 50 && ours.hit() > fewest.hit() + 50);
    assert!(ours.mean_first() < robin.mean_first() && ours.mean_first() < fewest.mean_first());
}

#[test]
fn conversations_stay_where_they_were() {
    let (ours, robin, fewest, oracle) = compare("sessions", &sessions(6_000));
    assert!(ours.hit() * 100 >= oracle * 95, "{} of {oracle}", ours.hit());
    assert!(ours.imbalance() <= 1_300, "{}", ours.imbalance());
    assert!(ours.hit() > robin.hit() + 200 && ours.mean_first() < fewest.mean_first());
}

#[test]
fn prompts_that_share_nothing_are_spread_as_evenly_as_by_load_alone() {
    let (ours, robin, fewest, _) = compare("uniform", &uniform(4_000));
    assert!(ours.imbalance() <= 1_100, "{}", ours.imbalance());
    let [ours, robin, fewest] = [ours, robin, fewest].map(|outcome| outcome.mean_first());
    assert!(ours * 10 <= robin * 11 && ours * 10 <= fewest * 11);
}

#[test]
fn a_burst_over_one_new_document_neither_lands_on_one_replica_nor_on_all() {
    let (ours, robin, fewest, oracle) = compare("bursts", &bursts(2_000));
    // To wait for the document to be computed takes as long as to compute it elsewhere.
    assert!(ours.hit() * 100 >= oracle * 80 && ours.hit() >= robin.hit(), "{} of {oracle}", ours.hit());
    assert!(ours.imbalance() <= 1_300, "{}", ours.imbalance());
    assert!(ours.mean_first() * 10 <= fewest.mean_first() * 11);
}

#[test]
fn a_slow_replica_gets_less_and_the_others_stay_fast() {
    let requests = zipf(6_000);
    let mut router = ours();
    let ours = Fleet::new(ENGINES, CACHE_BLOCKS).slow(3, 4).run(&mut router, &requests);
    let robin = Fleet::new(ENGINES, CACHE_BLOCKS).slow(3, 4).run(&mut Router::RoundRobin(0), &requests);
    show("slow", "ours", &ours);
    show("slow", "round robin", &robin);
    let mean = ours.requests.iter().sum::<u64>() / 8;
    assert!(ours.requests[3] * 2 < mean, "{:?}", ours.requests);
    assert!(ours.mean_first() * 2 < robin.mean_first());
}

#[test]
fn a_replica_that_joins_cold_is_let_in_and_not_flooded() {
    let requests = sessions(6_000);
    let join = 60 * SECOND;
    let mut router = ours();
    let before = |second: u64| -> Vec<Request> {
        requests.iter().filter(|request| request.at < join + second * SECOND).cloned().collect()
    };
    let share = |router: &mut Router, requests: &[Request]| {
        let outcome = Fleet::new(ENGINES, CACHE_BLOCKS).joins(7, join).run(router, requests);
        let begun = u64::try_from(requests.iter().filter(|request| request.at >= join).count()).expect("small");
        (outcome.requests[7] * 1_000 / begun.max(1), outcome)
    };
    let (first, _) = share(&mut router, &before(5));
    let (later, outcome) = share(&mut ours(), &requests);
    show("joining", "ours", &outcome);
    println!("joining   share in the first 5 s {first}‰, in all {later}‰");
    assert!(first <= 400, "flooded: {first}‰ of the requests");
    assert!((60..=200).contains(&later), "an eighth is 125‰, it has {later}‰");
    assert!(outcome.hit() * 100 >= oracle(&requests).hit() * 93, "the others keep their conversations");
}

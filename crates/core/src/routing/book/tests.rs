use galerne_model::ids::TenantId;
use galerne_model::snapshot::ReplicaEnergy;
use proptest::prelude::*;
use uuid::Uuid;

use super::super::BreakerState;
use super::*;

const SECRET: Secret = Secret([1, 2]);
const COUNTS: Counts = Counts { prompt: 1_000, cached: 0, completion: 100 };

fn id(n: u128) -> ReplicaId {
    ReplicaId::from_uuid(Uuid::from_u128(n))
}

fn ready(count: u128) -> Vec<ReplicaEntry> {
    (1..=count)
        .map(|n| ReplicaEntry {
            id: id(n),
            url: String::new(),
            energy: ReplicaEnergy::Unknown,
            kv_events: None,
            is_metered: false,
            seats: None,
        })
        .collect()
}

fn endpoint() -> EndpointId {
    EndpointId::from_uuid(Uuid::from_u128(50))
}

fn at(ms: i64) -> Timestamp {
    Timestamp::from_millisecond(1_780_000_000_000 + ms).expect("in range")
}

/// A minute later: nobody is new any more.
const LATER: i64 = 60_000;

fn text(seed: u8, blocks: usize) -> Prompt {
    let tenant_id = TenantId::from_uuid(Uuid::from_u128(60));
    Prompt::new(SECRET, tenant_id, endpoint(), &[&vec![seed; blocks * prompt::BLOCK_BYTES]])
}

struct Desk {
    book: ReplicaBook,
    ready: Vec<ReplicaEntry>,
    chance: u64,
}

impl Desk {
    fn new(count: u128) -> Self {
        let mut desk = Self { book: ReplicaBook::new(SECRET, 1 << 20), ready: ready(count), chance: 0 };
        desk.book.judge(endpoint(), &desk.ready, at(0));
        desk
    }

    fn choose(&mut self, prompt: &Prompt, ms: i64) -> Seat {
        self.chance += 1;
        let wanted = Wanted { endpoint_id: endpoint(), prompt };
        self.book.choose(&wanted, &self.ready, &[], self.chance, at(ms)).expect("one is ready")
    }

    fn fail(&mut self, n: u128, ms: i64) {
        let wanted = Wanted { endpoint_id: endpoint(), prompt: &Prompt::default() };
        let only: Vec<ReplicaEntry> = self.ready.iter().filter(|entry| entry.id == id(n)).cloned().collect();
        let seat = self.book.choose(&wanted, &only, &[], 0, at(ms)).expect("one is ready");
        self.book.release(seat, Ending::ConnectFailed, None, at(ms));
    }

    fn state(&mut self, n: u128, ms: i64) -> BreakerState {
        let wanted = Wanted { endpoint_id: endpoint(), prompt: &Prompt::default() };
        let (all, _) = self.book.explain(&wanted, &self.ready, 0, at(ms));
        all.iter().find(|one| one.replica_id == id(n)).expect("listed").state
    }
}

#[test]
fn equals_take_turns_and_work_counts_from_the_choice_on() {
    let mut desk = Desk::new(3);
    let seats: Vec<Seat> = (0..6).map(|n| desk.choose(&text(n, 8), LATER)).collect();
    for n in 1..=3 {
        assert_eq!(desk.book.in_flight(id(n)), 2, "no answer had begun");
        assert!(desk.book.prompt_tokens(id(n)) >= 2 * 500);
    }
    for seat in seats {
        desk.book.release(seat, Ending::Cancelled, None, at(LATER));
    }
    for n in 1..=3 {
        assert_eq!((desk.book.in_flight(id(n)), desk.book.prompt_tokens(id(n))), (0, 0));
    }
    let wanted = Wanted { endpoint_id: endpoint(), prompt: &Prompt::default() };
    assert!(desk.book.choose(&wanted, &[], &[], 0, at(LATER)).is_none());
}

#[test]
fn a_prompt_goes_where_its_beginning_was_also_when_others_have_less_to_do() {
    let mut desk = Desk::new(4);
    let long = text(1, 40);
    let first = desk.choose(&long, LATER);
    let home = first.replica();
    desk.book.release(first, Ending::Answered, Some(COUNTS), at(LATER + 200));
    // One request there and none elsewhere: shorter queues do not throw affinity away.
    let held = desk.choose(&long, LATER + 300);
    assert_eq!(held.replica(), home);
    let second = desk.choose(&long, LATER + 300);
    assert_eq!(second.replica(), home, "the window and the work saved outweigh one sequence");
    assert!(second.predicted() > 900);
    // Yet not for ever: who queues there long enough is better served elsewhere.
    let mut seats = vec![held, second];
    while seats.last().is_some_and(|seat| seat.replica() == home) {
        assert!(seats.len() < 40, "all went to one replica");
        seats.push(desk.choose(&long, LATER + 300));
    }
    for seat in seats {
        desk.book.release(seat, Ending::Answered, Some(COUNTS), at(LATER + 400));
    }
}

#[test]
fn what_is_new_goes_to_the_one_with_least_to_do_not_to_the_emptiest_cache() {
    let mut desk = Desk::new(2);
    // Replica 1 has seen a lot and is idle; replica 2 has seen nothing and is busy.
    desk.ready = ready(2).into_iter().filter(|entry| entry.id == id(1)).collect();
    for n in 0..20 {
        let seat = desk.choose(&text(n, 20), LATER);
        desk.book.release(seat, Ending::Answered, Some(COUNTS), at(LATER + 100));
    }
    desk.ready = ready(2).into_iter().filter(|entry| entry.id == id(2)).collect();
    let busy =
        [desk.choose(&Prompt::of_length(200_000), LATER + 100), desk.choose(&Prompt::of_length(200_000), LATER + 100)];
    desk.ready = ready(2);
    for n in 100..120 {
        let seat = desk.choose(&text(n, 20), LATER + 200);
        assert_eq!(seat.replica(), id(1));
        desk.book.release(seat, Ending::Answered, Some(COUNTS), at(LATER + 300));
    }
    for seat in busy {
        desk.book.release(seat, Ending::Cancelled, None, at(LATER + 300));
    }
}

#[test]
fn arrivals_between_two_reports_do_not_land_on_one_replica() {
    let mut desk = Desk::new(4);
    let idle = Report { running: 0, waiting: 0, kv_thousandths: Some(100), decoded: None };
    let busy = Report { running: 6, waiting: 2, ..idle };
    for n in 1..=4 {
        desk.book.report(id(n), if n == 1 { idle } else { busy }, at(LATER));
    }
    let seats: Vec<Seat> = (0..24).map(|n| desk.choose(&text(n, 6), LATER + 10)).collect();
    assert_eq!(seats[0].replica(), id(1), "the one that reported least is first");
    let on_first = seats.iter().filter(|seat| seat.replica() == id(1)).count();
    assert!((8..=16).contains(&on_first), "{on_first} of 24");
    // What is ours in a report is not counted twice.
    desk.book.report(id(1), Report { running: 20, ..idle }, at(LATER + 20));
    let wanted = Wanted { endpoint_id: endpoint(), prompt: &Prompt::default() };
    let (all, _) = desk.book.explain(&wanted, &ready(4), 0, at(LATER + 20));
    assert_eq!(u64::from(all[0].load.others) + u64::from(all[0].load.in_flight), 20);
    let (stale, _) = desk.book.explain(&wanted, &ready(4), 0, at(LATER + 20_000));
    assert_eq!(stale[0].load.others, 0, "an old report says nothing");
    for seat in seats {
        desk.book.release(seat, Ending::Cancelled, None, at(LATER + 30));
    }
}

#[test]
fn a_nearly_full_kv_cache_is_a_wall() {
    let mut desk = Desk::new(2);
    let report = |kv| Report { running: 1, waiting: 0, kv_thousandths: Some(kv), decoded: None };
    desk.book.report(id(1), report(990), at(LATER));
    desk.book.report(id(2), Report { running: 3, ..report(300) }, at(LATER));
    let seat = desk.choose(&text(1, 4), LATER);
    assert_eq!(seat.replica(), id(2));
    desk.book.release(seat, Ending::Cancelled, None, at(LATER));
}

#[test]
fn a_choice_looks_at_eight_of_a_thousand_and_still_finds_the_prefix() {
    let mut desk = Desk::new(1_024);
    let long = text(1, 40);
    let first = desk.choose(&long, LATER);
    let home = first.replica();
    desk.book.release(first, Ending::Answered, Some(COUNTS), at(LATER + 100));
    let wanted = Wanted { endpoint_id: endpoint(), prompt: &long };
    for chance in 0..40 {
        let (all, chosen) = desk.book.explain(&wanted, &desk.ready, chance, at(LATER + 200));
        assert_eq!(all.iter().filter(|one| one.compared).count(), SAMPLE, "chance {chance}");
        assert_eq!(chosen.map(|at| all[at].replica_id), Some(home));
    }
    let mut chosen = BTreeSet::new();
    for n in 0..100 {
        let seat = desk.choose(&text(n, 0), LATER + 300);
        chosen.insert(seat.replica());
        desk.book.release(seat, Ending::Cancelled, None, at(LATER + 300));
    }
    assert!(chosen.len() > 60, "chance spreads what shares nothing: {}", chosen.len());
}

#[test]
fn a_failed_replica_is_avoided_unless_it_is_the_only_one() {
    let mut desk = Desk::new(2);
    let busy = (0..3).map(|_| desk.choose(&Prompt::of_length(40_000), LATER)).collect::<Vec<_>>();
    let prompt = Prompt::default();
    let wanted = Wanted { endpoint_id: endpoint(), prompt: &prompt };
    for n in 1..=2 {
        let seat = desk.book.choose(&wanted, &desk.ready, &[id(n)], 0, at(LATER)).expect("ready");
        assert_eq!(seat.replica(), id(3 - n));
        desk.book.release(seat, Ending::Cancelled, None, at(LATER));
    }
    let seat = desk.book.choose(&wanted, &desk.ready[..1], &[id(1)], 0, at(LATER)).expect("ready");
    assert_eq!(seat.replica(), id(1));
    for seat in busy.into_iter().chain([seat]) {
        desk.book.release(seat, Ending::Cancelled, None, at(LATER));
    }
}

#[test]
fn an_open_breaker_gets_nothing_then_one_trial_and_an_answer_closes_it() {
    let mut desk = Desk::new(2);
    for _ in 0..3 {
        desk.fail(1, LATER);
    }
    assert_eq!(desk.state(1, LATER), BreakerState::Open);
    let seats: Vec<Seat> = (0..5).map(|n| desk.choose(&text(n, 4), LATER + 500)).collect();
    assert!(seats.iter().all(|seat| seat.replica() == id(2)));
    let trial = desk.choose(&text(9, 4), LATER + 1_000);
    assert_eq!((trial.replica(), desk.state(1, LATER + 1_000)), (id(1), BreakerState::Trying));
    let other = desk.choose(&text(10, 4), LATER + 1_000);
    assert_eq!(other.replica(), id(2), "one at a time");
    desk.book.release(trial, Ending::Answered, None, at(LATER + 1_100));
    assert_eq!(desk.state(1, LATER + 1_100), BreakerState::Closed);
    for _ in 0..3 {
        desk.fail(1, LATER + 2_000);
        desk.fail(2, LATER + 2_500);
    }
    let guess = desk.choose(&Prompt::default(), LATER + 2_600);
    assert_eq!(guess.replica(), id(1), "when all rest, the one whose rest ends first is tried");
    for seat in seats.into_iter().chain([guess, other]) {
        desk.book.release(seat, Ending::Cancelled, None, at(LATER + 3_000));
    }
}

#[test]
fn a_trial_that_begins_to_answer_brings_its_replica_back() {
    let mut desk = Desk::new(2);
    for _ in 0..3 {
        desk.fail(1, LATER);
    }
    let held: Vec<Seat> = (0..5).map(|n| desk.choose(&text(n, 4), LATER + 500)).collect();
    let mut trial = desk.choose(&text(9, 4), LATER + 1_000);
    assert_eq!((trial.replica(), desk.state(1, LATER + 1_000)), (id(1), BreakerState::Trying));
    desk.book.first_token(&mut trial, at(LATER + 1_200));
    assert_eq!(desk.state(1, LATER + 1_200), BreakerState::Closed, "its answer may take minutes");
    desk.book.release(trial, Ending::Broken, None, at(LATER + 60_000));
    assert_eq!(desk.state(1, LATER + 60_000), BreakerState::Closed, "one failure is none");
    for seat in held {
        desk.book.release(seat, Ending::Cancelled, None, at(LATER + 60_000));
    }
}

#[test]
fn a_replica_that_fails_far_more_than_the_others_is_set_aside() {
    let mut desk = Desk::new(3);
    for n in 0..40 {
        for replica in 1..=3u128 {
            desk.ready = ready(3).into_iter().filter(|entry| entry.id == id(replica)).collect();
            let seat = desk.choose(&Prompt::default(), LATER);
            // Every other one: never three in a row, so that no breaker opens.
            let ending = if replica == 2 && n % 2 == 0 { Ending::ServerError(500) } else { Ending::Answered };
            desk.book.release(seat, ending, None, at(LATER));
        }
    }
    desk.ready = ready(3);
    assert_eq!(desk.state(2, LATER), BreakerState::Closed);
    let aside = desk.book.judge(endpoint(), &ready(3), at(LATER));
    assert_eq!(aside, [(id(2), at(LATER + 30_000))]);
    assert_eq!(desk.state(2, LATER), BreakerState::Aside);
    assert_eq!(desk.book.judge(endpoint(), &ready(3), at(LATER)), []);
    assert_eq!(desk.state(2, LATER + 30_000), BreakerState::Closed);
}

#[test]
fn another_process_in_a_replicas_place_has_none_of_its_past() {
    let mut desk = Desk::new(2);
    let long = text(1, 40);
    let seat = desk.choose(&long, LATER);
    let home = seat.replica();
    desk.book.release(seat, Ending::Answered, Some(COUNTS), at(LATER));
    desk.book.restarted(home, at(LATER));
    let seat = desk.choose(&long, LATER + 100);
    assert_eq!(seat.predicted(), 0);
    assert_ne!(seat.replica(), home, "it is new, so it is let in slowly");
    desk.book.release(seat, Ending::Cancelled, None, at(LATER + 100));
    desk.book.keep_only(&BTreeSet::new(), &BTreeSet::new());
    assert_eq!(desk.book.in_flight(home), 0);
}

fn stored(hashes: &[u64], parent: Option<u64>, first: u32) -> KvEvent {
    let count = u32::try_from(hashes.len()).expect("small") * 16;
    KvEvent::Stored { hashes: hashes.to_vec(), parent, tokens: (first..first + count).collect(), block_tokens: 16 }
}

#[test]
fn what_an_engine_tells_replaces_what_was_predicted_of_it() {
    let mut desk = Desk::new(2);
    let long = text(1, 8);
    // Predicted for both; then 1 speaks for itself and has half of it.
    for n in 1..=2 {
        desk.ready = ready(2).into_iter().filter(|entry| entry.id == id(n)).collect();
        let seat = desk.choose(&long, LATER);
        desk.book.release(seat, Ending::Cancelled, None, at(LATER));
    }
    desk.ready = ready(2);
    let hashes: Vec<u64> = (1..=32).collect();
    desk.book.told(endpoint(), id(1), &stored(&hashes[..8], None, 0), at(LATER));
    desk.book.told(endpoint(), id(1), &stored(&hashes[8..16], Some(8), 128), at(LATER));
    desk.book.told(endpoint(), id(1), &stored(&hashes[20..24], Some(99), 900), at(LATER));
    assert_eq!(desk.book.wants_tokens(id(1), &long, at(LATER)), Some(16));
    assert_eq!(desk.book.wants_tokens(id(2), &long, at(LATER)), None, "it tells nothing");
    desk.book.learn_tokens(endpoint(), &long, &(0..512).collect::<Vec<u32>>(), 16, at(LATER));
    assert_eq!(desk.book.wants_tokens(id(1), &long, at(LATER)), None, "once is enough");
    let had = |desk: &mut Desk| {
        let wanted = Wanted { endpoint_id: endpoint(), prompt: &long };
        let (all, _) = desk.book.explain(&wanted, &ready(2), 0, at(LATER));
        [all[0].cached_blocks, all[1].cached_blocks]
    };
    assert_eq!(had(&mut desk), [4, 8], "16 blocks of 16 tokens are 4 of 64");
    desk.book.told(endpoint(), id(1), &KvEvent::Removed { hashes: vec![16, 15, 14, 13, 77] }, at(LATER));
    assert_eq!(had(&mut desk), [3, 8]);
    desk.book.told(endpoint(), id(1), &KvEvent::Cleared, at(LATER));
    assert_eq!(had(&mut desk), [0, 8]);
    desk.book.untold(id(1));
    assert_eq!(had(&mut desk), [8, 8], "deaf, the gateway predicts again");
}

proptest! {
    #[test]
    fn seats_and_their_tokens_are_given_back_whatever_happens(steps in proptest::collection::vec((0u8..6, 0usize..8, 1u8..5), 1..200)) {
        let mut desk = Desk::new(4);
        let mut seats: Vec<Seat> = Vec::new();
        for (ms, (what, which, seed)) in (LATER..).zip(steps) {
            if which < seats.len() && what > 0 {
                let ending = match what {
                    1 => { desk.book.first_token(&mut seats[which], at(ms)); continue }
                    2 => Ending::Answered,
                    3 => Ending::Broken,
                    4 => Ending::Cancelled,
                    _ => Ending::Busy,
                };
                desk.book.release(seats.swap_remove(which), ending, Some(COUNTS), at(ms));
            } else {
                seats.push(desk.choose(&text(seed, usize::from(seed)), ms));
            }
            let in_flight: u32 = (1..=4).map(|n| desk.book.in_flight(id(n))).sum();
            prop_assert_eq!(usize::try_from(in_flight), Ok(seats.len()));
        }
        for seat in seats {
            desk.book.release(seat, Ending::Cancelled, None, at(LATER));
        }
        prop_assert!((1..=4).all(|n| desk.book.in_flight(id(n)) == 0 && desk.book.prompt_tokens(id(n)) == 0));
    }
}

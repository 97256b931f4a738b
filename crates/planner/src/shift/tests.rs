use super::certificate::{Flaw, check};
use super::flow::{Problem, Work};
use super::rolling::{Rolling, Task};
use super::safety::{Remaining, is_safe};
use super::{Deferrable, Pauses, Running, holds};
use crate::event::Forecast;
use crate::units::{At, RequestId};

/// SplitMix64.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> i64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        i64::try_from((z ^ (z >> 31)) % bound).unwrap()
    }

    fn index(&mut self, bound: u64) -> usize {
        usize::try_from(self.below(bound)).unwrap()
    }
}

struct Small {
    cost: Vec<i64>,
    capacity: Vec<i64>,
    work: Vec<Work>,
}

impl Small {
    fn random(random: &mut Random, hours: u64, works: u64, most: u64) -> Self {
        let cost = (0..hours).map(|_| random.below(6)).collect();
        let capacity = (0..hours).map(|_| random.below(4)).collect();
        let count = random.below(works) + 1;
        let work = (0..count).map(|_| {
            let from = random.index(hours);
            let until = from + random.index(hours + 2);
            Work { from, until, demand: random.below(most), width: random.below(3) }
        });
        Self { cost, capacity, work: work.collect() }
    }

    fn problem(&self) -> Problem<'_> {
        Problem { cost: &self.cost, capacity: &self.capacity, work: &self.work }
    }

    /// Least missed, then least cost, by trying everything.
    fn brute_force(&self) -> (i64, i64) {
        let total: i64 = self.work.iter().map(|work| work.demand).sum();
        let (served, cost) = self.try_all(0, 0, 0, &mut self.capacity.clone());
        (total - served, cost)
    }

    fn try_all(&self, number: usize, skip: usize, given: i64, room: &mut Vec<i64>) -> (i64, i64) {
        let Some(work) = self.work.get(number) else { return (0, 0) };
        let hour = work.from + skip;
        if hour >= work.until.min(self.cost.len()) {
            return self.try_all(number + 1, 0, 0, room);
        }
        let most = work.width.min(work.demand - given).min(room[hour]);
        let each = (0..=most).map(|units| {
            room[hour] -= units;
            let (served, cost) = self.try_all(number, skip + 1, given + units, room);
            room[hour] += units;
            (served + units, cost + units * self.cost[hour])
        });
        each.min_by_key(|&(served, cost)| (-served, cost)).unwrap()
    }
}

#[test]
fn a_spread_is_as_good_as_trying_everything() {
    let mut random = Random(1);
    let mut with_misses = 0;
    for case in 0..600 {
        let small = Small::random(&mut random, 5, 3, 5);
        let proof = check(&small.problem(), &small.problem().spread()).unwrap_or_else(|flaw| panic!("{case}: {flaw}"));
        assert_eq!((proof.missed, proof.cost), small.brute_force(), "case {case}");
        with_misses += usize::from(proof.missed > 0);
    }
    assert!((100..500).contains(&with_misses), "both kinds must occur, not {with_misses} of 600");
}

#[test]
fn every_spread_of_longer_windows_is_proved_by_its_prices() {
    let mut random = Random(2);
    for case in 0..200 {
        let small = Small::random(&mut random, 150, 60, 30);
        let spread = small.problem().spread();
        let proof = check(&small.problem(), &spread).unwrap_or_else(|flaw| panic!("{case}: {flaw}"));
        assert_eq!((proof.missed, proof.cost), (spread.missed_total(), spread.cost));
        assert_eq!(small.problem().served().units, spread.units);
    }
}

#[test]
fn a_plan_that_was_tampered_with_is_not_proved() {
    let work = [Work { from: 0, until: 4, demand: 2, width: 1 }, Work { from: 1, until: 3, demand: 2, width: 1 }];
    let problem = Problem { cost: &[5, 1, 2, 9], capacity: &[1, 1, 1, 1], work: &work };
    let spread = problem.spread();
    assert_eq!(check(&problem, &spread).unwrap().cost, 17);

    let mut unpriced = problem.spread();
    unpriced.price.fill(0);
    assert_eq!(check(&problem, &unpriced), Err(Flaw::Gap { primal: 17, dual: 6 }));
    let mut negative = problem.spread();
    negative.price[3] = -1;
    assert_eq!(check(&problem, &negative), Err(Flaw::Price { hour: 3 }));
    let mut missing = problem.spread();
    let place = missing.units.iter().position(|&units| units > 0).unwrap();
    missing.units[place] = 0;
    missing.cost -= 5;
    assert_eq!(check(&problem, &missing), Err(Flaw::Demand { work: 0 }));
    missing.missed[0] = 1;
    assert!(matches!(check(&problem, &missing), Err(Flaw::Gap { .. })));
    let mut wide = problem.spread();
    wide.units[0] = 2;
    assert_eq!(check(&problem, &wide), Err(Flaw::Width { work: 0, hour: 0 }));
    let full = Problem { capacity: &[1, 0, 1, 1], ..problem };
    assert_eq!(check(&full, &spread), Err(Flaw::Capacity { hour: 1, load: 1, capacity: 0 }));
    let mut cheaper = problem.spread();
    cheaper.cost -= 1;
    assert_eq!(check(&problem, &cheaper), Err(Flaw::Cost { said: 16, cost: 17 }));
}

#[test]
fn the_density_test_agrees_with_the_flow() {
    let mut random = Random(3);
    let mut safe = 0;
    for case in 0..2000 {
        let capacity = random.below(4);
        let count = random.below(6);
        let work: Vec<Remaining> = (0..count)
            .map(|_| Remaining { hours: random.below(5), window: random.below(8), width: 1 + random.below(2) })
            .collect();
        let as_work = |one: &Remaining| Work {
            from: 0,
            until: usize::try_from(one.window).unwrap(),
            demand: one.hours * one.width,
            width: one.width,
        };
        let flow: Vec<Work> = work.iter().map(as_work).collect();
        let problem = Problem { cost: &[0; 8], capacity: &[capacity; 8], work: &flow };
        assert_eq!(
            is_safe(&work, capacity),
            problem.served().missed_total() == 0,
            "case {case}: {work:?} on {capacity}"
        );
        safe += usize::from(is_safe(&work, capacity));
    }
    assert!((200..1800).contains(&safe), "both answers must occur, not {safe} of 2000");
}

/// Runs a list of (arrival, task) and returns what was missed and the cost.
fn replay(tasks: &[(usize, Task)], cost: &[i64], capacity: i64) -> (i64, i64) {
    let mut rolling = Rolling::new(0);
    let mut spent = 0;
    for now in 0..cost.len() {
        for (_, task) in tasks.iter().filter(|(arrival, _)| *arrival == now) {
            rolling.arrive(*task);
        }
        let running = rolling.run(&cost[now..], capacity);
        assert!(i64::try_from(running.len()).unwrap() <= capacity);
        spent += cost[now] * i64::try_from(running.len()).unwrap();
    }
    (rolling.missed(), spent)
}

#[test]
fn work_that_is_all_known_is_never_put_off_too_long() {
    let mut random = Random(4);
    for case in 0..60 {
        let cost: Vec<i64> = (0..60).map(|_| random.below(100)).collect();
        let capacity = 1 + random.below(4);
        let mut tasks: Vec<(usize, Task)> = Vec::new();
        for number in 0..12 {
            let task = Task { number, hours: 1 + random.below(12), deadline: 30 + random.index(30), width: 1 };
            let left = |task: &Task| Remaining {
                hours: task.hours,
                window: i64::try_from(task.deadline).unwrap() - 26,
                width: 1,
            };
            let all: Vec<Remaining> = tasks.iter().map(|(_, task)| left(task)).chain([left(&task)]).collect();
            if is_safe(&all, capacity) {
                tasks.push((26, task));
            }
        }
        assert_eq!(replay(&tasks, &cost, capacity).0, 0, "case {case}");
    }
}

#[test]
fn weeks_that_repeat_leave_room_for_what_is_to_come() {
    // Long work arrives early in the week and could wait for the cheap last hours, which short work will need.
    let mut tasks = Vec::new();
    for week in 0..4_usize {
        let begin = week * 168;
        tasks.push((begin + 1, Task { number: 10, hours: 20, deadline: begin + 100, width: 1 }));
        tasks.push((begin + 79, Task { number: 11, hours: 20, deadline: begin + 100, width: 1 }));
    }
    let cost: Vec<i64> = (0..4 * 168).map(|hour| if hour % 168 >= 79 { 1 } else { 10 }).collect();
    let (missed, _) = replay(&tasks, &cost, 1);
    // The first week teaches: nothing could have known.
    assert!(missed <= 19, "{missed} missed: not only in the first week");
}

#[test]
fn a_task_due_before_it_came_is_counted_as_missed() {
    let mut rolling = Rolling::new(10);
    rolling.arrive(Task { number: 1, hours: 3, deadline: 9, width: 2 });
    assert_eq!(rolling.run(&[1], 4), Vec::<u64>::new());
    assert_eq!(rolling.missed(), 6);
}

const HOUR: u32 = 3600;

fn forecast(cost: &[u32], gpus: i64) -> Forecast {
    Forecast { from: At(0), step_seconds: HOUR, cost: cost.to_vec(), gpu_milli: vec![gpus * 1000] }
}

fn request(number: u64, gpus: i64, hours: u32, deadline_hour: i64) -> Deferrable {
    Deferrable {
        request: RequestId(number),
        gpu_milli: gpus * 1000,
        run_seconds: hours * HOUR,
        not_before: None,
        deadline: At(deadline_hour * 3600),
        pauses: Pauses::Never,
    }
}

/// Request numbers with the hour each waits for.
fn hours_of(shift: &super::Shift) -> Vec<(u64, i64)> {
    shift.holds.iter().map(|hold| (hold.request.0, hold.until.0 / 3600)).collect()
}

#[test]
fn a_request_waits_for_the_cheapest_whole_run_before_its_deadline() {
    let shift = holds(&forecast(&[9, 9, 1, 8, 3, 3, 9, 0], 8), &[request(1, 8, 2, 7)], &[], At(600));
    assert_eq!(hours_of(&shift), [(1, 4)]);
    assert_eq!(shift.soft_cap, [0, 0, 0, 0, 8000, 8000, 0, 0]);
    assert_eq!(shift.valid_until, At(3600));
}

#[test]
fn a_request_that_may_pause_waits_for_its_first_cheap_hour() {
    let asked = Deferrable { pauses: Pauses::AtSteps, ..request(1, 8, 2, 7) };
    let shift = holds(&forecast(&[9, 9, 1, 8, 3, 4, 9, 0], 8), &[asked], &[], At(0));
    assert_eq!(hours_of(&shift), [(1, 2)]);
    assert_eq!(shift.soft_cap, [0, 0, 8000, 0, 8000, 0, 0, 0]);
}

#[test]
fn nobody_waits_who_could_then_be_late() {
    let costs = forecast(&[9, 1, 1, 1], 8);
    assert_eq!(hours_of(&holds(&costs, &[request(1, 8, 3, 3)], &[], At(0))), []);
    // A run of three hours that begins ten minutes into the first is not done in time: no wait makes it worse.
    assert_eq!(hours_of(&holds(&costs, &[request(1, 8, 3, 3)], &[], At(600))), []);
    // Both need all there is for two hours: one goes now, though it is dear.
    let both = holds(&costs, &[request(1, 8, 2, 4), request(2, 8, 2, 4)], &[], At(0));
    assert_eq!(hours_of(&both), [(2, 2)]);
    // What runs already has its room.
    let behind = holds(&costs, &[request(1, 8, 2, 4)], &[Running { gpu_milli: 4000, ends_at: At(7200) }], At(0));
    assert_eq!(hours_of(&behind), [(1, 2)]);
    let never = holds(&costs, &[request(1, 8, 2, 4)], &[Running { gpu_milli: 4000, ends_at: At::NEVER }], At(0));
    assert_eq!(hours_of(&never), []);
}

#[test]
fn a_forecast_that_says_nothing_about_now_holds_nobody() {
    let asked = [request(1, 8, 1, 9)];
    assert_eq!(holds(&Forecast::default(), &asked, &[], At(0)).holds, []);
    assert_eq!(holds(&forecast(&[3, 2, 1], 8), &asked, &[], At(-1)).holds, []);
    assert_eq!(holds(&forecast(&[3, 2, 1], 8), &asked, &[], At(3 * 3600)).holds, []);
}

#[test]
fn an_answer_holds_until_somebody_may_begin_or_a_forecast_does() {
    let costs = forecast(&[9, 1, 5, 5], 8);
    let asked = [Deferrable { not_before: Some(At(1000)), ..request(1, 8, 1, 4) }, request(2, 8, 1, 4)];
    assert_eq!(holds(&costs, &asked, &[], At(600)).valid_until, At(1000), "in the middle of the hour");
    assert_eq!(holds(&costs, &asked, &[], At(1000)).valid_until, At(3600));
    assert_eq!(holds(&costs, &asked, &[], At(-5)).valid_until, At(0));
    assert_eq!(holds(&costs, &asked, &[], At(4 * 3600)).valid_until, At::NEVER);
}

#[test]
fn holds_always_leave_a_schedule_that_keeps_every_deadline() {
    let mut random = Random(5);
    for case in 0..200 {
        let costs: Vec<u32> = (0..48).map(|_| u32::try_from(random.below(100)).unwrap()).collect();
        let count = 1 + random.below(40);
        let mut asked = Vec::new();
        for number in 0..u64::try_from(count).unwrap() {
            let hours = u32::try_from(1 + random.below(10)).unwrap();
            let pauses = if random.below(2) == 0 { Pauses::Never } else { Pauses::AtSteps };
            asked.push(Deferrable { pauses, ..request(number, 1 + random.below(8), hours, 1 + random.below(60)) });
        }
        let shift = holds(&forecast(&costs, 16), &asked, &[], At(1800));
        assert!(shift.soft_cap.iter().all(|&used| used <= 16_000), "case {case}: {:?}", shift.soft_cap);
        for hold in &shift.holds {
            let request = asked.iter().find(|one| one.request == hold.request).unwrap();
            assert!(hold.until.plus(i64::from(request.run_seconds)) <= request.deadline, "case {case}: {hold:?}");
        }
        let again = holds(&forecast(&costs, 16), &asked.iter().rev().copied().collect::<Vec<_>>(), &[], At(1800));
        assert_eq!(shift, again, "case {case}: the order of requests matters");
    }
}

//! Transcripts of real situations, and proof that every step in them helps.

mod random;
mod scene;
mod scenes;
mod truth;

use std::path::{Path, PathBuf};

use crate::reason::{ADVISED, Awaited, Cause, Mark, Next, Step, Why};
use crate::request::Shape;
use scene::{BOXES, HOUR, NOW, Scene, WHOLE, request};

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/why")
}

fn all() -> Vec<(String, Scene)> {
    let numbered = scenes::all().into_iter().enumerate();
    numbered.map(|(at, (name, scene))| (format!("{:02}-{name}", at + 1), scene)).collect()
}

/// Run with `GALERNE_UPDATE=1` the files are written instead; the reviewer reads the difference.
#[test]
#[allow(
    clippy::disallowed_methods,
    reason = "a test reads its transcripts, and writes them where its environment asks"
)]
fn every_transcript_is_what_a_user_would_read() {
    let is_update = std::env::var_os("GALERNE_UPDATE").is_some();
    let mut stale = Vec::new();
    for (name, scene) in all() {
        let path = folder().join(format!("{name}.txt"));
        let made = scene.transcript();
        if is_update {
            std::fs::create_dir_all(folder()).unwrap();
            std::fs::write(&path, &made).unwrap();
        }
        let kept = std::fs::read_to_string(&path).unwrap_or_default();
        if kept != made {
            stale.push(format!("{name}\n--- kept\n{kept}--- made\n{made}"));
        }
    }
    assert!(stale.is_empty(), "run `GALERNE_UPDATE=1 cargo test -p galerne-planner why`:\n{}", stale.join("\n"));
}

#[test]
fn no_transcript_is_left_over() {
    let names: Vec<String> = all().into_iter().map(|(name, _)| format!("{name}.txt")).collect();
    for file in std::fs::read_dir(folder()).unwrap() {
        let file = file.unwrap().file_name().into_string().unwrap();
        assert!(names.contains(&file), "no scene makes {file}");
    }
}

#[test]
fn every_step_of_every_transcript_helps() {
    let mut wrong = Vec::new();
    for (name, scene) in all() {
        let why = scene.why();
        for next in truth::steps(&why) {
            if let Err(text) = truth::check(&scene, &why, &next) {
                wrong.push(format!("{name}: {next:?}: {text}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn the_parts_of_a_node_count_add_up() {
    for (name, scene) in all() {
        truth::check_sums(&name, &scene.why());
    }
}

/// Small fleets with much drawn at random: what stands in no transcript.
#[test]
fn every_step_helps_whatever_the_fleet() {
    let mut tried = 0;
    for (seed, scene) in sites().enumerate() {
        let (planner, plan) = scene.planned();
        for (id, reason) in random::first_in_line(&plan) {
            let why = &plan.reasons[reason as usize];
            truth::check_sums(&format!("site {seed}"), why);
            for next in truth::steps(why) {
                tried += 1;
                let (mut alone, mut only) = (planner.clone(), plan.clone());
                random::withdraw_others(&mut alone, &mut only, id);
                let request = scene.request_of(id);
                let checked = truth::check_in(alone, &only, request.clone(), why, &next);
                if let Err(text) = checked.or_else(|text| if text == truth::OTHERS { Ok(()) } else { Err(text) }) {
                    panic!("site {seed}, {next:?}: {text}\nof {request:#?}\n{why:#?}");
                }
            }
        }
    }
    assert!(tried > 20, "{tried} steps are tried");
}

/// A request asked about alone has the tree that a plan has for it, be it after the plan or after a step.
#[test]
fn one_request_is_told_what_a_plan_tells() {
    let mut told = 0;
    for (seed, scene) in sites().enumerate() {
        let (mut planner, plan) = scene.planned();
        let mut stepped = scene.told();
        stepped.step(NOW);
        for (request, reason) in &plan.waiting {
            let why = Some(&plan.reasons[*reason as usize]);
            assert_eq!(planner.why(*request, NOW).as_ref(), why, "site {seed}, {request:?}, after a plan");
            assert_eq!(stepped.why(*request, NOW).as_ref(), why, "site {seed}, {request:?}, after a step");
            assert!(why.is_some_and(|why| why.obstacles().next().is_some()), "site {seed}, {request:?}: {why:#?}");
            told += 1;
        }
        for placement in &plan.placements {
            assert_eq!(planner.why(placement.request, NOW), None, "site {seed}: it starts");
        }
    }
    assert!(told > 60, "{told} are asked about");
}

/// A step tells what is in the way as a plan does, and leaves what would help to be asked for.
#[test]
fn a_step_tells_the_obstacles_of_a_plan() {
    let mut told = 0;
    for (seed, scene) in sites().enumerate() {
        let plan = scene.planned().1;
        let step = scene.told().tick(NOW);
        assert_eq!(step.waiting.len(), plan.waiting.len(), "site {seed}: all are new");
        for (request, reason) in &step.waiting {
            let why = &step.reasons[*reason as usize];
            let planned = scene::find(&plan, *request).unwrap();
            assert_eq!(*why, without_advice(planned), "site {seed}, {request:?}");
            told += why.obstacles().count();
        }
    }
    assert!(told > 60, "{told} obstacles are told");
}

/// What is found by looking for steps: the steps, and what is said of ends and gaps after it.
fn without_advice(mut why: Why) -> Why {
    let waits_to_begin = |next: &Next| matches!(next.step, Step::Wait { on: Awaited::Begin | Awaited::Stop(_), .. });
    why.next.retain(|next| {
        waits_to_begin(next) && why.because.iter().filter(|part| part.mark == Mark::Blocks).count() == 1
    });
    why.because.retain(|part| !matches!(part.cause, Cause::EndsUnknown { .. } | Cause::Gap { .. }));
    why.because = why.because.into_iter().map(without_advice).collect();
    why
}

/// The more shapes differ, the fewer are advised: what a pass costs has a limit. Each can still be asked about.
#[test]
fn only_so_many_shapes_are_advised_in_one_plan() {
    let mut scene = Scene::new("many shapes", &[BOXES]).busy(1_000, &[1, 2, 3, 4], Some(HOUR));
    let count = ADVISED as u64 + 6;
    for id in 1..=count {
        let cpu_milli = 8_000 + u32::try_from(id).unwrap();
        scene = scene.also(request(id, Shape { cpu_milli, ..WHOLE }));
    }
    let (mut planner, plan) = scene.planned();
    assert_eq!(plan.reasons.len(), plan.waiting.len());
    let advised = plan.reasons.iter().filter(|why| !why.next.is_empty()).count();
    assert_eq!(advised, ADVISED);
    assert!(plan.reasons.iter().all(|why| why.obstacles().count() == 1));
    for (request, reason) in &plan.waiting {
        let mut why = planner.why(*request, NOW).unwrap();
        assert_eq!(why.next.len(), 1, "{why:?}");
        if plan.reasons[*reason as usize].next.is_empty() {
            why = without_advice(why);
        }
        assert_eq!(why, plan.reasons[*reason as usize]);
    }
}

/// Whoever waits for nearness is told so: in enough of the sites drawn at random for the tests above.
#[test]
fn random_gangs_wait_for_nearness() {
    let waits = |why: &&Why| why.obstacles().any(|part| matches!(part.cause, Cause::ForNearness { .. }));
    let told: usize = sites().map(|scene| scene.planned().1.reasons.iter().filter(waits).count()).sum();
    assert!(told > 10, "{told} wait for nearness");
}

const RANDOM_SITES: u64 = 60;

fn sites() -> impl Iterator<Item = Scene> {
    (0..RANDOM_SITES).map(random::scene).chain((0..RANDOM_SITES).map(random::near))
}

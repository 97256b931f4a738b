//! Transcripts of real situations, and proof that every step in them helps.

mod random;
mod scene;
mod scenes;
mod truth;

use std::path::{Path, PathBuf};

use scene::Scene;

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
    for seed in 0..RANDOM_SITES {
        let scene = random::scene(seed);
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

const RANDOM_SITES: u64 = 21;

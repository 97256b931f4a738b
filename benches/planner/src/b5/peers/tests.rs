use galerne_planner::request::{Gpus, Stop};

use super::super::fleet::boxes;
use super::super::site::Site;
use super::super::workload::{Generator, Job, Size};
use super::all;

fn job(arrives_at: i64, nodes: u32, run_seconds: i64) -> Job {
    let size = Size { nodes, per_node: Gpus::Whole(8) };
    Job {
        team: 0,
        priority: 0,
        arrives_at,
        run_seconds,
        said_seconds: Some(run_seconds),
        size,
        watts_per_gpu: 500,
        stop: Stop::Never,
    }
}

/// First starts of `jobs` on eight nodes, by the peer of this name.
fn starts(name: &str, jobs: Vec<Job>) -> Vec<Option<i64>> {
    let mut site = Site::new(boxes("test", 8), jobs, 1, u64::MAX);
    let mut peer = all().into_iter().find(|peer| peer.name == name).unwrap();
    site.run(&mut peer).unwrap();
    site.progress.iter().map(super::super::site::Progress::first_started_at).collect()
}

#[test]
fn fifo_lets_nobody_pass_and_easy_only_who_ends_in_time() {
    let jobs = || vec![job(0, 6, 3_600), job(0, 8, 600), job(0, 2, 1_800), job(0, 2, 7_200)];
    assert_eq!(starts("fifo", jobs()), [Some(0), Some(3_600), Some(4_200), Some(4_200)]);
    assert_eq!(starts("easy", jobs()), [Some(0), Some(3_600), Some(0), Some(4_200)]);
}

#[test]
fn best_effort_starts_whoever_fits() {
    let jobs = vec![job(0, 6, 3_600), job(0, 8, 600), job(0, 2, 7_200)];
    assert_eq!(starts("kueue-tas", jobs), [Some(0), Some(7_200), Some(0)]);
}

#[test]
fn no_peer_breaks_a_rule_of_the_site() {
    let layout = boxes("test", 150);
    for mut peer in all() {
        let jobs = Generator::new(layout, 5).jobs(1.1, 1);
        let count = jobs.len();
        let mut site = Site::new(layout, jobs, 1, 5);
        site.run(&mut peer).unwrap();
        let started = site.progress.iter().filter(|progress| progress.first_started_at().is_some()).count();
        assert!(started * 2 > count, "{} started {started} of {count}", peer.name);
    }
}

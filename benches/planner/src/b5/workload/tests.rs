use super::super::fleet::{S1, S3};
use super::{Generator, Job};

fn jobs(layout: super::Layout) -> Vec<Job> {
    Generator::new(layout, 1).jobs(0.85, 14)
}

#[test]
fn sizes_and_load_are_those_of_the_definition() {
    for layout in [S1, S3] {
        let jobs = jobs(layout);
        let small = jobs.iter().filter(|job| job.size.gpu_milli() <= 8_000).count() as f64 / jobs.len() as f64;
        assert!((small - 0.88).abs() < 0.01, "{small} of jobs ask for at most 8 GPUs");
        let time = |job: &Job| job.size.gpu_milli() as f64 / 1000.0 * job.run_seconds as f64;
        let all: f64 = jobs.iter().map(time).sum();
        let gangs: f64 = jobs.iter().filter(|job| job.size.gpu_milli() >= 16_000).map(time).sum();
        assert!(gangs / all > 0.6, "{} of GPU time is in gangs", gangs / all);
        let load = all / (f64::from(layout.gpus()) * 14.0 * 86_400.0);
        assert!((load - 0.85).abs() < 0.01, "{}: load {load}", layout.name);
    }
}

#[test]
fn the_same_seed_gives_the_same_jobs() {
    let key = |jobs: &[Job]| jobs.iter().map(|job| (job.arrives_at, job.run_seconds, job.team)).collect::<Vec<_>>();
    assert_eq!(key(&jobs(S1)), key(&jobs(S1)));
}

#[test]
fn nobody_says_less_time_than_is_needed() {
    assert!(jobs(S1).iter().all(|job| job.said_seconds.is_none_or(|said| said >= job.run_seconds)));
}

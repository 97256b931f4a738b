//! Programs that are measured: started, asked what they cost, and ended.
//!
//! What a program costs is what the kernel booked on it and its children: right also where others use the cores.

use std::fs::{self, File};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use rustix::process::{Pid, Signal, kill_process};

/// Longest wait for an end that was asked for.
const END_LIMIT: Duration = Duration::from_secs(10);
const POLL: Duration = Duration::from_millis(20);

/// A program and its children, ended when this is dropped.
#[derive(Debug)]
pub(crate) struct Program {
    child: Child,
}

impl Program {
    /// Starts it with nothing to read, and what it says in `log`.
    pub(crate) fn start(command: &mut Command, log: &Path) -> Result<Self> {
        let file = File::create(log).with_context(|| format!("cannot write `{}`", log.display()))?;
        command.stdin(Stdio::null()).stdout(file.try_clone()?).stderr(file);
        let child = command.spawn().with_context(|| format!("cannot start {:?}", command.get_program()))?;
        Ok(Self { child })
    }

    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// How it ended, once it has.
    pub(crate) fn ended(&mut self) -> Result<Option<String>> {
        Ok(self.child.try_wait()?.map(|status| status.to_string()))
    }

    /// Seconds of processor time it and its children have used.
    pub(crate) fn cpu_seconds(&self) -> f64 {
        let ticks: u64 = tree(self.id()).into_iter().filter_map(stat).map(|stat| stat.ticks).sum();
        ticks as f64 / rustix::param::clock_ticks_per_second() as f64
    }

    /// Memory of it and its children in MiB, shared pages by their share.
    pub(crate) fn memory_mib(&self) -> f64 {
        let kib = |pid: u32| pss_kib(&fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).ok()?);
        tree(self.id()).into_iter().filter_map(kib).sum::<u64>() as f64 / 1024.0
    }

    /// Ends it at once, as a crash would; its children too.
    pub(crate) fn kill(&mut self) {
        self.signal(Signal::KILL);
        drop(self.child.wait());
    }

    /// Asks it to end, and waits; ends it if it does not.
    pub(crate) fn stop(&mut self) {
        self.signal(Signal::TERM);
        let limit = Instant::now() + END_LIMIT;
        while Instant::now() < limit {
            if !matches!(self.child.try_wait(), Ok(None)) {
                return;
            }
            thread::sleep(POLL);
        }
        self.kill();
    }

    fn signal(&self, signal: Signal) {
        // Children first: a parent would start them again.
        for pid in tree(self.id()).into_iter().rev() {
            // One that ended meanwhile needs no signal.
            let pid = i32::try_from(pid).ok().and_then(Pid::from_raw);
            pid.map(|pid| kill_process(pid, signal).is_ok());
        }
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(None)) {
            self.stop();
        }
    }
}

/// What `/proc/PID/stat` says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Stat {
    parent: u32,
    /// In user and kernel mode together, of all its threads, those that ended included.
    ticks: u64,
}

fn stat(pid: u32) -> Option<Stat> {
    parse_stat(&fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)
}

/// The name, in parentheses, may hold anything; the fields are counted from its end.
fn parse_stat(text: &str) -> Option<Stat> {
    let fields: Vec<&str> = text.rsplit_once(')')?.1.split_ascii_whitespace().collect();
    let number = |place: usize| fields.get(place)?.parse::<u64>().ok();
    Some(Stat { parent: u32::try_from(number(1)?).ok()?, ticks: number(11)? + number(12)? })
}

fn pss_kib(text: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix("Pss:"))?;
    line.trim().trim_end_matches("kB").trim().parse().ok()
}

/// A process and everything below it, parents first.
fn tree(root: u32) -> Vec<u32> {
    let pids = fs::read_dir("/proc").into_iter().flatten().flatten();
    let numbers = pids.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    let parents: Vec<(u32, u32)> = numbers.filter_map(|pid| Some((pid, stat(pid)?.parent))).collect();
    let mut found = vec![root];
    let mut next = 0;
    while let Some(parent) = found.get(next).copied() {
        found.extend(parents.iter().filter(|(_, its)| *its == parent).map(|(pid, _)| *pid));
        next += 1;
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_with_spaces_and_parentheses_does_not_shift_the_fields() {
        let text = "4242 (a ) b (c) S 17 4242 4242 0 -1 4194560 1 2 3 4 150 25 0 0 20 0 3 0 100 1 2";
        assert_eq!(parse_stat(text), Some(Stat { parent: 17, ticks: 175 }));
        assert_eq!(parse_stat("4242 (a) S 17"), None);
    }

    #[test]
    fn the_proportional_share_is_read_and_nothing_like_it() {
        let text = "55 rollup\nRss:  900 kB\nPss:                 123 kB\nPss_Dirty:  50 kB\n";
        assert_eq!(pss_kib(text), Some(123));
        assert_eq!(pss_kib("Pss_Dirty: 50 kB\n"), None);
    }

    #[test]
    fn what_children_use_is_counted_and_they_end_with_their_parent() {
        let folder = std::env::temp_dir().join(format!("galerne-programs-{}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        let mut command = Command::new("sh");
        command.args(["-c", "sh -c 'while :; do :; done' & wait"]);
        let mut program = Program::start(&mut command, &folder.join("log")).unwrap();
        let limit = Instant::now() + Duration::from_secs(60);
        while program.cpu_seconds() < 0.05 {
            assert!(Instant::now() < limit, "a busy child uses the processor");
            thread::sleep(POLL);
        }
        assert!(program.memory_mib() > 0.0);
        let child = tree(program.id())[1];
        program.kill();
        let limit = Instant::now() + Duration::from_secs(10);
        while stat(child).is_some_and(|stat| stat.parent == program.id()) {
            assert!(Instant::now() < limit, "the child ended");
            thread::sleep(POLL);
        }
        fs::remove_dir_all(&folder).unwrap();
    }
}

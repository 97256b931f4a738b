//! How many files the system lets this process open: connections are files, so their number is what the limit leaves.
//!
//! Systems start programs with a soft limit of 1,024 for those that cannot count further, and let a program raise it to the
//! hard one.

use galerne_model::limits::GATEWAY_IN_FLIGHT_MAX;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Files that are no connection of a client: the database, the spool, engines, the connection of each request to its replica.
const OTHERS: u64 = GATEWAY_IN_FLIGHT_MAX as u64 + 512;

/// Raises the limit to what the system allows, and says how many of `most` connections have room. Where there is less than is
/// wanted, the log says what to do.
pub(super) fn make_room(most: usize) -> usize {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    let wanted = most as u64 + OTHERS;
    // Absent means without limit.
    let reachable = maximum.map_or(wanted, |maximum| maximum.min(wanted));
    let mut files = current.unwrap_or(u64::MAX);
    if files < reachable {
        match setrlimit(Resource::Nofile, Rlimit { current: Some(reachable), maximum }) {
            Ok(()) => files = reachable,
            Err(error) => tracing::warn!(%error, files, "the limit on open files could not be raised"),
        }
    }
    let connections = connections_of(files, most);
    if connections < most {
        tracing::warn!(
            connections,
            files,
            "few files may be open at once, so few connections are taken; hint: `ulimit -Hn {wanted}` before the start, or `LimitNOFILE={wanted}` in the unit"
        );
    }
    connections
}

/// What `files` leave for connections: all but the others, and half where there are too few for both.
fn connections_of(files: u64, most: usize) -> usize {
    let left = files.saturating_sub(OTHERS).max(files / 2);
    usize::try_from(left).unwrap_or(usize::MAX).min(most)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connections_are_what_the_limit_on_files_leaves() {
        for (files, connections) in [(64, 32), (1_024, 512), (5_120, 2_560), (10_000, 7_440), (20_000, 12_288)] {
            assert_eq!(connections_of(files, 12_288), connections, "{files} files");
        }
        assert_eq!(connections_of(u64::MAX, 12_288), 12_288);
    }
}

//! The limit of open descriptors (`RLIMIT_NOFILE`), and how many connections fit into it.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tracing::warn;

/// Raises the soft limit of open descriptors to the hard one. A connection needs one and a forwarded request two or
/// more; the usual soft limit is 1024, kept low for programs that use `select(2)`.
pub fn allow_many_descriptors() {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit {
        current: limit.maximum,
        maximum: limit.maximum,
    };
    if let Err(error) = setrlimit(Resource::Nofile, raised) {
        warn!(%error, soft_limit = ?limit.current, "cannot raise the limit of open descriptors");
    }
}

/// How many descriptors this process may have open now; `None` is unlimited.
pub fn descriptors() -> Option<u64> {
    getrlimit(Resource::Nofile).current
}

/// What `--max-connections` is by default: with all bounds on one connection used up, 2 GiB.
pub const MAX_CONNECTIONS: usize = 10_000;
/// Listeners, ZooKeeper, timers, files, idle connections to others.
const OTHER_DESCRIPTORS: usize = 256;

/// How many connections to serve at a time: `asked`, by default [`MAX_CONNECTIONS`]; fewer, but at least one, where the limit
/// of open descriptors does not allow `descriptors_each` for each.
pub fn connections(asked: Option<u32>, descriptors_each: usize) -> usize {
    let wanted = asked.map_or(MAX_CONNECTIONS, |n| n as usize);
    let possible = descriptors().map_or(usize::MAX, |descriptors| {
        let descriptors = usize::try_from(descriptors).unwrap_or(usize::MAX);
        descriptors.saturating_sub(OTHER_DESCRIPTORS) / descriptors_each
    });
    if possible < wanted && asked.is_some() {
        warn!(
            wanted,
            possible, "the limit of open descriptors does not allow so many connections"
        );
    }
    wanted.min(possible).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_soft_limit_becomes_the_hard_one() {
        allow_many_descriptors();
        assert_eq!(descriptors(), getrlimit(Resource::Nofile).maximum);
    }

    #[test]
    fn connections_are_as_many_as_asked_for_as_long_as_descriptors_suffice() {
        assert_eq!(connections(Some(7), 2), 7);
        if let Some(descriptors) = descriptors() {
            let most = connections(Some(u32::MAX), 4) as u64;
            assert!((1..descriptors).contains(&(4 * most)), "{most}");
        }
    }
}

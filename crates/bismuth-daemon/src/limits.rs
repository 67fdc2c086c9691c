//! What the system lets a process have.

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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_soft_limit_becomes_the_hard_one() {
        allow_many_descriptors();
        assert_eq!(descriptors(), getrlimit(Resource::Nofile).maximum);
    }
}

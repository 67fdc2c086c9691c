//! How long to wait before trying again.

use std::time::Duration;

/// The first pause. A restarting server's port is back within some hundred milliseconds.
const FIRST: Duration = Duration::from_millis(50);

/// The longest pause: an outage that ends is noticed within this, and a server that comes back is not
/// drowned, because each client is at another point of its pause.
const LONGEST: Duration = Duration::from_secs(2);

/// Pauses that double up to a bound, each shortened at random by up to half.
#[derive(Debug)]
pub(crate) struct Pauses {
    next: Duration,
}

impl Default for Pauses {
    fn default() -> Self {
        Self { next: FIRST }
    }
}

impl Pauses {
    pub(crate) fn next(&mut self) -> Duration {
        let full = self.next;
        self.next = (full * 2).min(LONGEST);
        full.mul_f64(1.0 - fastrand::f64() / 2.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_to_a_bound_and_differ() {
        let mut pauses = Pauses::default();
        let taken: Vec<Duration> = (0..20).map(|_| pauses.next()).collect();
        assert!(taken[0] <= FIRST && taken[0] >= FIRST / 2);
        assert!(
            taken[10..]
                .iter()
                .all(|pause| (LONGEST / 2..=LONGEST).contains(pause))
        );
        assert!(taken[10..].windows(2).any(|pair| pair[0] != pair[1]));
    }
}

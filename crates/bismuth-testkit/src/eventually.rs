//! Waits for a condition that reports what is still missing.

use std::fmt::Display;
use std::time::Duration;

use tokio::time::Instant;

/// First pause between two polls: short, because most conditions hold within milliseconds.
const FIRST_PAUSE: Duration = Duration::from_millis(2);
/// Longest pause between two polls: a test is never late by more than this.
const LONGEST_PAUSE: Duration = Duration::from_millis(100);

/// Polls `condition` until it answers `Ok`, and returns what it answered. Reasons are shown with their causes.
///
/// # Panics
///
/// After `deadline`, with `what` was awaited and the last reason the condition gave. A poll that
/// hangs is cut off by the same deadline.
pub async fn eventually<T, E: Display>(
    what: &str,
    deadline: Duration,
    condition: impl AsyncFnMut() -> Result<T, E>,
) -> T {
    match within(deadline, condition).await {
        Ok(value) => value,
        Err(last) => panic!("{what}: not so within {deadline:?}; at last: {last}"),
    }
}

/// Like [`eventually`], but the last reason is returned instead of panicking.
/// The last reason the condition gave when `deadline` passed.
pub async fn within<T, E: Display>(
    deadline: Duration,
    mut condition: impl AsyncFnMut() -> Result<T, E>,
) -> Result<T, String> {
    let until = Instant::now() + deadline;
    let mut pause = FIRST_PAUSE;
    let mut last = String::from("the first poll has not answered");
    loop {
        match tokio::time::timeout_at(until, condition()).await {
            Ok(Ok(value)) => return Ok(value),
            Ok(Err(reason)) => last = format!("{reason:#}"),
            Err(_) => return Err(format!("a poll hung; before it: {last}")),
        }
        if Instant::now() + pause > until {
            return Err(last);
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_condition_that_comes_true_ends_the_wait_with_its_value() {
        let mut polls = 0;
        let value = eventually("three polls", Duration::from_secs(5), async || {
            polls += 1;
            if polls == 3 {
                Ok(polls)
            } else {
                Err(format!("only {polls}"))
            }
        })
        .await;
        assert_eq!(value, 3);
    }

    #[tokio::test(start_paused = true)]
    async fn a_condition_that_stays_false_ends_with_its_last_reason() {
        let mut polls = 0;
        let reason = within(Duration::from_secs(1), async || {
            polls += 1;
            Err::<(), _>(format!("poll {polls} said no"))
        })
        .await
        .unwrap_err();
        assert_eq!(reason, format!("poll {polls} said no"));
    }

    #[tokio::test(start_paused = true)]
    async fn a_poll_that_hangs_is_cut_off_at_the_deadline() {
        let reason = within(Duration::from_secs(1), async || {
            std::future::pending::<Result<(), String>>().await
        })
        .await
        .unwrap_err();
        assert!(reason.starts_with("a poll hung"), "{reason}");
    }
}

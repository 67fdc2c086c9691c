//! Rate limit per group over all nodes: a counter for each second, in the records that the nodes share.
//!
//! ```text
//!   request ─► tokens at hand for this second? ─┬─ yes ─► one less
//!                                               └─ no  ─► counter += some ─┬─ within the rate ─► at hand
//!                                                                          └─ beyond it ─► 429 until the next second
//! ```
//!
//! A rate up to [`EXACT_RATE`] is taken token by token, so that no node has one that another needs; of a higher one a hundredth is taken at
//! once, and a node may leave as many unused. Nodes' clocks are taken to agree, as for everything that is set by NTP: one that is off by
//! half a second has its seconds half a second later.

use std::time::Duration;

use bismuth_store::records::{
    Change, Condition, EngineError, Keyspace, RecordKey, Records, Write, now_ms,
};
use tokio::sync::Mutex;

use super::problems::{self, Refusal};

/// Tokens that are taken one by one: each costs a transaction, some hundred of which are nothing to a database.
const EXACT_RATE: u64 = 100;
/// As every call of an engine has.
const RECORDS_TIMEOUT: Duration = Duration::from_millis(950);
/// A second's counter is of no use after it; clocks may differ.
const TTL_MS: u64 = 10_000;

/// What this process has of a group's tokens.
#[derive(Debug, Default)]
pub(super) struct SharedRate(Mutex<Window>);

#[derive(Debug, Default)]
struct Window {
    /// Seconds since the Unix epoch.
    second: u64,
    left: u64,
    /// Whether there are no more for anybody.
    spent: bool,
}

impl SharedRate {
    /// Takes one of the group's `rate` tokens of this second.
    ///
    /// # Errors
    /// When the rate is reached, or the counter cannot be had.
    pub(super) async fn take(
        &self,
        records: &dyn Records,
        group: &str,
        rate: u64,
    ) -> Result<(), Refusal> {
        // One asks for those who wait, and all together wait no longer than one would.
        let taken =
            tokio::time::timeout(RECORDS_TIMEOUT, self.take_in_turn(records, group, rate)).await;
        taken.unwrap_or_else(|_elapsed| {
            let reason = format!("no answer within {RECORDS_TIMEOUT:?}");
            Err(EngineError::unavailable("the counter of requests", reason).into())
        })
    }

    async fn take_in_turn(
        &self,
        records: &dyn Records,
        group: &str,
        rate: u64,
    ) -> Result<(), Refusal> {
        let mut window = self.0.lock().await;
        let now_ms = now_ms();
        let second = now_ms / 1000;
        if window.second != second {
            *window = Window {
                second,
                ..Window::default()
            };
        }
        if window.left == 0 && !window.spent {
            *window = refill(records, group, rate, second).await?;
        }
        if window.left == 0 {
            let wait = Duration::from_millis(1000 - now_ms % 1000);
            return Err(problems::too_many(rate, wait));
        }
        window.left -= 1;
        Ok(())
    }
}

/// Takes some of the second's tokens away from the other nodes.
async fn refill(
    records: &dyn Records,
    group: &str,
    rate: u64,
    second: u64,
) -> Result<Window, EngineError> {
    let wanted = (rate / EXACT_RATE).max(1);
    let counter = RecordKey::new(group, Keyspace::Rate, second.to_string());
    let add = Change::Add {
        delta: i64::try_from(wanted).unwrap_or(i64::MAX),
        ttl_ms: Some(TTL_MS),
    };
    let write = Write::new(counter, Condition::Always, add);
    let written = records.write(vec![write]).await?;
    let sum = written.first().and_then(|written| written.sum);
    let sum = u64::try_from(sum.unwrap_or_default()).unwrap_or(u64::MAX);
    let taken_before = sum.saturating_sub(wanted);
    let left = wanted.min(rate.saturating_sub(taken_before));
    Ok(Window {
        second,
        left,
        spent: sum >= rate,
    })
}

//! Decides one write to one record: condition, change, quota. Pure, and the same for every engine.
//!
//! ```text
//!   stored record ─► past its time? ─► condition ─► change ─► new record ─► usage after ─► within the limits?
//!                     then absent        412          404 …                                  413 / 507
//! ```
//!
//! A record past its time is absent for the condition and the change, but its charge is in the usage until it is overwritten or swept.

use bytes::Bytes;

use super::{Change, Condition, Limits, Meta, Record, Refused, Revision, Usage, Write};

/// What a write that is made does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Decision {
    /// What is stored afterwards; `None` if nothing is.
    pub after: Option<Record>,
    /// What was there before and had not ceased to be.
    pub before: Option<Meta>,
    /// What the group uses afterwards.
    pub usage: Usage,
    /// The value after [`Change::Add`].
    pub sum: Option<i64>,
}

/// No number is longer, zeros in front included.
pub const MAX_NUMBER_BYTES: usize = 64;

/// Decides about `write` on what is `stored`, also if its time has come; of a value that is longer than [`MAX_NUMBER_BYTES`] nothing matters but that. `revision` is the one that the new state gets.
///
/// # Errors
/// When the write is not to be made.
pub fn decide(
    stored: Option<&Record>,
    usage: Usage,
    now_ms: u64,
    revision: Revision,
    write: &Write,
) -> Result<Decision, Refused> {
    let live = stored.filter(|record| record.meta.is_live(now_ms));
    check(&write.condition, live.map(|record| record.meta.revision))?;
    let (after, sum) = change(live, now_ms, revision, write)?;
    let used = usage_after(usage, stored, after.as_ref());
    check_limits(&write.limits, usage, used)?;
    Ok(Decision {
        after,
        before: live.map(|record| record.meta.clone()),
        usage: used,
        sum,
    })
}

/// Whether `condition` holds where `current` is the state that is there.
///
/// # Errors
/// When it does not.
pub fn check(condition: &Condition, current: Option<Revision>) -> Result<(), Refused> {
    let holds = match condition {
        Condition::Always => true,
        Condition::Absent => current.is_none(),
        Condition::Present => current.is_some(),
        Condition::OneOf(revisions) => current.is_some_and(|it| revisions.contains(&it)),
        Condition::NoneOf(revisions) => current.is_none_or(|it| !revisions.contains(&it)),
    };
    if holds {
        Ok(())
    } else {
        Err(Refused::Condition { current })
    }
}

fn change(
    live: Option<&Record>,
    now_ms: u64,
    revision: Revision,
    write: &Write,
) -> Result<(Option<Record>, Option<i64>), Refused> {
    match &write.change {
        Change::Put {
            value,
            content_type,
            ttl_ms,
            charge,
        } => {
            let meta = Meta {
                revision,
                content_type: content_type.clone(),
                modified_ms: now_ms,
                expires_ms: expiry(now_ms, *ttl_ms),
                charge: *charge,
            };
            let value = value.clone();
            Ok((Some(Record { value, meta }), None))
        }
        Change::Delete if live.is_none() => Err(Refused::NotFound),
        Change::Delete => Ok((None, None)),
        Change::Add { delta, ttl_ms } => {
            let sum = number(live)?
                .checked_add(*delta)
                .ok_or(Refused::OutOfRange)?;
            let value = Bytes::from(sum.to_string());
            let meta = Meta {
                revision,
                content_type: live.and_then(|record| record.meta.content_type.clone()),
                modified_ms: now_ms,
                expires_ms: expiry(now_ms, *ttl_ms)
                    .or(live.and_then(|record| record.meta.expires_ms)),
                charge: (write.record_key.key.len() + value.len()) as u64,
            };
            Ok((Some(Record { value, meta }), Some(sum)))
        }
    }
}

fn expiry(now_ms: u64, ttl_ms: Option<u64>) -> Option<u64> {
    ttl_ms.map(|ttl_ms| now_ms.saturating_add(ttl_ms))
}

fn number(live: Option<&Record>) -> Result<i64, Refused> {
    let Some(record) = live else { return Ok(0) };
    if record.value.len() > MAX_NUMBER_BYTES {
        return Err(Refused::NotANumber);
    }
    let text = std::str::from_utf8(&record.value).map_err(|_| Refused::NotANumber)?;
    text.parse().map_err(|_| Refused::NotANumber)
}

/// Saturating, because a counter that were wrong must not keep anybody from deleting.
fn usage_after(before: Usage, stored: Option<&Record>, after: Option<&Record>) -> Usage {
    let charge = |record: Option<&Record>| record.map_or(0, |record| record.meta.charge);
    let bytes = before.bytes.saturating_sub(charge(stored));
    let count = before.count.saturating_sub(stored.is_some().into());
    Usage {
        bytes: bytes.saturating_add(charge(after)),
        count: count.saturating_add(after.is_some().into()),
    }
}

/// Refuses what grows beyond a limit. What stays or shrinks is made, even where a limit was lowered below what is used.
fn check_limits(limits: &Limits, before: Usage, after: Usage) -> Result<(), Refused> {
    if let Some(limit) = limits.count
        && after.count > before.count
        && after.count > limit
    {
        return Err(Refused::Count { limit });
    }
    if let Some(limit) = limits.bytes
        && after.bytes > before.bytes
        && after.bytes > limit
    {
        let needed = after.bytes;
        return Err(Refused::Bytes { needed, limit });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::records::{Keyspace, RecordKey};

    const NOW: u64 = 1_000;
    const NEXT: Revision = Revision(9);

    fn write(condition: Condition, change: Change) -> Write {
        Write::new(RecordKey::new("g", Keyspace::Kv, "key"), condition, change)
    }

    fn put(value: &'static str) -> Change {
        Change::put(value, 3 + value.len() as u64)
    }

    fn add(delta: i64) -> Change {
        Change::Add {
            delta,
            ttl_ms: None,
        }
    }

    /// A record of revision 5.
    fn record(value: &'static str, expires_ms: Option<u64>) -> Record {
        Record {
            value: Bytes::from_static(value.as_bytes()),
            meta: Meta {
                revision: Revision(5),
                content_type: Some("text/plain".into()),
                modified_ms: 1,
                expires_ms,
                charge: 3 + value.len() as u64,
            },
        }
    }

    fn used(stored: Option<&Record>) -> Usage {
        stored.map_or(Usage::default(), |record| Usage {
            bytes: record.meta.charge,
            count: 1,
        })
    }

    fn decided(stored: Option<&Record>, write: &Write) -> Result<Decision, Refused> {
        decide(stored, used(stored), NOW, NEXT, write)
    }

    #[test]
    fn conditions_hold_or_name_the_state_that_is_there() {
        let there = record("1", None);
        let gone = record("1", Some(NOW));
        let five = || vec![Revision(4), Revision(5)];
        let other = || vec![Revision(4)];
        let table = [
            (Condition::Always, true, true),
            (Condition::Absent, false, true),
            (Condition::Present, true, false),
            (Condition::OneOf(five()), true, false),
            (Condition::OneOf(other()), false, false),
            (Condition::NoneOf(five()), false, true),
            (Condition::NoneOf(other()), true, true),
        ];
        for (condition, if_there, if_absent) in table {
            let write = write(condition.clone(), put("2"));
            for (stored, holds, current) in [
                (Some(&there), if_there, Some(Revision(5))),
                (None, if_absent, None),
                (Some(&gone), if_absent, None),
            ] {
                let expected = if holds {
                    Ok(())
                } else {
                    Err(Refused::Condition { current })
                };
                let decision = decided(stored, &write).map(drop);
                assert_eq!(decision, expected, "{condition:?} on {stored:?}");
            }
        }
    }

    #[test]
    fn only_what_is_there_can_be_deleted() {
        let delete = write(Condition::Always, Change::Delete);
        assert_eq!(decided(None, &delete), Err(Refused::NotFound));
        let gone = record("1", Some(NOW));
        assert_eq!(decided(Some(&gone), &delete), Err(Refused::NotFound));
        let decision = decided(Some(&record("1", None)), &delete).unwrap();
        assert_eq!(
            (decision.after, decision.usage),
            (None, Usage { bytes: 0, count: 0 })
        );
    }

    #[test]
    fn adding_counts_from_zero_and_keeps_what_the_record_has() {
        let fresh = decided(None, &write(Condition::Always, add(-7))).unwrap();
        assert_eq!(fresh.sum, Some(-7));
        let after = fresh.after.unwrap();
        assert_eq!(
            (after.value.as_ref(), after.meta.charge),
            (b"-7".as_slice(), 5)
        );

        let there = record("40", Some(NOW + 5));
        let more = decided(Some(&there), &write(Condition::Always, add(2))).unwrap();
        assert_eq!(more.sum, Some(42));
        let meta = more.after.unwrap().meta;
        assert_eq!(meta.content_type.as_deref(), Some("text/plain"));
        assert_eq!(meta.expires_ms, Some(NOW + 5));

        let gone = record("40", Some(NOW));
        let anew = decided(Some(&gone), &write(Condition::Always, add(2))).unwrap();
        assert_eq!(anew.sum, Some(2));
        assert_eq!(anew.after.unwrap().meta.expires_ms, None);
    }

    #[test]
    fn adding_refuses_what_is_no_number_or_no_longer_fits() {
        for (value, refused) in [
            ("many", Refused::NotANumber),
            ("", Refused::NotANumber),
            ("1.5", Refused::NotANumber),
            ("9223372036854775808", Refused::NotANumber),
            ("9223372036854775807", Refused::OutOfRange),
        ] {
            let there = record(value, None);
            let decision = decided(Some(&there), &write(Condition::Always, add(1)));
            assert_eq!(decision, Err(refused), "{value:?}");
        }
    }
}

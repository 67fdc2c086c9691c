//! Key ranges of a listing: from one key, to below another, in the order of bytes.

use super::Query;

/// The first key that may be listed.
#[must_use]
pub fn first(query: &Query) -> Vec<u8> {
    let prefix = query.prefix.as_bytes();
    // The key that comes right after `after` is `after` with a NUL.
    let after = query.after.as_ref();
    let after = after.map(|after| [after.as_bytes(), &[0]].concat());
    after.map_or_else(|| prefix.to_vec(), |after| after.max(prefix.to_vec()))
}

/// The first key after all that begin with `prefix`, or `None` if there cannot be one.
#[must_use]
pub fn after_prefix(prefix: &[u8]) -> Option<Vec<u8>> {
    let last = prefix.iter().rposition(|&byte| byte != u8::MAX)?;
    let mut end = prefix.get(..=last)?.to_vec();
    *end.last_mut()? += 1;
    Some(end)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn what_begins_with_a_prefix_is_before_its_end(
            prefix in prop::collection::vec(any::<u8>(), 0..4), rest in prop::collection::vec(any::<u8>(), 0..4),
        ) {
            let key = [prefix.clone(), rest].concat();
            if let Some(end) = after_prefix(&prefix) {
                prop_assert!(prefix <= key && key < end);
                prop_assert!(!end.starts_with(&prefix));
            }
        }
    }
}

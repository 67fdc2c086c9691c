//! Selects the backend of a request: first with room, by rendezvous order, or by client affinity. Pure.
//!
//! Few containers stay warm instead of many lukewarm: the first slot with room wins, in an order that every frontend
//! computes alike, so that they warm the same ones.

use bismuth_model::ContainerId;

/// The state of one slot, as the choice sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Candidate {
    /// This frontend's requests in flight there.
    pub load: u32,
    /// Not to be asked (again): tried already.
    pub excluded: bool,
    /// Its node could not be reached a moment ago: the last resort.
    pub suspect: bool,
}

/// The slot to ask, as an index into `slots` (in the function's order), or `None` if all are excluded.
///
/// The first with fewer than `concurrency` requests in flight; when all are full, the one with the fewest. Slots on suspect nodes
/// are chosen only when there are no others.
pub fn select(slots: impl Iterator<Item = Candidate>, concurrency: u32) -> Option<usize> {
    let mut best: Option<((bool, u32), usize)> = None;
    for (index, slot) in slots.enumerate() {
        if slot.excluded {
            continue;
        }
        if slot.load < concurrency && !slot.suspect {
            return Some(index);
        }
        // Room on a suspect node counts as no load, so that the first one with room is preferred there too.
        let load = if slot.load < concurrency {
            0
        } else {
            slot.load
        };
        let rank = (slot.suspect, load);
        if best.is_none_or(|(known, _)| rank < known) {
            best = Some((rank, index));
        }
    }
    best.map(|(_, index)| index)
}

/// The slot that a client's affinity value leads to, whatever its load: the highest score by rendezvous hashing, so that a
/// slot that comes or goes moves only the clients it must.
pub fn select_by_affinity<'a>(
    slots: impl Iterator<Item = (Candidate, &'a ContainerId)>,
    value: &[u8],
) -> Option<usize> {
    let key = hash(value);
    let (_, index) = slots
        .enumerate()
        .filter(|(_, (slot, _))| !slot.excluded)
        .map(|(index, (slot, id))| ((!slot.suspect, score(key, id)), index))
        .max()?;
    Some(index)
}

/// Rendezvous hashing: the weight of a container for a key. Part of what frontends of different versions agree on; must not change.
pub fn score(key: u64, container: &ContainerId) -> u64 {
    mix(key ^ hash(container.as_bytes()))
}

/// FNV-1a, 64 bits (<http://www.isthe.com/chongo/tech/comp/fnv/>): the same in every build, unlike the standard library's hasher.
pub fn hash(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3)
    })
}

/// The finaliser of SplitMix64, which spreads FNV's weak high bits.
fn mix(mut x: u64) -> u64 {
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn slots(loads: &[u32]) -> Vec<Candidate> {
        let candidate = |load: &u32| Candidate {
            load: *load,
            excluded: false,
            suspect: false,
        };
        loads.iter().map(candidate).collect()
    }

    #[test]
    fn the_first_slot_with_room_wins_else_the_least_loaded() {
        for (loads, expected) in [
            (&[0, 0, 0][..], Some(0)),
            (&[2, 1, 0], Some(1)),
            (&[2, 2, 1], Some(2)),
            (&[4, 2, 3], Some(1)),
            (&[3, 3, 3], Some(0)),
            (&[], None),
        ] {
            assert_eq!(select(slots(loads).into_iter(), 2), expected, "{loads:?}");
        }
    }

    #[test]
    fn excluded_slots_are_never_chosen_and_suspect_ones_last() {
        let mut all = slots(&[0, 9, 0, 0]);
        all[0].excluded = true;
        all[2].suspect = true;
        all[3].suspect = true;
        assert_eq!(select(all.iter().copied(), 2), Some(1));
        all[1].excluded = true;
        assert_eq!(select(all.iter().copied(), 2), Some(2));
        all[2].load = 5;
        assert_eq!(select(all.iter().copied(), 2), Some(3));
    }

    #[test]
    fn scores_never_change() {
        // Frontends of different versions must agree.
        let id = ContainerId::from_bytes([1; 16]);
        assert_eq!(hash(b"a"), 0xaf63_dc4c_8601_ec8c);
        assert_eq!(score(hash(b"function"), &id), 15_469_089_966_286_704_511);
    }

    proptest! {
        #[test]
        fn removing_a_slot_moves_only_its_own_clients(
            ids in prop::collection::btree_set(any::<[u8; 16]>(), 2..10),
            values in prop::collection::vec(any::<[u8; 4]>(), 1..40),
        ) {
            let ids: Vec<_> = ids.into_iter().map(ContainerId::from_bytes).collect();
            let all = slots(&vec![0; ids.len()]);
            for value in values {
                let chosen = |without: usize| {
                    let mut all = all.clone();
                    if let Some(slot) = all.get_mut(without) {
                        slot.excluded = true;
                    }
                    select_by_affinity(all.into_iter().zip(&ids), &value).unwrap()
                };
                let before = chosen(usize::MAX);
                for gone in (0..ids.len()).filter(|gone| *gone != before) {
                    prop_assert_eq!(chosen(gone), before);
                }
            }
        }

        #[test]
        fn a_full_slot_is_never_chosen_while_another_has_room(loads in prop::collection::vec(0u32..5, 1..10)) {
            let chosen = select(slots(&loads).into_iter(), 3).unwrap();
            let has_room = loads.iter().any(|load| *load < 3);
            prop_assert_eq!(loads[chosen] < 3, has_room);
        }
    }
}

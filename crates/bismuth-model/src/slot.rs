//! Slots: what the containers of a function are for. Packed, because a function may have two thousand of them.
//!
//! ```text
//!  0        4                  20          28     29      30
//!  ├ IPv4 ──┼── container id ──┼ revision ─┼ role ┼ flags ┤  repeated; the revision big-endian, flag 1: pinned
//! ```

use std::net::Ipv4Addr;

use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::{Backend, ContainerId, Revision};

/// Bytes of one packed slot.
pub const SLOT_BYTES: usize = 30;

const PINNED: u8 = 1;

/// One slot of a function: a container that a node is to serve.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Slot {
    /// Which container on which node.
    pub backend: Backend,
    /// The revision of the definition that it runs.
    pub revision: Revision,
    /// What it is for.
    pub role: SlotRole,
    /// Whether it was assigned by hand: never scaled or moved by a program.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub pinned: bool,
}

/// What a slot is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SlotRole {
    /// It takes requests when its revision does.
    Active,
    /// It takes requests when no active slot of its revision can be reached.
    Standby,
    /// It takes no more requests, finishes those it has, and is released.
    Leaving,
}

/// Bytes that are not a packed list of slots.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum SlotsError {
    /// The length tells that something is cut off or too much.
    #[error("a list of slots has {0} bytes, which is not a multiple of {SLOT_BYTES}")]
    Length(usize),
    /// No role of this program.
    #[error("a slot has the unknown role {0}")]
    Role(u8),
    /// No flag of this program.
    #[error("a slot has the unknown flags {0:#x}")]
    Flags(u8),
}

impl Slot {
    /// Packs a list.
    pub fn encode_list(slots: &[Self]) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(slots.len() * SLOT_BYTES);
        for slot in slots {
            bytes.extend_from_slice(&slot.backend.ip.octets());
            bytes.extend_from_slice(slot.backend.container_id.as_bytes());
            bytes.extend_from_slice(&slot.revision.0.to_be_bytes());
            bytes.push(match slot.role {
                SlotRole::Active => 0,
                SlotRole::Standby => 1,
                SlotRole::Leaving => 2,
            });
            bytes.push(if slot.pinned { PINNED } else { 0 });
        }
        bytes
    }

    /// Unpacks a list, in the order it was packed.
    ///
    /// # Errors
    /// The bytes are not a list that [`Self::encode_list`] makes.
    pub fn decode_list(bytes: &[u8]) -> Result<Vec<Self>, SlotsError> {
        let (records, rest) = bytes.as_chunks::<SLOT_BYTES>();
        if !rest.is_empty() {
            return Err(SlotsError::Length(bytes.len()));
        }
        records.iter().map(Self::decode).collect()
    }

    fn decode(record: &[u8; SLOT_BYTES]) -> Result<Self, SlotsError> {
        let [a, b, c, d, rest @ ..] = *record;
        let [id @ .., r0, r1, r2, r3, r4, r5, r6, r7, role, flags] = rest;
        Ok(Self {
            backend: Backend {
                ip: Ipv4Addr::new(a, b, c, d),
                container_id: ContainerId::from_bytes(id),
            },
            revision: Revision(u64::from_be_bytes([r0, r1, r2, r3, r4, r5, r6, r7])),
            role: match role {
                0 => SlotRole::Active,
                1 => SlotRole::Standby,
                2 => SlotRole::Leaving,
                other => return Err(SlotsError::Role(other)),
            },
            pinned: match flags {
                0 => false,
                PINNED => true,
                other => return Err(SlotsError::Flags(other)),
            },
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// These bytes are in ZooKeeper on somebody's machines. They never change.
    #[test]
    fn golden_bytes() {
        let slot = Slot {
            backend: Backend {
                ip: Ipv4Addr::LOCALHOST,
                container_id: "67e55044-10b1-426f-9247-bb680e5fe0c8".parse().unwrap(),
            },
            revision: Revision(7),
            role: SlotRole::Standby,
            pinned: true,
        };
        let bytes = b"\x7f\0\0\x01\x67\xe5\x50\x44\x10\xb1\x42\x6f\x92\x47\xbb\x68\x0e\x5f\xe0\xc8\
            \0\0\0\0\0\0\0\x07\x01\x01";
        assert_eq!(Slot::encode_list(&[slot]), bytes);
        assert_eq!(Slot::decode_list(bytes), Ok(vec![slot]));
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_are_a_list_that_packs_to_them_or_an_error(bytes in prop::collection::vec(0..3u8, 0..200)) {
            match Slot::decode_list(&bytes) {
                Ok(slots) => prop_assert_eq!(Slot::encode_list(&slots), bytes),
                Err(SlotsError::Length(length)) => prop_assert!(length % SLOT_BYTES != 0),
                Err(_) => {}
            }
        }
    }
}

//! Backends: the containers that requests for a function are sent to.
//!
//! On the wire a list of backends is packed, 20 bytes each, because every frontend holds the lists
//! of all functions and reads them on each change:
//!
//! ```text
//!  0        4                          20
//!  ├ IPv4 ──┼── container id (UUID) ───┤  repeated, no header, no padding
//! ```

use std::fmt;
use std::net::Ipv4Addr;

use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::ContainerId;

/// Bytes of one packed backend: 4 of the address, 16 of the container id.
pub const BACKEND_BYTES: usize = 20;

/// A slot of a function: one container on one node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Backend {
    /// The node's address.
    pub ip: Ipv4Addr,
    /// The container on it.
    pub container_id: ContainerId,
}

/// Bytes that are not a packed list of backends.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum BackendsError {
    /// The length tells that something is cut off or too much.
    #[error("a list of backends has {0} bytes, which is not a multiple of {BACKEND_BYTES}")]
    Length(usize),
}

impl Backend {
    /// Packs a list.
    pub fn encode_list(backends: &[Self]) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(backends.len() * BACKEND_BYTES);
        for backend in backends {
            bytes.extend_from_slice(&backend.ip.octets());
            bytes.extend_from_slice(backend.container_id.as_bytes());
        }
        bytes
    }

    /// Unpacks a list, in the order it was packed.
    pub fn decode_list(bytes: &[u8]) -> Result<Vec<Self>, BackendsError> {
        let (records, rest) = bytes.as_chunks::<BACKEND_BYTES>();
        if !rest.is_empty() {
            return Err(BackendsError::Length(bytes.len()));
        }
        Ok(records.iter().map(Self::decode).collect())
    }

    fn decode(record: &[u8; BACKEND_BYTES]) -> Self {
        let [a, b, c, d, id @ ..] = *record;
        Self {
            ip: Ipv4Addr::new(a, b, c, d),
            container_id: ContainerId::from_bytes(id),
        }
    }
}

impl fmt::Display for Backend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.ip, self.container_id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// These bytes are in ZooKeeper on somebody's machines. They never change.
    #[test]
    fn golden_bytes() {
        let backend = Backend {
            ip: Ipv4Addr::new(127, 0, 0, 1),
            container_id: "67e55044-10b1-426f-9247-bb680e5fe0c8".parse().unwrap(),
        };
        let bytes = b"\x7f\0\0\x01\x67\xe5\x50\x44\x10\xb1\x42\x6f\x92\x47\xbb\x68\x0e\x5f\xe0\xc8";
        assert_eq!(Backend::encode_list(&[backend]), bytes);
        assert_eq!(Backend::decode_list(bytes), Ok(vec![backend]));
    }

    #[test]
    fn a_cut_list_is_refused() {
        assert_eq!(
            Backend::decode_list(&[0; 21]),
            Err(BackendsError::Length(21))
        );
        assert_eq!(Backend::decode_list(&[]), Ok(vec![]));
    }

    proptest! {
        #[test]
        fn every_list_reads_back(list in prop::collection::vec((any::<u32>(), any::<[u8; 16]>()), 0..50)) {
            let list: Vec<_> = list.into_iter().map(|(ip, id)| Backend {
                ip: ip.into(),
                container_id: ContainerId::from_bytes(id),
            }).collect();
            prop_assert_eq!(Backend::decode_list(&Backend::encode_list(&list)), Ok(list));
        }

        #[test]
        fn arbitrary_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            if let Ok(list) = Backend::decode_list(&bytes) {
                prop_assert_eq!(Backend::encode_list(&list), bytes);
            }
        }
    }
}

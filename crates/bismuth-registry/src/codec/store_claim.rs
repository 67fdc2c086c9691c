//! Codec of the claim on the services' embedded store, version 1. Frozen like the records of v1.rs.

use std::net::Ipv4Addr;

use bismuth_model::StoreClaim;
use bytes::Bytes;

use super::wire::{Decode, Encode};
use super::{Error, Record, decode, encode, largest_field};

#[derive(Encode, Decode)]
struct Claim {
    node: [u8; 4],
    store: String,
}

impl Record for StoreClaim {
    const NAME: &'static str = "store claim";

    fn encode(&self) -> Result<Bytes, Error> {
        let wire = Claim {
            node: self.node.octets(),
            store: self.store.clone(),
        };
        encode::<Self, _>(&wire, || largest_field(self))
    }

    fn decode(bytes: &[u8]) -> Result<Self, Error> {
        let Claim { node, store } = decode::<Self, Claim>(bytes)?;
        Ok(Self {
            node: Ipv4Addr::from(node),
            store,
        })
    }
}

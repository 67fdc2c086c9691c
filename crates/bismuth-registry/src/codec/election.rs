//! Codec of the records of the election, version 1. Frozen like the records of v1.rs.

use bismuth_model::{LeaderRecord, TermRecord};
use bytes::Bytes;

use super::wire::{Decode, Encode};
use super::{Error, Record, decode, encode, largest_field};

#[derive(Encode, Decode)]
struct Leader {
    name: String,
    term: u64,
    since_ms: u64,
}

#[derive(Encode, Decode)]
struct Term {
    number: u64,
    name: String,
    since_ms: u64,
}

impl Record for LeaderRecord {
    const NAME: &'static str = "leader record";

    fn encode(&self) -> Result<Bytes, Error> {
        let Self {
            name,
            term,
            since_ms,
        } = self.clone();
        let wire = Leader {
            name,
            term,
            since_ms,
        };
        encode::<Self, _>(&wire, || largest_field(self))
    }

    fn decode(bytes: &[u8]) -> Result<Self, Error> {
        let Leader {
            name,
            term,
            since_ms,
        } = decode::<Self, Leader>(bytes)?;
        Ok(Self {
            name,
            term,
            since_ms,
        })
    }
}

impl Record for TermRecord {
    const NAME: &'static str = "term record";

    fn encode(&self) -> Result<Bytes, Error> {
        let Self {
            number,
            name,
            since_ms,
        } = self.clone();
        let wire = Term {
            number,
            name,
            since_ms,
        };
        encode::<Self, _>(&wire, || largest_field(self))
    }

    fn decode(bytes: &[u8]) -> Result<Self, Error> {
        let Term {
            number,
            name,
            since_ms,
        } = decode::<Self, Term>(bytes)?;
        Ok(Self {
            number,
            name,
            since_ms,
        })
    }
}

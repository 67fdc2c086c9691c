//! Codec of what serves, and of the list of slots. Version 1 is frozen like the records of v1.rs.

use bismuth_model::{Affinity, Hostname, Revision, Serving, ServingGroup, Slot};
use bytes::Bytes;

use super::wire::{Decode, Encode};
use super::{Error, Record, decode, encode, fitting, largest_field, v1};

#[derive(Encode, Decode)]
struct Served {
    concurrency: u32,
    timeout_ms: u64,
    idle_timeout_ms: u64,
    startup_timeout_ms: u64,
    affinity: Option<v1::Sticky>,
    hostnames: Vec<String>,
    groups: Vec<Group>,
    backends_version: i32,
    withdrawn: bool,
}

#[derive(Encode, Decode)]
struct Group {
    revision: u64,
    weight: u32,
    active: u32,
    standby: u32,
}

impl Record for Serving {
    const NAME: &'static str = "serving record";

    fn encode(&self) -> Result<Bytes, Error> {
        let group = |group: &ServingGroup| Group {
            revision: group.revision.0,
            weight: group.weight,
            active: group.active,
            standby: group.standby,
        };
        let wire = Served {
            concurrency: self.concurrency,
            timeout_ms: self.timeout_ms,
            idle_timeout_ms: self.idle_timeout_ms,
            startup_timeout_ms: self.startup_timeout_ms,
            affinity: self.affinity.as_ref().map(v1::Sticky::from),
            hostnames: self
                .hostnames
                .iter()
                .map(|hostname| hostname.as_str().to_owned())
                .collect(),
            groups: self.groups.iter().map(group).collect(),
            backends_version: self.backends_version,
            withdrawn: self.withdrawn,
        };
        encode::<Self, _>(&wire, || largest_field(self))
    }

    fn decode(bytes: &[u8]) -> Result<Self, Error> {
        let wire = decode::<Self, Served>(bytes)?;
        let hostname = |name: &String| {
            Hostname::parse(name).map_err(|error| Error::Field {
                record: Self::NAME,
                field: "hostnames",
                reason: error.to_string(),
            })
        };
        let group = |group: Group| ServingGroup {
            revision: Revision(group.revision),
            weight: group.weight,
            active: group.active,
            standby: group.standby,
        };
        Ok(Self {
            concurrency: wire.concurrency,
            timeout_ms: wire.timeout_ms,
            idle_timeout_ms: wire.idle_timeout_ms,
            startup_timeout_ms: wire.startup_timeout_ms,
            affinity: wire.affinity.map(Affinity::from),
            hostnames: wire
                .hostnames
                .iter()
                .map(hostname)
                .collect::<Result<_, _>>()?,
            groups: wire.groups.into_iter().map(group).collect(),
            backends_version: wire.backends_version,
            withdrawn: wire.withdrawn,
        })
    }
}

impl Record for Vec<Slot> {
    const NAME: &'static str = "slot list";

    fn encode(&self) -> Result<Bytes, Error> {
        fitting::<Self>(Slot::encode_list(self), || ".".to_owned())
    }

    fn decode(bytes: &[u8]) -> Result<Self, Error> {
        Slot::decode_list(bytes).map_err(|error| Error::Malformed {
            record: Self::NAME,
            reason: error.to_string(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// These bytes are in ZooKeeper on somebody's machines. They never change.
    #[test]
    fn golden_bytes() {
        let serving = Serving {
            concurrency: 10,
            timeout_ms: 30_000,
            idle_timeout_ms: 60_000,
            startup_timeout_ms: 20,
            affinity: Some(Affinity::Cookie("session".to_owned())),
            hostnames: vec![Hostname::parse("a.b").unwrap()],
            groups: vec![ServingGroup {
                revision: Revision(7),
                weight: 3,
                active: 2,
                standby: 1,
            }],
            backends_version: 5,
            withdrawn: true,
        };
        let bytes = b"\x01\x0a\xfb\x30\x75\xfb\x60\xea\x14\x01\x01\x07session\x01\x03a.b\x01\x07\x03\x02\x01\x0a\x01";
        assert_eq!(serving.encode().unwrap(), bytes.as_slice());
        assert_eq!(Serving::decode(bytes).unwrap(), serving);
    }
}

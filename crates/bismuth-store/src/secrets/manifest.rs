//! A group's manifest: the names, versions and digests of its secrets. Pure. It is sealed before it is stored.
//!
//! ```text
//!   for each secret, in the order of names:  length of the name (u16) │ name │ version (u64) │ modified, ms (u64) │ digest (32)
//! ```

use bytes::Buf as _;

/// Bytes of a digest of a record: SHA-256.
pub(super) const DIGEST_BYTES: usize = 32;

/// The secrets of a group, in the order of their names. It is read whole for each secret that is asked for, so it is no more than a list:
/// to build a tree of a thousand names took twice as long as to open them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Manifest(Vec<(String, Entry)>);

/// What is known of a secret without its record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Entry {
    /// Its current version.
    pub(super) version: u64,
    /// When it was written, milliseconds since the Unix epoch.
    pub(super) modified_ms: u64,
    /// Of the record with its values.
    pub(super) digest: [u8; DIGEST_BYTES],
}

impl Manifest {
    pub(super) fn get(&self, name: &str) -> Option<&Entry> {
        self.find(name).ok().map(|at| &self.0[at].1)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (&str, &Entry)> {
        self.0.iter().map(|(name, entry)| (name.as_str(), entry))
    }

    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(super) fn insert(&mut self, name: &str, entry: Entry) {
        match self.find(name) {
            Ok(at) => self.0[at].1 = entry,
            Err(at) => self.0.insert(at, (name.to_owned(), entry)),
        }
    }

    pub(super) fn remove(&mut self, name: &str) {
        if let Ok(at) = self.find(name) {
            self.0.remove(at);
        }
    }

    /// Where a name is, or where it would be.
    fn find(&self, name: &str) -> Result<usize, usize> {
        self.0
            .binary_search_by(|(known, _)| known.as_str().cmp(name))
    }

    pub(super) fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        for (name, entry) in &self.0 {
            let length = u16::try_from(name.len()).expect("a key has at most 512 bytes");
            bytes.extend_from_slice(&length.to_be_bytes());
            bytes.extend_from_slice(name.as_bytes());
            bytes.extend_from_slice(&entry.version.to_be_bytes());
            bytes.extend_from_slice(&entry.modified_ms.to_be_bytes());
            bytes.extend_from_slice(&entry.digest);
        }
        bytes
    }

    pub(super) fn decode(mut bytes: &[u8]) -> Option<Self> {
        let mut entries: Vec<(String, Entry)> = Vec::new();
        while !bytes.is_empty() {
            let length = bytes.try_get_u16().ok()?;
            let (name, rest) = bytes.split_at_checked(length.into())?;
            bytes = rest;
            let entry = Entry {
                version: bytes.try_get_u64().ok()?,
                modified_ms: bytes.try_get_u64().ok()?,
                digest: *bytes.split_off(..DIGEST_BYTES)?.first_chunk()?,
            };
            let name = std::str::from_utf8(name).ok()?;
            // In their order, each once: they were encoded like that.
            if entries
                .last()
                .is_some_and(|(last, _)| last.as_str() >= name)
            {
                return None;
            }
            entries.push((name.to_owned(), entry));
        }
        Some(Self(entries))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn entry(version: u64) -> Entry {
        Entry {
            version,
            modified_ms: 0x1234,
            digest: [7; DIGEST_BYTES],
        }
    }

    #[test]
    fn the_format_is_the_one_that_is_stored() {
        let mut manifest = Manifest::default();
        manifest.insert("b", entry(2));
        manifest.insert("a/ä", entry(1));
        let mut golden = b"\0\x04a/\xc3\xa4".to_vec();
        golden.extend_from_slice(b"\0\0\0\0\0\0\0\x01\0\0\0\0\0\0\x12\x34");
        golden.extend_from_slice(&[7; 32]);
        golden.extend_from_slice(b"\0\x01b\0\0\0\0\0\0\0\x02\0\0\0\0\0\0\x12\x34");
        golden.extend_from_slice(&[7; 32]);
        assert_eq!(manifest.encode(), golden);
        assert_eq!(Manifest::decode(&golden), Some(manifest));
        assert_eq!(Manifest::decode(b""), Some(Manifest::default()));
    }

    #[test]
    fn names_that_are_out_of_order_or_twice_are_none() {
        let of = |names: &[&str]| {
            let entries = names.iter().map(|name| ((*name).to_owned(), entry(1)));
            Manifest::decode(&Manifest(entries.collect()).encode())
        };
        assert!(of(&["a", "b"]).is_some());
        for wrong in [["b", "a"], ["a", "a"]] {
            assert_eq!(of(&wrong), None);
        }
    }

    #[test]
    fn the_largest_is_a_record_that_every_engine_takes() {
        let name = "n".repeat(500);
        let mut manifest = Manifest::default();
        for n in 0..crate::secrets::MAX_SECRETS {
            manifest.insert(&format!("{name}-{n:010}"), entry(1));
        }
        assert!(manifest.encode().len() < 1 << 20);
    }

    proptest! {
        #[test]
        fn what_was_encoded_is_decoded_and_nothing_that_was_cut(
            names in prop::collection::btree_map(".{0,30}", any::<u64>(), 1..8),
            at: prop::sample::Index,
        ) {
            let entries = names.into_iter().map(|(name, version)| (name, entry(version)));
            let manifest = Manifest(entries.collect());
            let bytes = manifest.encode();
            prop_assert_eq!(Manifest::decode(&bytes), Some(manifest.clone()));
            let cut = Manifest::decode(&bytes[..at.index(bytes.len())]);
            prop_assert_ne!(cut, Some(manifest));
        }

        #[test]
        fn anything_is_refused_or_decoded_without_a_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _manifest = Manifest::decode(&bytes);
        }
    }
}

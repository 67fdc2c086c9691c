//! Any bytes as a leader or term record: an error, or a record that encodes and decodes to itself.
#![no_main]

use bismuth_model::{LeaderRecord, TermRecord};
use bismuth_registry::codec::Record;
use libfuzzer_sys::fuzz_target;

fn reads_back<R: Record + PartialEq + std::fmt::Debug>(bytes: &[u8]) {
    if let Ok(record) = R::decode(bytes) {
        let encoded = record.encode().expect("what was decoded from a znode fits into one");
        assert_eq!(R::decode(&encoded).expect("what was encoded decodes"), record);
        record.to_json();
    }
}

fuzz_target!(|bytes: &[u8]| {
    reads_back::<LeaderRecord>(bytes);
    reads_back::<TermRecord>(bytes);
});

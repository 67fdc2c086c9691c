//! Any bytes as node facts: an error, or a record that encodes and decodes to itself.
#![no_main]

use bismuth_model::NodeFacts;
use bismuth_registry::codec::Record;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    if let Ok(record) = NodeFacts::decode(bytes) {
        let encoded = record.encode().expect("what was decoded from a znode fits into one");
        assert_eq!(NodeFacts::decode(&encoded).expect("what was encoded decodes"), record);
        record.to_json();
    }
});

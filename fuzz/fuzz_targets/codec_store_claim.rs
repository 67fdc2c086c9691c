//! Any bytes as a store claim: an error, or a record that encodes and decodes to itself.
#![no_main]

use bismuth_model::StoreClaim;
use bismuth_registry::codec::Record;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    if let Ok(record) = StoreClaim::decode(bytes) {
        let encoded = record.encode().expect("what was decoded from a znode fits into one");
        assert_eq!(StoreClaim::decode(&encoded).expect("what was encoded decodes"), record);
        record.to_json();
    }
});

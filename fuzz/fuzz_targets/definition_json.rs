//! Any bytes as the JSON of a definition: an error with a reason, or a definition that survives being stored.
#![no_main]

use bismuth_model::{FunctionDefinition, FunctionRecord, Revision};
use bismuth_registry::codec::Record;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|json: &[u8]| match FunctionDefinition::from_json(json) {
    Err(error) => assert!(!error.field.is_empty() && !error.reason.is_empty(), "{error:?}"),
    Ok(definition) => {
        definition.validate().expect("what came through from_json is valid");
        let record = FunctionRecord { revision: Revision(1), definition, created_ms: 1, updated_ms: 2 };
        let stored = record.encode().expect("a definition within its limit fits into a znode");
        assert_eq!(FunctionRecord::decode(&stored).expect("what was encoded decodes"), record);
    }
});

//! Any bytes as a program's output: cut into records that read back to what was printed. Any bytes as a record: an
//! error, or a record that is written the same way.
#![no_main]

// The file alone: the daemon around it is of no use here, and takes minutes to build with sanitizers.
#[path = "../../bismuthd/src/logs/cri.rs"]
#[allow(dead_code)]
mod cri;

use std::time::UNIX_EPOCH;

use libfuzzer_sys::fuzz_target;

fuzz_target!(|chunks: Vec<Vec<u8>>| {
    let mut splitter = cri::Splitter::new(cri::Stream::Stdout);
    let (mut records, mut printed) = (Vec::new(), Vec::new());
    for chunk in &chunks {
        let _ = cri::decode(chunk);
        splitter.push(UNIX_EPOCH, chunk, &mut records);
        printed.extend_from_slice(chunk);
    }
    splitter.flush(UNIX_EPOCH, &mut records);
    let mut read = Vec::new();
    for line in records.split(|b| *b == b'\n').filter(|line| !line.is_empty()) {
        let record = cri::decode(line).expect("what was written is a record");
        assert!(record.content.len() <= cri::MAX_CONTENT);
        read.extend_from_slice(record.content);
        if record.full {
            read.push(b'\n');
        }
    }
    assert_eq!(read, printed);
});

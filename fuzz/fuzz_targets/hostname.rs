//! Any text as a hostname: an error, or a name that is its own canonical form and one segment of a path.
#![no_main]

use bismuth_model::Hostname;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    if let Ok(hostname) = Hostname::parse(text) {
        assert_eq!(Hostname::parse(hostname.as_str()).as_ref(), Ok(&hostname));
        assert!(!hostname.as_str().is_empty() && !hostname.as_str().contains('/'));
    }
});

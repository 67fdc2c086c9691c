//! Any text as an invoke mode: an error, or a mode whose text is that mode again.
#![no_main]

use bismuth_model::InvokeMode;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    if let Ok(mode) = text.parse::<InvokeMode>() {
        assert_eq!(mode.to_string().parse::<InvokeMode>().as_ref(), Ok(&mode));
    }
});

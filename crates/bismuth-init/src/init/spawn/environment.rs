//! The environment of a program: injected variables, then those of the request.

use std::ffi::{CStr, CString};

/// What was injected, and of the request what has another name: a program that looks for a name must find one value, whether
/// it takes the first or the last.
pub(super) fn of<'a>(injected: &'a [CString], requested: &'a [CString]) -> Vec<&'a CStr> {
    let is_injected = |entry: &CStr| injected.iter().any(|line| name(line) == name(entry));
    let requested = requested.iter().map(CString::as_c_str);
    let requested = requested.filter(|entry| !is_injected(entry));
    injected
        .iter()
        .map(CString::as_c_str)
        .chain(requested)
        .collect()
}

fn name(entry: &CStr) -> &[u8] {
    let bytes = entry.to_bytes();
    bytes.split(|byte| *byte == b'=').next().unwrap_or(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn injected_variables_come_first_and_once() {
        let strings = |of: &[&str]| -> Vec<CString> {
            let strings = of.iter().map(|s| CString::new(*s).expect("no zero bytes"));
            strings.collect()
        };
        let injected = strings(&["KEY=a=b", "EMPTY="]);
        let requested = strings(&["PATH=/", "KEY=theirs", "KEYS=1", "EMPTY", "A=1"]);
        let expected = strings(&["KEY=a=b", "EMPTY=", "PATH=/", "KEYS=1", "A=1"]);
        let expected: Vec<&CStr> = expected.iter().map(CString::as_c_str).collect();
        assert_eq!(of(&injected, &requested), expected);
    }
}

//! Parses and prints sizes in bytes with units: `128MiB`, `1.5 GiB`, `100MB`.

use std::fmt::Write as _;

const KIB: u64 = 1024;
const UNITS: [(&str, u64); 10] = [
    ("TiB", KIB * KIB * KIB * KIB),
    ("GiB", KIB * KIB * KIB),
    ("MiB", KIB * KIB),
    ("KiB", KIB),
    ("TB", 1_000_000_000_000),
    ("GB", 1_000_000_000),
    ("MB", 1_000_000),
    ("kB", 1000),
    ("KB", 1000),
    ("B", 1),
];

/// Reads `128MiB`, `1.5 GiB`, `100MB` or plain bytes. `M` alone is refused, because it means either.
pub(crate) fn parse(text: &str) -> Result<u64, String> {
    let refused = || {
        format!(
            "{text:?} is not a size: expected bytes, or a number with KiB, MiB, GiB, TiB, kB, MB, GB or TB"
        )
    };
    let (number, unit) = UNITS
        .iter()
        .find_map(|(name, unit)| Some((text.strip_suffix(name)?.trim_end(), *unit)))
        .unwrap_or((text, 1));
    if let Ok(whole) = number.parse::<u64>() {
        return whole
            .checked_mul(unit)
            .ok_or_else(|| format!("{text} is more than there can be"));
    }
    let plain = !number.is_empty() && number.bytes().all(|b| b.is_ascii_digit() || b == b'.');
    let fraction = number
        .parse::<f64>()
        .ok()
        .filter(|_| plain && unit > 1)
        .ok_or_else(refused)?;
    let bytes = fraction * unit as f64;
    // Larger than what an f64 counts one by one, it is not meant.
    if bytes < 9e15 {
        Ok(bytes.round() as u64)
    } else {
        Err(format!("{text} is more than there can be"))
    }
}

/// Writes it with at most one decimal, in powers of two.
pub(crate) fn show(bytes: u64) -> String {
    for (name, unit) in &UNITS[..4] {
        if bytes >= *unit {
            let tenths = (u128::from(bytes) * 10 + u128::from(unit / 2)) / u128::from(*unit);
            let mut text = (tenths / 10).to_string();
            if tenths % 10 != 0 {
                // Writing to a String cannot fail.
                let _ = write!(text, ".{}", tenths % 10);
            }
            return text + name;
        }
    }
    format!("{bytes}B")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_parsed() {
        let table = [
            ("0", Some(0)),
            ("134217728", Some(128 << 20)),
            ("128MiB", Some(128 << 20)),
            ("1GiB", Some(1 << 30)),
            ("1 GiB", Some(1 << 30)),
            ("1.5GiB", Some(3 << 29)),
            ("64KiB", Some(64 << 10)),
            ("2TiB", Some(2 << 40)),
            ("10MB", Some(10_000_000)),
            ("7B", Some(7)),
            ("128M", None),
            ("MiB", None),
            ("", None),
            ("-1", None),
            ("1e3MiB", None),
            ("infMiB", None),
            ("1.5", None),
            ("1..5GiB", None),
            ("99999999999TiB", None),
            ("99999999999.5TiB", None),
        ];
        for (text, expected) in table {
            assert_eq!(parse(text).ok(), expected, "{text:?}");
        }
    }

    #[test]
    fn sizes_are_printed_with_one_decimal_at_most() {
        for (bytes, expected) in [
            (0, "0B"),
            (1023, "1023B"),
            (1024, "1KiB"),
            (128 << 20, "128MiB"),
            (3 << 29, "1.5GiB"),
            (u64::MAX, "16777216TiB"),
        ] {
            assert_eq!(show(bytes), expected);
        }
    }
}

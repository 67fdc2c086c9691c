//! Prints results on standard output, as a table or JSON.

use std::io::{self, Write};
use std::time::{Duration, SystemTime};

use serde::Serialize;

use crate::args::Format;
use crate::error::Error;
use crate::terminal::escaped;

/// Where answers go.
pub(crate) struct Output<'a> {
    format: Format,
    stdout: &'a mut dyn Write,
}

impl<'a> Output<'a> {
    pub(crate) fn new(format: Format, stdout: &'a mut dyn Write) -> Self {
        Self { format, stdout }
    }

    pub(crate) fn is_json(&self) -> bool {
        self.format == Format::Json
    }

    /// One answer: as JSON, or as the text that `text` makes.
    pub(crate) fn answer(
        &mut self,
        value: &impl Serialize,
        text: impl FnOnce() -> String,
    ) -> Result<(), Error> {
        if self.is_json() {
            return self.json(value);
        }
        let text = text();
        self.with(|out| out.write_all(text.as_bytes()))
    }

    pub(crate) fn json(&mut self, value: &impl Serialize) -> Result<(), Error> {
        self.with(|out| {
            serde_json::to_writer_pretty(&mut *out, value)?;
            out.write_all(b"\n")
        })
    }

    /// One value per line, as soon as it is known.
    pub(crate) fn json_line(&mut self, value: &impl Serialize) -> Result<(), Error> {
        self.with(|out| {
            serde_json::to_writer(&mut *out, value)?;
            out.write_all(b"\n")
        })
    }

    pub(crate) fn bytes(&mut self, bytes: &[u8]) -> Result<(), Error> {
        self.with(|out| out.write_all(bytes))
    }

    pub(crate) fn with(
        &mut self,
        write: impl FnOnce(&mut dyn Write) -> io::Result<()>,
    ) -> Result<(), Error> {
        write(self.stdout)
            .and_then(|()| self.stdout.flush())
            .map_err(Error::Write)
    }
}

/// Aligned columns under their names, without spaces at the ends of lines. Each cell is in one line and without commands to a terminal,
/// because functions choose their keys.
pub(crate) fn table<const N: usize>(
    header: [&str; N],
    rows: impl Iterator<Item = [String; N]>,
) -> String {
    let shown = |cell: String| {
        let line = cell.replace('\n', "\\n").replace('\t', "\\t");
        escaped(&line).into_owned()
    };
    let rows = rows.map(|cells| cells.map(shown));
    let lines: Vec<[String; N]> = [header.map(str::to_owned)]
        .into_iter()
        .chain(rows)
        .collect();
    let widths: [usize; N] = std::array::from_fn(|column| {
        let cells = lines.iter().map(|line| line[column].chars().count());
        cells.max().unwrap_or(0)
    });
    let mut text = String::new();
    for line in lines {
        let cells = line.iter().zip(widths);
        let cells = cells.map(|(cell, width)| format!("{cell:width$}"));
        text.push_str(cells.collect::<Vec<_>>().join("  ").trim_end());
        text.push('\n');
    }
    text
}

/// Of a reason, what fits beside the rest of a line. JSON has it whole.
const REASON: usize = 80;

/// A cell for a reason, which may be long: its beginning, in one line.
pub(crate) fn shorten(reason: &str) -> String {
    let line = reason.split_whitespace().collect::<Vec<_>>().join(" ");
    if line.chars().count() <= REASON {
        return line;
    }
    line.chars().take(REASON - 1).chain(['…']).collect()
}

/// A cell for what may be absent.
pub(crate) fn or_dash(value: Option<impl ToString>) -> String {
    value.map_or("-".to_owned(), |value| value.to_string())
}

/// A cell for what is so or not.
pub(crate) fn yes(is: bool) -> String {
    if is { "yes" } else { "no" }.to_owned()
}

/// A moment as people read it, in UTC.
pub(crate) fn time(unix_ms: u64) -> String {
    /// The formatter knows no year with five digits.
    const YEAR_10000: u64 = 253_402_300_800_000;
    if unix_ms >= YEAR_10000 {
        return "never".to_owned();
    }
    let time = SystemTime::UNIX_EPOCH + Duration::from_millis(unix_ms);
    humantime::format_rfc3339_seconds(time).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_aligned_and_lines_end_without_spaces() {
        let rows = [
            ["a".to_owned(), "1".to_owned()],
            ["längst".to_owned(), String::new()],
        ];
        let text = table(["NAME", "N"], rows.into_iter());
        assert_eq!(text, "NAME    N\na       1\nlängst\n");
    }

    #[test]
    fn control_characters_in_a_cell_are_escaped() {
        let rows = [["a\u{1b}[2J\nb\u{7f}ä".to_owned()]];
        let text = table(["KEY"], rows.into_iter());
        assert_eq!(text, "KEY\na\\u{1b}[2J\\nb\\u{7f}ä\n");
    }

    #[test]
    fn times_are_shown_in_utc() {
        assert_eq!(time(1_767_323_045_678), "2026-01-02T03:04:05Z");
        assert_eq!(time(u64::MAX), "never");
    }
}

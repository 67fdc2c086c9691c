//! Escapes control characters in text from functions and servers, so that a terminal shows them and does not execute them.
//!
//! Escaped: C0 without line feed and tab, DEL, C1 (also as the single bytes that an 8-bit terminal obeys), and what overrides,
//! embeds or isolates a direction of writing, because text after it is not read as it stands. Whatever is no UTF-8 is escaped as bytes.

use std::borrow::Cow;
use std::io::{self, Write};

/// Whether a terminal would do something else than show it.
fn needs_escape(c: char) -> bool {
    let bidi = matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    bidi || (c.is_control() && !matches!(c, '\n' | '\t'))
}

/// `text` as a terminal may be sent it.
pub(crate) fn escaped(text: &str) -> Cow<'_, str> {
    if !text.contains(needs_escape) {
        return text.into();
    }
    let mut shown = String::with_capacity(text.len() + 16);
    for c in text.chars() {
        match needs_escape(c) {
            true => shown.extend(c.escape_default()),
            false => shown.push(c),
        }
    }
    shown.into()
}

/// Standard output that is a terminal.
#[derive(Debug)]
pub struct Terminal<W: Write> {
    inner: W,
    /// The beginning of a character whose end is not written yet.
    begun: Vec<u8>,
}

impl<W: Write> Terminal<W> {
    /// Writes to `inner` what is written to it, escaped.
    pub fn new(inner: W) -> Self {
        let begun = Vec::new();
        Self { inner, begun }
    }
}

impl<W: Write> Write for Terminal<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut all = std::mem::take(&mut self.begun);
        all.extend_from_slice(bytes);
        let mut chunks = all.utf8_chunks().peekable();
        while let Some(chunk) = chunks.next() {
            self.inner.write_all(escaped(chunk.valid()).as_bytes())?;
            let broken = chunk.invalid();
            if chunks.peek().is_none() && is_incomplete_character(broken) {
                self.begun = broken.to_vec();
            } else {
                write!(self.inner, "{}", broken.escape_ascii())?;
            }
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

impl<W: Write> Drop for Terminal<W> {
    fn drop(&mut self) {
        // Nobody is left to tell if the terminal is gone.
        let _ = write!(self.inner, "{}", self.begun.escape_ascii());
    }
}

/// Whether more bytes can make a character of these.
fn is_incomplete_character(bytes: &[u8]) -> bool {
    std::str::from_utf8(bytes).is_err_and(|error| error.error_len().is_none())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(writes: &[&[u8]]) -> String {
        let mut shown = Vec::new();
        let mut terminal = Terminal::new(&mut shown);
        for bytes in writes {
            terminal.write_all(bytes).unwrap();
        }
        drop(terminal);
        String::from_utf8(shown).unwrap()
    }

    #[test]
    fn text_is_unchanged_and_control_characters_are_escaped() {
        assert_eq!(shown(&["täb\t✓\n".as_bytes()]), "täb\t✓\n");
        assert_eq!(
            shown(&[b"\x1b]0;title\x07 \r \x7f"]),
            "\\u{1b}]0;title\\u{7} \\r \\u{7f}"
        );
        assert_eq!(
            shown(&["\u{9b}2J \u{202e}txt.exe".as_bytes()]),
            "\\u{9b}2J \\u{202e}txt.exe"
        );
    }

    #[test]
    fn invalid_utf8_is_escaped_and_a_character_split_over_two_writes_is_not() {
        assert_eq!(shown(&[b"\x9b2J \xff"]), "\\x9b2J \\xff");
        assert_eq!(shown(&[b"\xe2\x9c", b"\x93 \xc2", b"\x9b"]), "✓ \\u{9b}");
        assert_eq!(shown(&[b"cut \xe2\x9c"]), "cut \\xe2\\x9c");
    }
}

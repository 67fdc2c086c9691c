//! Rust source cut into tokens: enough of the grammar for checks that read `use` declarations, paths and definitions.

/// An identifier, a number, `::`, or one character of punctuation. Comments and literals are left out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Token<'a> {
    pub(crate) text: &'a str,
    /// From 1.
    pub(crate) line: usize,
}

impl Token<'_> {
    pub(crate) fn is_identifier(&self) -> bool {
        let first = self.text.chars().next();
        first.is_some_and(|c| c == '_' || c.is_alphabetic())
    }
}

pub(crate) fn tokens(source: &str) -> Vec<Token<'_>> {
    let mut found = Vec::new();
    let (mut at, mut line) = (0, 1);
    while let Some(first) = source[at..].chars().next() {
        let rest = &source[at..];
        let (length, is_token) = match skipped(rest) {
            0 if is_word(first) => (rest.find(|c| !is_word(c)).unwrap_or(rest.len()), true),
            0 if rest.starts_with("::") => (2, true),
            0 => (first.len_utf8(), true),
            length => (length, false),
        };
        let text = &rest[..length];
        if is_token {
            found.push(Token { text, line });
        }
        line += text.matches('\n').count();
        at += length;
    }
    found
}

fn is_word(c: char) -> bool {
    c == '_' || c.is_alphanumeric()
}

/// How many bytes of white space, comment or literal `rest` begins with.
fn skipped(rest: &str) -> usize {
    let end = |found: Option<usize>| found.unwrap_or(rest.len());
    if rest.starts_with(char::is_whitespace) {
        return end(rest.find(|c: char| !c.is_whitespace()));
    }
    if rest.starts_with("//") {
        return end(rest.find('\n'));
    }
    if rest.starts_with("/*") {
        return block_comment(rest);
    }
    let prefix = rest.find(|c| !matches!(c, 'b' | 'c' | 'r')).unwrap_or(0);
    let (prefix, literal) = rest.split_at(prefix.min(2));
    let hashes = literal.len() - literal.trim_start_matches('#').len();
    if prefix.ends_with('r') && literal[hashes..].starts_with('"') {
        let close = format!("\"{}", "#".repeat(hashes));
        let begin = prefix.len() + hashes + 1;
        return end(rest[begin..]
            .find(&close)
            .map(|at| begin + at + close.len()));
    }
    if literal.starts_with('"') {
        return prefix.len() + quoted(literal, '"');
    }
    // Else it is a lifetime.
    let mut after = literal.chars().skip(1);
    let is_char = matches!(
        (after.next(), after.next()),
        (Some('\\'), _) | (_, Some('\''))
    );
    if literal.starts_with('\'') && is_char {
        return prefix.len() + quoted(literal, '\'');
    }
    0
}

/// The length of a literal that begins and ends with `quote`.
fn quoted(literal: &str, quote: char) -> usize {
    let mut escaped = false;
    for (at, c) in literal.char_indices().skip(1) {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            _ if c == quote => return at + 1,
            _ => {}
        }
    }
    literal.len()
}

/// The length of a block comment with those in it.
fn block_comment(rest: &str) -> usize {
    let (mut at, mut depth) = (0, 0);
    while at < rest.len() {
        match rest.as_bytes().get(at..at + 2) {
            Some(b"/*") => (depth, at) = (depth + 1, at + 2),
            Some(b"*/") if depth == 1 => return at + 2,
            Some(b"*/") => (depth, at) = (depth - 1, at + 2),
            _ => at += 1,
        }
    }
    rest.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn comments_and_literals_are_left_out_and_lifetimes_are_not() {
        let source = r##"
            fn a<'b>(c: &'b str) -> char { // fn comment
                /* fn /* nested */ still */
                let d = ("fn \" e", r#"fn " f"#, b"fn", b'\'', '"', "in
two lines");
                crate::g(d)
            }"##;
        let found = tokens(source);
        let words: Vec<&str> = found
            .iter()
            .filter(|token| token.is_identifier() || token.text == "::")
            .map(|token| token.text)
            .collect();
        let expected = "fn a b c b str char let d crate :: g d";
        assert_eq!(words.join(" "), expected);
        assert_eq!(found.last().map(|token| token.line), Some(7));
    }
}

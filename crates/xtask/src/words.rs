//! Retired names: `words.txt` lists identifiers that no type, enum variant, function or module may have.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result, bail};

use crate::command::{report, root};
use crate::sources::rust_sources;
use crate::tokens::{Token, tokens};

/// In the workspace's root: `IDENTIFIER what the field says instead`, one in a line; `#` begins a comment.
const LIST: &str = "words.txt";

/// What is called by the identifier that follows.
const DEFINES: [&str; 7] = ["struct", "enum", "union", "trait", "type", "fn", "mod"];

/// Reads every source and reports every definition of a name that is listed.
pub(crate) fn check() -> Result<()> {
    let text = fs::read_to_string(root().join(LIST)).with_context(|| format!("read {LIST}"))?;
    let words = parse(&text)?;
    let mut found = Vec::new();
    for (path, source) in rust_sources()? {
        found.extend(violations(&words, &path, &source));
    }
    report(&found)
}

/// Each identifier with what to say instead, which may be nothing.
fn parse(text: &str) -> Result<BTreeMap<&str, &str>> {
    let mut words = BTreeMap::new();
    for (number, line) in text.lines().enumerate() {
        let line = line.split('#').next().unwrap_or_default().trim();
        if line.is_empty() {
            continue;
        }
        let (word, instead) = line.split_once(char::is_whitespace).unwrap_or((line, ""));
        let is_one = matches!(tokens(word).as_slice(), [token] if token.is_identifier());
        if !is_one || words.insert(word, instead.trim()).is_some() {
            bail!(
                "{LIST}:{}: {word} is no identifier, or is listed twice",
                number + 1
            );
        }
    }
    Ok(words)
}

fn violations(words: &BTreeMap<&str, &str>, path: &Path, source: &str) -> Vec<String> {
    let path = path.display();
    let says = |word: &str, line: usize| {
        let instead = words.get(word)?;
        let hint = if instead.is_empty() { "" } else { "; say " };
        Some(format!(
            "{path}:{line}: {word} is not to come back{hint}{instead}"
        ))
    };
    let tokens = tokens(source);
    let defined = tokens.windows(2).filter_map(|pair| match pair {
        [Token { text, .. }, name] if DEFINES.contains(text) => says(name.text, name.line),
        _ => None,
    });
    let variants = variants(&tokens);
    let variants = variants
        .iter()
        .filter_map(|name| says(name.text, name.line));
    says(&module(&path.to_string()), 1)
        .into_iter()
        .chain(defined)
        .chain(variants)
        .collect()
}

/// The variants of all enums: what follows a brace or a comma in the body itself, attributes aside.
fn variants<'a>(tokens: &'a [Token<'a>]) -> Vec<&'a Token<'a>> {
    let mut found = Vec::new();
    let mut rest = tokens.iter();
    while rest.any(|token| token.text == "enum") {
        let (mut depth, mut begins) = (0_usize, false);
        for token in rest.by_ref() {
            match token.text {
                "{" | "(" | "[" => depth += 1,
                "}" | ")" | "]" => depth = depth.saturating_sub(1),
                // Before the body: the enum's name and parameters.
                _ if depth == 0 && token.text != ";" => continue,
                _ if depth == 1 && begins && token.is_identifier() => found.push(token),
                _ => {}
            }
            if depth == 0 {
                break;
            }
            begins = depth == 1 && matches!(token.text, "{" | "," | "]");
        }
    }
    found
}

/// The module that a file is.
fn module(path: &str) -> String {
    let path = path.trim_end_matches(".rs").trim_end_matches("/mod");
    path.rsplit('/').next().unwrap_or(path).to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    const WORDS: &str = "# What was, and what is.\nCrowd  ConnectionLimiter\nshelf a pool # of what is idle\nMeans\n";

    fn found(path: &str, source: &str) -> Vec<String> {
        violations(&parse(WORDS).unwrap(), Path::new(path), source)
    }

    #[test]
    fn a_type_a_function_and_a_module_of_a_listed_name_are_refused() {
        assert_eq!(
            found("a/src/x.rs", "//! A Crowd.\npub(crate) struct Crowd<T>(T);"),
            ["a/src/x.rs:2: Crowd is not to come back; say ConnectionLimiter"]
        );
        assert_eq!(
            found("a/src/x.rs", "trait Means { fn shelf(&self); }").len(),
            2
        );
        assert_eq!(
            found("a/src/shelf/mod.rs", ""),
            ["a/src/shelf/mod.rs:1: shelf is not to come back; say a pool"]
        );
        assert_eq!(found("a/tests/shelf.rs", "mod shelf {}").len(), 2);
    }

    #[test]
    fn a_variant_of_a_listed_name_is_refused() {
        let source = "enum E<T> { A { Means: u8 }, #[default]\n/// Doc.\nMeans(T), C }\nstruct S { Crowd: u8 }\nenum F { Crowd }";
        let refused = found("a/src/x.rs", source);
        assert_eq!(refused.len(), 2, "{refused:?}");
    }

    #[test]
    fn other_names_variables_and_comments_pass() {
        let source = "/// No struct Crowd.\nstruct Crowds; fn f(shelf: u8) -> Means { \"mod shelf\"; g.shelf() }";
        assert_eq!(found("a/src/shelves.rs", source), [""; 0]);
    }

    #[test]
    fn a_malformed_list_is_refused() {
        assert!(parse("two-words\n").is_err());
        assert!(parse("Crowd\nCrowd again\n").is_err());
    }
}

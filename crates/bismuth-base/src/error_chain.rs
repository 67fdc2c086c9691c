//! Formats an error with its causes as one line of text.

use std::error::Error;

/// An error with all its sources, outermost first, in one line whatever they contain. A source that the text before it already
/// tells is not repeated.
#[must_use]
pub fn chain(error: &dyn Error) -> String {
    let mut text = one_line(error);
    let mut next = error.source();
    while let Some(source) = next {
        let cause = one_line(source);
        if !text.contains(&cause) {
            text.push_str(": ");
            text.push_str(&cause);
        }
        next = source.source();
    }
    text
}

fn one_line(error: &dyn Error) -> String {
    let text = error.to_string();
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("{0}")]
    struct Told(&'static str, #[source] Option<Box<Told>>);

    #[test]
    fn every_cause_is_told_once_and_on_one_line() {
        let cause = Told("the address\n\tis in use", None);
        let bind = Told("bind 127.0.0.1:8001", Some(Box::new(cause)));
        let retold = Told("start: bind 127.0.0.1:8001 (once)", Some(Box::new(bind)));
        assert_eq!(
            chain(&retold),
            "start: bind 127.0.0.1:8001 (once): the address is in use"
        );
    }
}

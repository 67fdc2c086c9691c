//! Reads a value from the command line, standard input or a file.

use std::io::{self, IsTerminal as _};
use std::path::PathBuf;

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncReadExt as _};

use crate::error::Error;

/// Where a value comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ValueSource {
    /// The command line.
    Literal(String),
    /// Standard input.
    Stdin,
    /// A file.
    File(PathBuf),
}

impl ValueSource {
    /// `-`, `@FILE`, or the value itself.
    ///
    /// # Errors
    /// None; it is a parser of arguments.
    pub fn value(text: &str) -> Result<Self, String> {
        Ok(Self::stream(text).unwrap_or_else(|_| Self::Literal(text.to_owned())))
    }

    /// `-` or `@FILE`.
    ///
    /// # Errors
    /// Anything else.
    pub fn stream(text: &str) -> Result<Self, String> {
        match text.strip_prefix('@') {
            _ if text == "-" => Ok(Self::Stdin),
            Some(path) if !path.is_empty() => Ok(Self::File(PathBuf::from(path))),
            _ => Err("expected - for standard input, or @ and the path of a file".to_owned()),
        }
    }

    /// All of it, if it is at most `limit` bytes.
    pub(crate) async fn read(&self, limit: usize) -> Result<Bytes, Error> {
        let value = match self {
            Self::Literal(text) => text.clone().into_bytes(),
            Self::Stdin => read(tokio::io::stdin(), limit)
                .await
                .map_err(Error::Stdin)?,
            Self::File(path) => {
                let failed = |source| Error::Read {
                    path: path.clone(),
                    source,
                };
                let file = tokio::fs::File::open(path).await.map_err(failed)?;
                read(file, limit).await.map_err(failed)?
            }
        };
        if value.len() > limit {
            return Err(Error::ValueTooLarge { limit });
        }
        Ok(Bytes::from(value))
    }

    /// All of it as it was meant: whoever types a value ends it with a line feed that is not part of it.
    pub(crate) async fn read_typed(&self, limit: usize) -> Result<Bytes, Error> {
        let typed = *self == Self::Stdin && io::stdin().is_terminal();
        if typed {
            eprintln!("type the value, then Return and Ctrl-D:");
        }
        let value = self.read(limit).await?;
        Ok(if typed {
            without_line_feed(value)
        } else {
            value
        })
    }
}

/// One byte more than the limit tells that there is more.
async fn read(reader: impl AsyncRead + Unpin, limit: usize) -> io::Result<Vec<u8>> {
    let mut value = Vec::new();
    let bound = u64::try_from(limit).unwrap_or(u64::MAX).saturating_add(1);
    reader.take(bound).read_to_end(&mut value).await?;
    Ok(value)
}

fn without_line_feed(mut value: Bytes) -> Bytes {
    if value.ends_with(b"\n") {
        value.truncate(value.len() - 1);
    }
    value
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dash_at_file_and_literal_are_recognised() {
        assert_eq!(ValueSource::stream("-"), Ok(ValueSource::Stdin));
        assert_eq!(
            ValueSource::stream("@a/b"),
            Ok(ValueSource::File("a/b".into()))
        );
        assert!(ValueSource::stream("text").is_err() && ValueSource::stream("@").is_err());
        assert_eq!(
            ValueSource::value("text"),
            Ok(ValueSource::Literal("text".into()))
        );
        assert_eq!(ValueSource::value("-"), Ok(ValueSource::Stdin));
    }

    #[test]
    fn one_trailing_line_feed_of_typed_input_is_dropped() {
        for (typed, meant) in [
            ("a\n", "a"),
            ("a\n\n", "a\n"),
            ("a", "a"),
            ("\n", ""),
            ("", ""),
        ] {
            assert_eq!(without_line_feed(Bytes::from(typed)), meant);
        }
    }

    #[tokio::test]
    async fn at_most_one_byte_above_the_limit_is_read() {
        assert_eq!(read(tokio::io::repeat(1), 3).await.unwrap().len(), 4);
        let literal = ValueSource::Literal("abcd".into());
        assert!(literal.read(4).await.is_ok());
        assert!(matches!(
            literal.read(3).await,
            Err(Error::ValueTooLarge { limit: 3 })
        ));
    }
}

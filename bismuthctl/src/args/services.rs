//! Command-line arguments of `secret`, `kv`, `blob` and `group`.

use std::path::PathBuf;
use std::time::Duration;

use bismuth_model::ServiceGroup;
use bismuth_operator::{DEFAULT_TOKEN_FILE, DEFAULT_URL};
use clap::Subcommand;
use http::HeaderValue;

use crate::services::value_source::ValueSource;

/// Where svcprovider is.
#[derive(Clone, Debug, clap::Args)]
pub struct Services {
    /// The URL of svcprovider's operator API.
    #[arg(long, env = "BISMUTH_SVCPROVIDER", value_name = "URL", default_value = DEFAULT_URL, global = true)]
    pub svcprovider: http::Uri,
    /// The file with its token, which only its owner may read.
    #[arg(long, env = "BISMUTH_SVCPROVIDER_TOKEN_FILE", value_name = "FILE", default_value = DEFAULT_TOKEN_FILE, global = true)]
    pub svcprovider_token_file: PathBuf,
}

/// A command on what svcprovider has.
#[derive(Debug, clap::Args)]
pub struct OnServices<C: Subcommand> {
    #[command(subcommand)]
    pub command: C,
    #[command(flatten)]
    pub services: Services,
}

/// The service group.
#[derive(Clone, Debug, clap::Args)]
pub struct GroupArg {
    /// The group: a function's svc_group_id, or its id if it has none.
    #[arg(short, long)]
    pub group: ServiceGroup,
}

/// One key of a group.
#[derive(Clone, Debug, clap::Args)]
pub struct KeyArg {
    /// The key.
    #[arg(value_parser = key)]
    pub key: String,
    #[command(flatten)]
    pub of: GroupArg,
}

/// What to do with secrets.
#[derive(Debug, Subcommand)]
pub enum SecretCommand {
    /// Set a secret, and print its version.
    ///
    /// The value is read from standard input or a file and never taken from the command line. Its bytes are kept as they are; only
    /// when standard input is a terminal, the line feed at its end is left off.
    Set(SecretValue),
    /// List the secrets of a group with their versions. Values are never shown.
    List {
        /// The group.
        group: ServiceGroup,
    },
    /// Give a secret that is there a new value, and print its version. Functions can still read the one before by its version.
    Rotate(SecretValue),
    /// Delete a secret with all its versions.
    Delete {
        /// The group.
        group: ServiceGroup,
        /// The secret.
        name: String,
    },
    /// Wrap the data keys of all groups with the current master key, while functions go on.
    Rewrap,
}

/// A secret and where its value comes from.
#[derive(Debug, clap::Args)]
pub struct SecretValue {
    /// The group.
    pub group: ServiceGroup,
    /// The secret.
    pub name: String,
    /// Where the value comes from: - for standard input (the default), or @FILE.
    // Anything is taken here and refused later: the parser would print what it refuses, which may be a secret.
    #[arg(value_name = "-|@FILE", allow_hyphen_values = true)]
    pub source: Option<String>,
    /// The rest of a secret that was typed here.
    #[arg(hide = true, num_args = 0.., allow_hyphen_values = true)]
    pub surplus: Vec<String>,
}

/// What to do with keys.
#[derive(Debug, Subcommand)]
pub enum KvCommand {
    /// Print a value as it is.
    Get(KeyArg),
    /// Set a value, and print its ETag.
    Put(KvPut),
    /// List keys, in order.
    List(List),
    /// Delete a key.
    Delete {
        #[command(flatten)]
        at: KeyArg,
        /// Only while the value has this ETag.
        #[arg(long, value_name = "ETAG", value_parser = etag)]
        if_match: Option<HeaderValue>,
    },
    /// Add to a number, which is 0 where there is none, and print the sum.
    Incr {
        #[command(flatten)]
        at: KeyArg,
        /// How much [default: 1].
        #[arg(long, value_name = "N", allow_hyphen_values = true)]
        by: Option<i64>,
    },
}

/// One value.
#[derive(Debug, clap::Args)]
pub struct KvPut {
    #[command(flatten)]
    pub at: KeyArg,
    /// The value: as it stands, @FILE, or - for standard input (the default).
    #[arg(value_name = "VALUE|-|@FILE", value_parser = ValueSource::value)]
    pub value: Option<ValueSource>,
    /// How long it stays: seconds, or a duration such as 10m or 2h.
    #[arg(long, value_name = "TIME", value_parser = ttl)]
    pub ttl: Option<u64>,
    /// Only while the value has this ETag; * is any value.
    #[arg(long, value_name = "ETAG", value_parser = etag)]
    pub if_match: Option<HeaderValue>,
    /// Only if there is no such key.
    #[arg(long, conflicts_with = "if_match")]
    pub if_absent: bool,
    /// What the value is, such as application/json.
    #[arg(long, value_name = "TYPE", value_parser = content_type)]
    pub content_type: Option<HeaderValue>,
}

/// What to do with blobs.
#[derive(Debug, Subcommand)]
pub enum BlobCommand {
    /// Print a blob, or write it to a file that appears when it is whole. Its digest is checked.
    Get {
        #[command(flatten)]
        at: KeyArg,
        /// Where to.
        #[arg(short, long)]
        file: Option<PathBuf>,
    },
    /// Set a blob, whether it is there or not, and print its ETag.
    Put(BlobPut),
    /// List blobs, in order.
    List(List),
    /// Delete a blob.
    Delete(KeyArg),
}

/// One blob.
#[derive(Debug, clap::Args)]
pub struct BlobPut {
    #[command(flatten)]
    pub at: KeyArg,
    /// Where it comes from: - for standard input, or @FILE.
    #[arg(value_name = "-|@FILE", default_value = "-", value_parser = ValueSource::stream)]
    pub source: ValueSource,
    /// What it is, such as image/png.
    #[arg(long, value_name = "TYPE", value_parser = content_type)]
    pub content_type: Option<HeaderValue>,
}

/// Which keys.
#[derive(Debug, clap::Args)]
pub struct List {
    #[command(flatten)]
    pub of: GroupArg,
    /// Only those that begin with this.
    #[arg(long, default_value = "", hide_default_value = true)]
    pub prefix: String,
}

/// What to do with groups.
#[derive(Debug, Subcommand)]
pub enum GroupCommand {
    /// List the groups that have something.
    List,
    /// Show what a group has.
    Show {
        /// The group.
        group: ServiceGroup,
    },
    /// Delete all that a group has: keys, blobs and secrets, whether functions use it or not.
    Purge {
        /// The group.
        group: ServiceGroup,
    },
}

/// An empty key would ask for the list.
fn key(text: &str) -> Result<String, &'static str> {
    match text {
        "" => Err("a key has at least one byte"),
        key => Ok(key.to_owned()),
    }
}

/// As `kv put` prints it; the quotes may have been lost on the way.
fn etag(text: &str) -> Result<HeaderValue, String> {
    let quoted = match text {
        "*" => text.to_owned(),
        text if text.len() > 1 && text.starts_with('"') && text.ends_with('"') => text.to_owned(),
        text if text.is_empty() || text.contains('"') => {
            return Err(format!("{text:?} is not an ETag"));
        }
        text => format!("\"{text}\""),
    };
    HeaderValue::from_str(&quoted).map_err(|_| format!("{text:?} is not an ETag"))
}

fn content_type(text: &str) -> Result<HeaderValue, String> {
    HeaderValue::from_str(text).map_err(|_| format!("{text:?} is not a content type"))
}

/// Whole seconds, at least one.
fn ttl(text: &str) -> Result<u64, String> {
    let time = match text.parse() {
        Ok(seconds) => Duration::from_secs(seconds),
        Err(_) => humantime::parse_duration(text)
            .map_err(|_| format!("{text:?} is neither seconds nor a duration such as 10m"))?,
    };
    if time.as_secs() == 0 || time.subsec_nanos() != 0 {
        return Err(format!("{text} is not a whole number of seconds above 0"));
    }
    Ok(time.as_secs())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_seconds_or_durations() {
        for (text, expected) in [
            ("90", Some(90)),
            ("10m", Some(600)),
            ("1h 30m", Some(5400)),
            ("0", None),
            ("500ms", None),
            ("-1", None),
            ("soon", None),
        ] {
            assert_eq!(ttl(text).ok(), expected, "{text}");
        }
    }

    #[test]
    fn an_etag_gets_back_the_quotes_that_a_shell_took() {
        for (text, expected) in [
            ("5f3a", Some("\"5f3a\"")),
            ("\"5f3a\"", Some("\"5f3a\"")),
            ("*", Some("*")),
            ("", None),
            ("\"", None),
            ("a\"b", None),
        ] {
            let expected = expected.map(HeaderValue::from_static);
            assert_eq!(etag(text).ok(), expected, "{text}");
        }
    }
}

//! Parses the query string of a request. Pure.

use std::num::NonZeroUsize;
use std::str::FromStr;

use bismuth_store::Key;

use super::percent;
use super::problems::{Refusal, bad_query};

/// Keys of one page, unless the request says.
const PAGE: usize = 100;
/// Keys of one page at most: some hundred KiB.
const MAX_PAGE: usize = 1000;
/// A hundred years: what lives longer lives for ever.
const MAX_TTL: u64 = 100 * 365 * 24 * 60 * 60;

/// Names and values.
#[derive(Debug, Default)]
pub(crate) struct Params(Vec<(String, String)>);

/// Which part of a listing is wanted.
#[derive(Debug)]
pub(crate) struct Page {
    pub prefix: String,
    pub after: Option<String>,
    pub limit: NonZeroUsize,
}

impl Params {
    /// Reads a query in which only `known` names may be, each once.
    pub(crate) fn parse(query: Option<&str>, known: &[&str]) -> Result<Self, Refusal> {
        let mut params = Self::default();
        for pair in query
            .unwrap_or_default()
            .split('&')
            .filter(|p| !p.is_empty())
        {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            let (name, value) = (decode(name)?, decode(value)?);
            if !known.contains(&name.as_str()) {
                return Err(bad_query(format!("there is no parameter {name:?} here")));
            }
            if params.get(&name).is_some() {
                return Err(bad_query(format!("the parameter {name:?} is repeated")));
            }
            params.0.push((name, value));
        }
        Ok(params)
    }

    pub(crate) fn get(&self, name: &str) -> Option<&str> {
        let found = self.0.iter().find(|(known, _)| known == name);
        found.map(|(_, value)| value.as_str())
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// A number, if the parameter is there.
    pub(crate) fn number<T: FromStr>(&self, name: &'static str) -> Result<Option<T>, Refusal> {
        let Some(text) = self.get(name) else {
            return Ok(None);
        };
        let number = text.parse().map(Some);
        number.map_err(|_| bad_query(format!("{name}={text:?} is not a number that it can be")))
    }

    /// How many milliseconds a record shall be, from `ttl` in seconds.
    pub(crate) fn ttl_ms(&self) -> Result<Option<u64>, Refusal> {
        self.number("ttl")?.map(ttl_ms).transpose()
    }

    /// `prefix`, `after` and `limit`.
    pub(crate) fn page(&self) -> Result<Page, Refusal> {
        let text = |name| match self.get(name) {
            Some(text) if text.len() > Key::MAX_BYTES || text.contains('\0') => {
                Err(bad_query(format!("{name} is not the beginning of a key")))
            }
            text => Ok(text.map(str::to_owned)),
        };
        let limit = self.number("limit")?.unwrap_or(PAGE);
        let limit = NonZeroUsize::new(limit).filter(|limit| limit.get() <= MAX_PAGE);
        Ok(Page {
            prefix: text("prefix")?.unwrap_or_default(),
            after: text("after")?,
            limit: limit
                .ok_or_else(|| bad_query(format!("limit is not within 1 to {MAX_PAGE}")))?,
        })
    }
}

/// The milliseconds of `ttl` seconds, if a record may live for so long.
pub(crate) fn ttl_ms(ttl: u64) -> Result<u64, Refusal> {
    if !(1..=MAX_TTL).contains(&ttl) {
        return Err(bad_query(format!(
            "ttl is not within 1 to {MAX_TTL} seconds"
        )));
    }
    Ok(ttl * 1000)
}

/// In a query `+` is a space (the form encoding that libraries write).
fn decode(text: &str) -> Result<String, Refusal> {
    let plain = |byte| if byte == b'+' { b' ' } else { byte };
    percent::decode(text.as_bytes(), plain).map_err(|error| bad_query(error.to_string()))
}

//! `secret`, `kv`, `blob` and `group`, over the operator API of svcprovider.
//!
//! ```text
//!  secret · kv · blob · group ──► OperatorClient: token, one exchange ──► svcprovider
//!  value_source: - or @FILE ──┘   └──► pagination: all of a list
//! ```

mod blob;
mod download;
mod group;
mod kv;
mod pagination;
mod purge;
mod secret;
pub(crate) mod value_source;

use std::time::Duration;

use bismuth_operator::{CallError, OperatorClient, ResponseBody};
use http::Response;
use http::header::{ETAG, HeaderName};
use serde::Serialize;

pub(crate) use self::{
    blob::run as blob, group::run as group, kv::run as kv, purge::delete_and_purge,
    secret::run as secret,
};
use crate::args::Services;
use crate::error::Error;
use crate::output::Output;

/// A daemon on a network of ours; more is a wrong address.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

fn surface(services: &Services) -> Result<OperatorClient, CallError> {
    OperatorClient::new(
        &services.svcprovider,
        services.svcprovider_token_file.clone(),
        CONNECT_TIMEOUT,
    )
}

/// A header as text; empty where there is none.
fn header(response: &Response<ResponseBody>, name: HeaderName) -> String {
    let value = response.headers().get(name);
    value
        .map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned())
        .unwrap_or_default()
}

fn etag(response: &Response<ResponseBody>) -> String {
    header(response, ETAG)
}

/// The answer of `put`: what was written, and its new ETag.
fn print_written(key: &str, etag: &str, output: &mut Output<'_>) -> Result<(), Error> {
    #[derive(Serialize)]
    struct Written<'a> {
        key: &'a str,
        etag: &'a str,
    }
    output.answer(&Written { key, etag }, || format!("{etag}\n"))
}

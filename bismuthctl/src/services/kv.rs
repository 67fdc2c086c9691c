//! `kv`: gets, puts, lists, deletes and increments keys.

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use bismuth_operator::{Call, CallError, OperatorClient, read_body};
use http::header::{CONTENT_TYPE, IF_MATCH, IF_NONE_MATCH};
use http::{HeaderValue, Method};
use http_body_util::Full;
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::value_source::ValueSource;
use super::{etag, header, pagination, print_written, surface};
use crate::args::{KeyArg, KvCommand, KvPut, List, OnServices};
use crate::byte_size;
use crate::error::Error;
use crate::output::{Output, or_dash, table, time};

/// svcprovider takes no more.
const MAX_BYTES: usize = 1 << 20;

#[derive(Serialize)]
struct KvGetOutput<'a> {
    key: &'a str,
    etag: String,
    content_type: String,
    /// Where it is text.
    #[serde(skip_serializing_if = "Option::is_none")]
    value: Option<&'a str>,
    /// Where it is not.
    #[serde(skip_serializing_if = "Option::is_none")]
    value_base64: Option<String>,
}

#[derive(Serialize, Deserialize)]
struct KvListEntry {
    key: String,
    etag: String,
    size: u64,
    content_type: Option<String>,
    modified_ms: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    expires_ms: Option<u64>,
}

pub(crate) async fn run(args: OnServices<KvCommand>, output: &mut Output<'_>) -> Result<(), Error> {
    let surface = surface(&args.services)?;
    match args.command {
        KvCommand::Get(KeyArg { key, of }) => {
            let call = Call::kv(Method::GET, &of.group, &key);
            get(&surface, call, &key, output).await
        }
        KvCommand::Put(put) => set(&surface, put, output).await,
        KvCommand::List(which) => list(&surface, &which, output).await,
        KvCommand::Delete { at, if_match } => {
            let KeyArg { key, of } = at;
            let mut call = Call::kv(Method::DELETE, &of.group, &key);
            if let Some(etag) = if_match {
                call = call.header(IF_MATCH, etag);
            }
            surface.ask(call).await?;
            eprintln!("key {key} of group {} is deleted", of.group);
            Ok(())
        }
        KvCommand::Incr { at, by } => {
            let mut call = Call::kv(Method::POST, &at.of.group, &at.key).with_segment("incr");
            if let Some(by) = by {
                call = call.query("by", &by.to_string());
            }
            incr(&surface, call, &at.key, output).await
        }
    }
}

async fn get(
    surface: &OperatorClient,
    call: Call,
    key: &str,
    output: &mut Output<'_>,
) -> Result<(), Error> {
    let answer = surface.ask(call).await?;
    let (etag, content_type) = (etag(&answer), header(&answer, CONTENT_TYPE));
    let value = read_body(surface, answer).await?;
    if !output.is_json() {
        return output.bytes(&value);
    }
    let text = std::str::from_utf8(&value).ok();
    output.json(&KvGetOutput {
        key,
        etag,
        content_type,
        value: text,
        value_base64: text.is_none().then(|| BASE64_STANDARD.encode(&value)),
    })
}

async fn set(surface: &OperatorClient, put: KvPut, output: &mut Output<'_>) -> Result<(), Error> {
    let value = put
        .value
        .unwrap_or(ValueSource::Stdin)
        .read(MAX_BYTES)
        .await?;
    let mut call = Call::kv(Method::PUT, &put.at.of.group, &put.at.key);
    if let Some(seconds) = put.ttl {
        call = call.query("ttl", &seconds.to_string());
    }
    if let Some(etag) = put.if_match {
        call = call.header(IF_MATCH, etag);
    }
    if put.if_absent {
        call = call.header(IF_NONE_MATCH, HeaderValue::from_static("*"));
    }
    if let Some(content_type) = put.content_type {
        call = call.header(CONTENT_TYPE, content_type);
    }
    let etag = etag(&surface.call(call, Full::new(value)).await?);
    print_written(&put.at.key, &etag, output)
}

async fn list(
    surface: &OperatorClient,
    which: &List,
    output: &mut Output<'_>,
) -> Result<(), Error> {
    let call = Call::kv(Method::GET, &which.of.group, "").query("prefix", &which.prefix);
    let keys: Vec<KvListEntry> = pagination::all(surface, call).await?;
    output.answer(&keys, || {
        let row = |key: &KvListEntry| {
            [
                key.key.clone(),
                byte_size::show(key.size),
                or_dash(key.content_type.as_ref()),
                time(key.modified_ms),
                or_dash(key.expires_ms.map(time)),
                key.etag.clone(),
            ]
        };
        let header = ["KEY", "SIZE", "TYPE", "MODIFIED", "EXPIRES", "ETAG"];
        table(header, keys.iter().map(row))
    })
}

async fn incr(
    surface: &OperatorClient,
    call: Call,
    key: &str,
    output: &mut Output<'_>,
) -> Result<(), Error> {
    let body = read_body(surface, surface.ask(call).await?).await?;
    let text = String::from_utf8_lossy(&body);
    let value: i64 = text.trim().parse().map_err(|_| CallError::Answer {
        address: surface.address(),
        reason: format!(
            "{:?} is not a number",
            text.chars().take(64).collect::<String>()
        ),
    })?;
    output.answer(&json!({"key": key, "value": value}), || {
        format!("{value}\n")
    })
}

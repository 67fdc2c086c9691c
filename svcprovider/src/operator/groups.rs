//! Handlers of `/group` and `/group/{group}`: list, show and purge groups.

use std::collections::BTreeSet;
use std::num::NonZeroUsize;

use bismuth_model::ServiceGroup;
use bismuth_store::records::{
    Change, Condition, EngineError, Keyspace, Query, RecordKey, Refused, Usage, Write,
};
use http::request::Parts;
use http::{Method, StatusCode};
use serde::Serialize;
use serde_json::json;

use super::{OperatorApi, only, secrets_failed};
use crate::http::params::Params;
use crate::http::problems::{self, Refusal};
use crate::http::{HandlerResult, listing};

/// Records that are removed at a time: one transaction of some milliseconds.
const PURGED_AT_ONCE: NonZeroUsize = NonZeroUsize::new(500).expect("it is not zero");

/// What a group has.
#[derive(Debug, Serialize)]
struct Group {
    group: String,
    kv: Used,
    blob: Used,
    secrets: u64,
}

#[derive(Debug, Default, Serialize)]
struct Used {
    bytes: u64,
    count: u64,
}

impl From<Usage> for Used {
    fn from(Usage { bytes, count }: Usage) -> Self {
        Self { bytes, count }
    }
}

/// The groups that have anything, in order.
pub(super) async fn list(operator: &OperatorApi, head: &Parts) -> HandlerResult {
    only(head, "GET, HEAD")?;
    let params = Params::parse(head.uri.query(), &["after", "limit"])?;
    let page = params.page()?;
    let mut names = BTreeSet::new();
    for keyspace in [Keyspace::Kv, Keyspace::Blob, Keyspace::Secret] {
        names.extend(operator.app.records.groups(keyspace).await?);
    }
    let after = |name: &&String| page.after.as_ref().is_none_or(|after| *name > after);
    let mut left = names.iter().filter(after);
    let mut groups = Vec::new();
    for name in left.by_ref().take(page.limit.get()) {
        groups.push(group(operator, name).await?);
    }
    let next = left
        .next()
        .and(groups.last())
        .map(|last| last.group.clone());
    let mut document = json!({ "groups": groups });
    if let Some(next) = next {
        document["next"] = next.into();
    }
    listing::json(&document)
}

/// One of them, or its end.
pub(super) async fn one(
    operator: &OperatorApi,
    head: &Parts,
    name: &ServiceGroup,
) -> HandlerResult {
    Params::parse(head.uri.query(), &[])?;
    if head.method == Method::DELETE {
        return purge(operator, name).await;
    }
    only(head, "GET, HEAD, DELETE")?;
    let found = group(operator, name.as_str()).await?;
    if found.kv.count == 0 && found.blob.count == 0 && found.secrets == 0 {
        let detail = format!("the group {} has nothing", name.as_str());
        return Err(Refusal::new(StatusCode::NOT_FOUND, "unknown_group", detail));
    }
    listing::json(&found)
}

async fn group(operator: &OperatorApi, name: &str) -> Result<Group, Refusal> {
    let records = &operator.app.records;
    Ok(Group {
        group: name.to_owned(),
        kv: records.usage(name, Keyspace::Kv).await?.into(),
        blob: operator.app.blobs.usage(name).await?.into(),
        // Not opened: a group that cannot be is shown, and mended by a purge.
        secrets: operator.secrets.count(name).await?,
    })
}

/// Removes everything. What is written meanwhile may stay: nobody should be writing.
async fn purge(operator: &OperatorApi, name: &ServiceGroup) -> HandlerResult {
    let group = name.as_str();
    let kv = purge_keys(operator, group).await?;
    let blobs = purge_blobs(operator, group).await?;
    let secrets = operator.secrets.purge(group).await;
    let secrets = secrets.map_err(secrets_failed)?;
    tracing::info!(group, kv, blobs, secrets, "purged a group");
    listing::json(&json!({ "kv": kv, "blobs": blobs, "secrets": secrets }))
}

async fn purge_blobs(operator: &OperatorApi, group: &str) -> Result<u64, Refusal> {
    let blobs = &operator.app.blobs;
    let mut removed = 0;
    loop {
        let listed = blobs.list(group, "", None, PURGED_AT_ONCE).await?.entries;
        if listed.is_empty() {
            return Ok(removed);
        }
        for (key, _) in &listed {
            match blobs.delete(group, key, &Condition::Always).await {
                Ok(()) => removed += 1,
                Err(error) if is_not_found(&error) => {}
                Err(EngineError::Broken { reason, .. }) => {
                    tracing::warn!(
                        group,
                        reason,
                        "the index entry of a broken blob is deleted; its object stays"
                    );
                    delete_index_entry(operator, group, key).await?;
                    removed += 1;
                }
                Err(error) => return Err(error.into()),
            }
        }
    }
}

/// Removes the entry of a blob that cannot be read. Nobody can know which object it had, and nothing else would ever remove it.
async fn delete_index_entry(
    operator: &OperatorApi,
    group: &str,
    key: &str,
) -> Result<(), EngineError> {
    let entry = RecordKey::new(group, Keyspace::Blob, key);
    match operator.app.records.write(vec![deletion(entry)]).await {
        Err(error) if !is_not_found(&error) => Err(error),
        _ => Ok(()),
    }
}

fn is_not_found(error: &EngineError) -> bool {
    error.refusal() == Some(&Refused::NotFound)
}

fn deletion(record_key: RecordKey) -> Write {
    Write::new(record_key, Condition::Always, Change::Delete)
}

async fn purge_keys(operator: &OperatorApi, group: &str) -> Result<usize, Refusal> {
    let records = &operator.app.records;
    let query = Query::all(group, Keyspace::Kv, PURGED_AT_ONCE);
    let mut removed = 0;
    loop {
        let page = records.list(&query).await?;
        if page.entries.is_empty() {
            return Ok(removed);
        }
        let record_key = |(key, _)| RecordKey::new(group, Keyspace::Kv, key);
        let record_keys = page.entries.into_iter().map(record_key);
        let batch: Vec<Write> = record_keys.map(deletion).collect();
        let count = batch.len();
        match records.write(batch).await {
            Ok(_) => removed += count,
            // One of them is gone already: what is left is listed anew.
            Err(error) if is_not_found(&error) => {}
            Err(error) => return Err(problems::not_written(error, "key", 0)),
        }
    }
}

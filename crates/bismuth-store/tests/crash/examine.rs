//! Reads a store that a killed process left: complete records, exact usage, and after a collection no orphaned object.

use std::collections::BTreeSet;
use std::num::NonZeroUsize;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use bismuth_store::blobs::{Blobs, Collected, Settings};
use bismuth_store::records::{Keyspace, Meta, Query, Record, RecordKey, Records, Usage};
use futures_util::TryStreamExt as _;

use crate::model::{Found, Holds, Model, State};
use crate::plan::{self, GROUP, OTHER, Plan};

/// Small enough that listings have several.
const PAGE: NonZeroUsize = NonZeroUsize::new(10).unwrap();

/// Opens the store, compares it with the model, which knows it from then on, and closes it again.
pub async fn examine(dir: &Path, model: &mut Model) -> Result<()> {
    let plan = model.plan;
    let settings = Settings {
        // Whoever was writing is dead.
        abandoned_after: Duration::ZERO,
        ..Settings::default()
    };
    let (records, blobs) = crate::open(dir, settings)?;
    let mut found = Found::new();
    let mut named = BTreeSet::new();
    for (group, keyspace) in [
        (GROUP, Keyspace::Kv),
        (OTHER, Keyspace::Kv),
        (GROUP, Keyspace::Blob),
    ] {
        for (record_key, record) in all(&*records, group, keyspace).await? {
            let holds = match keyspace {
                Keyspace::Blob => {
                    named.insert(object_of(&record)?);
                    blob(&blobs, plan, &record_key, &record).await
                }
                _ if plan::is_counter(&record_key) => counter(&record_key, &record),
                _ => content(plan, &record_key, &record),
            };
            let holds = holds.with_context(|| format!("{record_key:?} with {:?}", record.meta))?;
            let revision = record.meta.revision.0;
            found.insert(record_key, State { revision, holds });
        }
    }
    model.settle(found)?;
    let swept = records.sweep(None, PAGE).await?;
    ensure!(swept == 0, "{swept} records were swept, and none is due");
    no_object_is_orphaned(&*records, &blobs, &dir.join("objects"), &named).await
}

/// All records of a group, which add up to its usage.
async fn all(
    records: &dyn Records,
    group: &str,
    keyspace: Keyspace,
) -> Result<Vec<(RecordKey, Record)>> {
    let mut query = Query::all(group, keyspace, PAGE);
    let mut all = Vec::new();
    let mut summed = Usage::default();
    loop {
        let page = records.list(&query).await?;
        query.after = page.entries.last().map(|(key, _)| key.clone());
        for (key, meta) in page.entries {
            let record_key = RecordKey::new(group, keyspace, key);
            let record = records.get(&record_key).await?;
            let record =
                record.with_context(|| format!("{record_key:?} is listed and not there"))?;
            ensure!(record.meta == meta, "{record_key:?} is listed as {meta:?}");
            summed.bytes += meta.charge;
            summed.count += 1;
            all.push((record_key, record));
        }
        if !page.more {
            break;
        }
    }
    let usage = records.usage(group, keyspace).await?;
    ensure!(
        usage == summed,
        "{group:?} uses {usage:?} of {keyspace:?}, and has {summed:?}"
    );
    Ok(all)
}

fn content(plan: Plan, record_key: &RecordKey, record: &Record) -> Result<Holds> {
    let id = plan::attempt_of(record.meta.content_type.as_deref());
    let id = id.context("nobody has put it")?;
    ensure!(
        record.value == plan.content(id, record_key),
        "its {} bytes are not those that were put",
        record.value.len()
    );
    ensure!(
        record.meta.expires_ms
            == plan::ttl_ms_of(id).map(|ttl_ms| record.meta.modified_ms + ttl_ms),
        "its expiry is not the one that was put"
    );
    is_charged(record_key, &record.meta, record.value.len())?;
    Ok(Holds::Content(id))
}

fn counter(record_key: &RecordKey, record: &Record) -> Result<Holds> {
    let sum = std::str::from_utf8(&record.value)?.parse()?;
    is_charged(record_key, &record.meta, record.value.len())?;
    Ok(Holds::Sum(sum))
}

async fn blob(blobs: &Blobs, plan: Plan, record_key: &RecordKey, record: &Record) -> Result<Holds> {
    let found = blobs.get(&record_key.group, &record_key.key, |blob| {
        Some(0..blob.size)
    });
    let found = found.await?.context("it is in the index and not there")?;
    let id = plan::attempt_of(found.blob.content_type.as_deref());
    let id = id.context("nobody has put it")?;
    let body = found.body.context("it has no bytes")?;
    // Checked against its digest on the way.
    let chunks: Vec<_> = body.try_collect().await?;
    let bytes = chunks.concat();
    ensure!(
        bytes == plan.content(id, record_key),
        "its {} bytes are not those that were put",
        bytes.len()
    );
    is_charged(record_key, &record.meta, bytes.len())?;
    Ok(Holds::Content(id))
}

fn is_charged(record_key: &RecordKey, meta: &Meta, bytes: usize) -> Result<()> {
    let charge = (record_key.key.len() + bytes) as u64;
    ensure!(meta.charge == charge, "it counts for {}", meta.charge);
    Ok(())
}

/// The name of the object of a blob: after the version of its entry in the index.
fn object_of(record: &Record) -> Result<String> {
    let object = record.value.get(1..17).context("the index is unreadable")?;
    Ok(object.iter().map(|byte| format!("{byte:02x}")).collect())
}

/// Collects, and looks whether every object that is left is one of those that are `named`.
async fn no_object_is_orphaned(
    records: &dyn Records,
    blobs: &Blobs,
    objects: &Path,
    named: &BTreeSet<String>,
) -> Result<()> {
    let Collected { failed, .. } = blobs.collect().await?;
    ensure!(failed.is_none(), "objects were not removed: {failed:?}");
    let left = records.groups(Keyspace::Object).await?;
    ensure!(left.is_empty(), "after a collection there are {left:?}");
    let mut there = BTreeSet::new();
    for shard in std::fs::read_dir(objects)? {
        for object in std::fs::read_dir(shard?.path())? {
            there.insert(object?.file_name().to_string_lossy().into_owned());
        }
    }
    ensure!(
        there == *named,
        "there are the objects {there:?}, and blobs have {named:?}"
    );
    Ok(())
}

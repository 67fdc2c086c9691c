//! What is acknowledged was synced to disk: a killed process does not take the kernel's cache with it, so that this is seen in the system
//! calls and not in what is left.
//!
//! ```text
//!   writer (this binary again, under strace), one thing after the other:
//!     try ─► … fdatasync(records.redb) … ─► did                                                       a record
//!     try ─► … fsync(4e….part), rename, fsync(its directory) … fdatasync(records.redb) … ─► did        a blob
//! ```

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use bismuth_store::blobs::{NewBlob, Settings};
use bismuth_store::records::{Change, Condition, Keyspace, RecordKey, Write};
use bytes::Bytes;
use futures_util::stream;

use crate::victim::print_line;

const DIR_VARIABLE: &str = "BISMUTH_FORCED_DIR";
const TIMES: usize = 5;

/// What a system call says that matters here.
#[derive(Debug, PartialEq, Eq)]
enum Event {
    Printed(String),
    Synced(PathBuf),
    Renamed(PathBuf),
}

#[test]
fn what_is_acknowledged_was_forced_to_disk() {
    let dir = tempfile::tempdir().unwrap();
    let trace = dir.path().join("trace");
    let status = Command::new("strace")
        .args(["-f", "-y", "-s", "300", "-e", "signal=none", "-e"])
        .arg("trace=write,fsync,fdatasync,rename,renameat,renameat2")
        .arg("-o")
        .arg(&trace)
        .arg(std::env::current_exe().unwrap())
        .args(["forced::writer", "--exact", "--ignored", "--nocapture"])
        .env(DIR_VARIABLE, dir.path().join("data"))
        .status()
        .unwrap();
    assert!(status.success(), "{status}");
    let trace = std::fs::read_to_string(&trace).unwrap();
    let events = events(&trace);
    for number in 0..TIMES {
        for (what, forced) in [
            ("record", record_is_forced as fn(&[Event]) -> bool),
            ("blob", blob_is_forced),
            ("deletion", record_is_forced),
        ] {
            let between = between(&events, &format!("{what} {number}")).unwrap();
            assert!(forced(between), "{what} {number}: {between:?}");
        }
    }
}

fn between<'a>(events: &'a [Event], what: &str) -> Result<&'a [Event]> {
    let printed = |word: &str| {
        let line = format!("{word} {what}");
        let found = events
            .iter()
            .position(|it| *it == Event::Printed(line.clone()));
        found.with_context(|| format!("{line:?} was not printed"))
    };
    let (begun, ended) = (printed("try")?, printed("did")?);
    ensure!(begun < ended, "{what} ended before it began");
    Ok(&events[begun..ended])
}

fn forced(events: &[Event], is_it: impl Fn(&Path) -> bool) -> Option<usize> {
    let mut events = events.iter();
    events.position(|event| matches!(event, Event::Synced(path) if is_it(path)))
}

fn record_is_forced(events: &[Event]) -> bool {
    forced(events, |path| path.ends_with("records.redb")).is_some()
}

fn blob_is_forced(events: &[Event]) -> bool {
    let renamed = events
        .iter()
        .enumerate()
        .find_map(|(at, event)| match event {
            Event::Renamed(to) => Some((at, to)),
            _ => None,
        });
    let Some((at, to)) = renamed else {
        return false;
    };
    let part = to.with_extension("part");
    let content = forced(&events[..at], |path| path == part);
    let after = &events[at..];
    let name = forced(after, |path| Some(path) == to.parent());
    content.is_some() && name.is_some_and(|at| record_is_forced(&after[at..]))
}

/// The calls in the order of their ends, but for what is said, which counts from its beginning.
fn events(trace: &str) -> Vec<Event> {
    let mut begun: HashMap<&str, &str> = HashMap::new();
    let mut events = Vec::new();
    for line in trace.lines() {
        let Some((pid, call)) = line.split_once(' ') else {
            continue;
        };
        let call = call.trim_start();
        let whole = match call.split_once(" resumed>") {
            Some((_, end)) if end.ends_with("= 0") => begun.remove(pid),
            Some(_) => None,
            None if call.ends_with("<unfinished ...>") && !call.starts_with("write(") => {
                begun.insert(pid, call);
                None
            }
            None => Some(call),
        };
        events.extend(whole.and_then(event));
    }
    events
}

fn event(call: &str) -> Option<Event> {
    let (name, arguments) = call.split_once('(')?;
    match name {
        "write" => {
            let text = arguments.strip_prefix("1<")?.split('"').nth(1)?;
            Some(Event::Printed(text.strip_suffix("\\n")?.to_owned()))
        }
        "fsync" | "fdatasync" => {
            let (_, path) = arguments.split_once('<')?;
            Some(Event::Synced(path.split_once('>')?.0.into()))
        }
        _ => Some(Event::Renamed(arguments.split('"').nth(3)?.into())),
    }
}

/// Not a test of its own.
#[tokio::test]
#[ignore = "started by what_is_acknowledged_was_forced_to_disk"]
async fn writer() {
    let Some(dir) = std::env::var_os(DIR_VARIABLE) else {
        return;
    };
    write(dir.as_ref()).await.unwrap();
}

async fn write(dir: &Path) -> Result<()> {
    print_line("")?;
    let (records, blobs) = crate::open(dir, Settings::default())?;
    for number in 0..TIMES {
        let put = Change::put(vec![7; number * 1000], 3);
        announced(&format!("record {number}"), records.write(vec![one(put)])).await?;
        let new = NewBlob {
            group: "g".into(),
            key: number.to_string(),
            ..NewBlob::default()
        };
        let body = vec![std::io::Result::Ok(Bytes::from(vec![7; number << 16]))];
        let put = blobs.put(new, stream::iter(body));
        announced(&format!("blob {number}"), put).await?;
        let deletion = records.write(vec![one(Change::Delete)]);
        announced(&format!("deletion {number}"), deletion).await?;
    }
    Ok(())
}

/// Says when something begins, and when it is done.
async fn announced<T, E>(what: &str, act: impl Future<Output = Result<T, E>>) -> Result<()>
where
    anyhow::Error: From<E>,
{
    print_line(&format!("try {what}"))?;
    act.await?;
    print_line(&format!("did {what}"))
}

fn one(change: Change) -> Write {
    let record_key = RecordKey::new("g", Keyspace::Kv, "key");
    Write::new(record_key, Condition::Always, change)
}

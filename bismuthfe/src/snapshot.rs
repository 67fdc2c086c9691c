//! Saves the routing snapshot to disk and loads it at start, so that a frontend serves while ZooKeeper is down.
//!
//! JSON, because an operator may have to read it at a bad time. Written beside and renamed over, so that there is always
//! a whole one.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bismuth_base::file;
use bismuth_model::{Affinity, Backend, FunctionId, Hostname};
use bismuth_registry::{RoutedFunction, RoutingSnapshot};
use serde::{Deserialize, Serialize};

/// Raised when an older program could not read the file.
const VERSION: u32 = 1;

/// Why the file could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum SnapshotError {
    #[error("read routing snapshot {}", .path.display())]
    Read { path: PathBuf, source: io::Error },
    #[error("understand routing snapshot {}", .path.display())]
    Parse {
        path: PathBuf,
        source: serde_json::Error,
    },
    #[error("routing snapshot {} has version {version}; this program knows {VERSION}", .path.display())]
    Version { path: PathBuf, version: u32 },
    /// Writing failed; the file that was there is as it was.
    #[error("write routing snapshot {}", .path.display())]
    Write { path: PathBuf, source: io::Error },
}

#[derive(Serialize, Deserialize)]
struct File {
    version: u32,
    functions: BTreeMap<FunctionId, FileFunction>,
    routes: BTreeMap<Hostname, FunctionId>,
}

#[derive(Serialize, Deserialize)]
struct FileFunction {
    backends: Vec<Backend>,
    concurrency: u32,
    timeout_ms: u64,
    idle_timeout_ms: u64,
    startup_timeout_ms: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    affinity: Option<Affinity>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    hostnames: Option<Vec<Hostname>>,
}

/// What an earlier process saved, if it did; nothing is known otherwise. A file that cannot be read is logged and
/// overwritten later: the routing in the registry is the truth, the file only a bridge. Blocks.
pub fn earlier(path: Option<&Path>) -> RoutingSnapshot {
    let Some(path) = path else {
        return RoutingSnapshot::default();
    };
    match load(path) {
        Ok(Some(saved)) => {
            tracing::info!(file = %path.display(), functions = saved.functions.len(), "routing by the saved snapshot until the registry answers");
            saved
        }
        Ok(None) => RoutingSnapshot::default(),
        Err(error) => {
            let error: &dyn std::error::Error = &error;
            tracing::warn!(error, "start without the saved routing");
            RoutingSnapshot::default()
        }
    }
}

/// Reads the file; `None` if there is none. Blocks.
pub fn load(path: &Path) -> Result<Option<RoutingSnapshot>, SnapshotError> {
    let bytes = match std::fs::read(path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(source) => {
            let path = path.to_owned();
            return Err(SnapshotError::Read { path, source });
        }
    };
    let file: File = serde_json::from_slice(&bytes).map_err(|source| SnapshotError::Parse {
        path: path.to_owned(),
        source,
    })?;
    if file.version != VERSION {
        return Err(SnapshotError::Version {
            path: path.to_owned(),
            version: file.version,
        });
    }
    Ok(Some(file.into_snapshot()))
}

/// Replaces the file in one step. Blocks.
pub fn save(path: &Path, snapshot: &RoutingSnapshot) -> Result<(), SnapshotError> {
    write(path, &File::from_snapshot(snapshot)).map_err(|source| SnapshotError::Write {
        path: path.to_owned(),
        source,
    })
}

fn write(path: &Path, snapshot: &File) -> io::Result<()> {
    std::fs::create_dir_all(file::parent(path))?;
    file::replace_durably(path, &serde_json::to_vec_pretty(snapshot)?, 0o644)
}

impl File {
    fn from_snapshot(snapshot: &RoutingSnapshot) -> Self {
        let functions = snapshot.functions.iter();
        File {
            version: VERSION,
            functions: functions
                .map(|(id, f)| (*id, FileFunction::new(f)))
                .collect(),
            routes: snapshot
                .routes
                .iter()
                .map(|(host, id)| (host.clone(), *id))
                .collect(),
        }
    }

    fn into_snapshot(self) -> RoutingSnapshot {
        let functions = self.functions.into_iter();
        RoutingSnapshot {
            functions: functions.map(|(id, f)| (id, f.into_routed())).collect(),
            routes: self.routes.into_iter().collect(),
            complete: true,
            ..RoutingSnapshot::default()
        }
    }
}

impl FileFunction {
    fn new(function: &RoutedFunction) -> Self {
        FileFunction {
            backends: function.backends.to_vec(),
            concurrency: function.concurrency,
            timeout_ms: millis(function.timeout),
            idle_timeout_ms: millis(function.idle_timeout),
            startup_timeout_ms: millis(function.startup_timeout),
            affinity: function.affinity.clone(),
            hostnames: function.hostnames.as_deref().map(Into::into),
        }
    }

    fn into_routed(self) -> RoutedFunction {
        RoutedFunction {
            backends: self.backends.into(),
            concurrency: self.concurrency,
            timeout: Duration::from_millis(self.timeout_ms),
            idle_timeout: Duration::from_millis(self.idle_timeout_ms),
            startup_timeout: Duration::from_millis(self.startup_timeout_ms),
            affinity: self.affinity,
            hostnames: self.hostnames.map(Into::into),
        }
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::table::tests::{backend, routed};

    fn snapshot() -> RoutingSnapshot {
        let id = FunctionId::from_bytes([7; 16]);
        let mut function = routed(&[backend(1), backend(2)]);
        function.affinity = Some(Affinity::Cookie("session".into()));
        function.hostnames = Some([Hostname::parse("a.example").unwrap()].into());
        RoutingSnapshot {
            functions: [
                (id, function),
                (FunctionId::from_bytes([8; 16]), routed(&[])),
            ]
            .into(),
            routes: [(Hostname::parse("a.example").unwrap(), id)].into(),
            complete: true,
            ..Default::default()
        }
    }

    #[test]
    fn a_saved_snapshot_is_loaded_and_replaces_the_earlier_one() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("state/routing.json");
        assert_eq!(load(&path).unwrap(), None);
        save(&path, &RoutingSnapshot::default()).unwrap();
        save(&path, &snapshot()).unwrap();
        assert_eq!(load(&path).unwrap(), Some(snapshot()));
        let names = std::fs::read_dir(path.parent().unwrap()).unwrap().count();
        assert_eq!(names, 1, "nothing is left beside it");
    }

    /// Such files are on the disks of frontends that will be upgraded.
    #[test]
    fn a_file_of_version_1_is_loaded() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("routing.json");
        let id = "07070707-0707-0707-0707-070707070707";
        let container = "01010101-0101-0101-0101-010101010101";
        let text = format!(
            r#"{{"version": 1, "functions": {{"{id}": {{
                "backends": [{{"ip": "127.0.0.1", "container_id": "{container}"}}],
                "concurrency": 2, "timeout_ms": 5000, "idle_timeout_ms": 5000, "startup_timeout_ms": 5000
            }}}}, "routes": {{"a.example": "{id}"}}}}"#
        );
        std::fs::write(&path, text).unwrap();
        let id = FunctionId::from_bytes([7; 16]);
        let loaded = load(&path).unwrap().unwrap();
        assert_eq!(loaded.functions[&id], routed(&[backend(1)]));
        assert_eq!(loaded.routes[&Hostname::parse("a.example").unwrap()], id);
    }

    #[test]
    fn a_file_that_is_not_a_snapshot_is_an_error_naming_the_file() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("routing.json");
        for (text, word) in [
            ("", "understand"),
            ("{\"version\":1}", "understand"),
            (r#"{"version":9,"functions":{},"routes":{}}"#, "version 9"),
        ] {
            std::fs::write(&path, text).unwrap();
            let error = load(&path).unwrap_err().to_string();
            assert!(
                error.contains(word) && error.contains("routing.json"),
                "{error}"
            );
        }
    }
}

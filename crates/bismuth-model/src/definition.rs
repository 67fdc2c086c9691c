//! The definition of a function, as its deployer writes it.
//!
//! JSON in: [`FunctionDefinition::from_json`] refuses unknown fields, wrong types and values out
//! of range, and names the field each time. A definition that came through it, or through
//! [`FunctionDefinition::validate`], can be stored and run.

mod validate;

use std::collections::BTreeMap;
use std::fmt::Display;

use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::limits::{DEFAULTS, MAX_DEFINITION_BYTES};
use crate::{Hostname, ImageReference, InvokeMode, Revision, SecretUse};

/// A function, as its deployer defines it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FunctionDefinition {
    /// The image its containers are made of.
    pub image: ImageReference,
    /// Its program and how requests reach it.
    pub invoke_mode: InvokeMode,
    /// Cores each container may use.
    #[serde(default = "default::cpu")]
    pub cpu: f64,
    /// Bytes of memory each container may use.
    #[serde(default = "default::memory")]
    pub memory: u64,
    /// Bytes each container may write to its root filesystem; they do not outlive it.
    #[serde(default = "default::disk")]
    pub disk: u64,
    /// Environment variables.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub env: BTreeMap<String, String>,
    /// Hostnames that lead to it, besides `/invoke/{id}`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub routes: Vec<Route>,
    /// Slots it has at most.
    #[serde(default = "default::max_instances")]
    pub max_instances: u32,
    /// Containers that are kept running without requests.
    #[serde(default)]
    pub min_instances: u32,
    /// Requests one container handles at a time.
    #[serde(default = "default::concurrency")]
    pub concurrency: u32,
    /// Milliseconds until the head of the response must have come.
    #[serde(default = "default::timeout_ms")]
    pub timeout_ms: u64,
    /// Milliseconds of silence in either direction after which a stream is ended.
    #[serde(default = "default::idle_timeout_ms")]
    pub idle_timeout_ms: u64,
    /// Milliseconds from starting the program until it answers.
    #[serde(default = "default::startup_timeout_ms")]
    pub startup_timeout_ms: u64,
    /// Milliseconds without requests until the container is frozen; 0 is never.
    #[serde(default = "default::idle_pause_ms")]
    pub idle_pause_ms: u64,
    /// Milliseconds without requests until the container is stopped; 0 is never.
    #[serde(default = "default::idle_stop_ms")]
    pub idle_stop_ms: u64,
    /// Where its source is: git URL and branch. Kept for deployers, not used by Bismuth.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub repo: Option<Repo>,
    /// Functions with one service group share keys, blobs and secrets; the function's own id if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub svc_group_id: Option<String>,
    /// What it may store.
    #[serde(default, skip_serializing_if = "ServiceQuotas::is_unlimited")]
    pub svc_quotas: ServiceQuotas,
    /// Secrets of its group that the program is given when it starts.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub secrets: Vec<SecretUse>,
    /// `user[:group]` inside the container, names or numbers; the image's user if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    /// Where it may connect to.
    #[serde(default)]
    pub egress: Egress,
    /// What keeps a client on one container.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub affinity: Option<Affinity>,
    /// How to tell that a started server is ready; that its port accepts if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub readiness: Option<Readiness>,
}

/// A hostname that leads to the function.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Route {
    /// The whole host name; `Host` headers are compared without port, case and trailing dot.
    pub hostname: Hostname,
}

/// Git URL and branch, a two-element array in JSON.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Repo(pub String, pub String);

/// Limits on what a function stores; absent is unlimited.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ServiceQuotas {
    /// Bytes of all keys and values.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kv_bytes: Option<u64>,
    /// Number of keys.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kv_keys: Option<u64>,
    /// Bytes of all blobs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub blob_bytes: Option<u64>,
    /// Number of blobs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub blob_count: Option<u64>,
    /// Requests to the service provider.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub requests_per_second: Option<u64>,
}

impl ServiceQuotas {
    /// Whether nothing is limited.
    pub fn is_unlimited(&self) -> bool {
        *self == Self::default()
    }
}

/// Where a function may connect to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Egress {
    /// Nowhere: the container has a loopback interface only.
    #[default]
    None,
}

/// What keeps a client on one container.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Affinity {
    /// Requests with the same value of this header.
    Header(String),
    /// Requests with the same value of this cookie.
    Cookie(String),
}

/// How to tell that a started server is ready.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Readiness {
    /// A `GET` of this path must answer with a status below 400.
    pub path: String,
}

/// What `/function/{id}` holds in ZooKeeper.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct FunctionRecord {
    /// Counts the definitions this function has had.
    pub revision: Revision,
    /// The newest of them.
    pub definition: FunctionDefinition,
    /// When the function was created, milliseconds since the Unix epoch.
    pub created_ms: u64,
    /// When this revision was written, milliseconds since the Unix epoch.
    pub updated_ms: u64,
}

/// Whether a definition cannot be read, or says something that cannot be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DefinitionErrorKind {
    /// Not JSON, a wrong type, an unknown or missing field.
    Malformed,
    /// Well-formed, but the value is not allowed.
    OutOfRange,
    /// More bytes than a definition may have.
    TooLarge,
}

/// Why a definition is refused.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("{field}: {reason}")]
pub struct DefinitionError {
    /// Path of the field at fault, such as `routes[0].hostname`; `.` is the whole document.
    pub field: String,
    /// What is wrong with it, and what is expected.
    pub reason: String,
    /// Which kind of fault it is.
    pub kind: DefinitionErrorKind,
}

impl DefinitionError {
    pub(crate) fn out_of_range(field: impl Into<String>, reason: impl Display) -> Self {
        Self {
            field: field.into(),
            reason: reason.to_string(),
            kind: DefinitionErrorKind::OutOfRange,
        }
    }
}

/// What serde takes for fields that are left out.
mod default {
    use crate::limits::DEFAULTS;

    macro_rules! fields {
        ($($field:ident: $type:ty),*) => {$(
            pub(super) fn $field() -> $type {
                DEFAULTS.$field
            }
        )*};
    }
    fields!(cpu: f64, memory: u64, disk: u64, concurrency: u32, timeout_ms: u64, idle_timeout_ms: u64,
            startup_timeout_ms: u64, idle_pause_ms: u64, idle_stop_ms: u64);

    pub(super) fn max_instances() -> u32 {
        1
    }
}

impl FunctionDefinition {
    /// A definition of this image and program, with the defaults for all else.
    pub fn new(image: ImageReference, invoke_mode: InvokeMode) -> Self {
        Self {
            image,
            invoke_mode,
            cpu: DEFAULTS.cpu,
            memory: DEFAULTS.memory,
            disk: DEFAULTS.disk,
            env: BTreeMap::new(),
            routes: Vec::new(),
            max_instances: default::max_instances(),
            min_instances: 0,
            concurrency: DEFAULTS.concurrency,
            timeout_ms: DEFAULTS.timeout_ms,
            idle_timeout_ms: DEFAULTS.idle_timeout_ms,
            startup_timeout_ms: DEFAULTS.startup_timeout_ms,
            idle_pause_ms: DEFAULTS.idle_pause_ms,
            idle_stop_ms: DEFAULTS.idle_stop_ms,
            repo: None,
            svc_group_id: None,
            svc_quotas: ServiceQuotas::default(),
            secrets: Vec::new(),
            user: None,
            egress: Egress::default(),
            affinity: None,
            readiness: None,
        }
    }

    /// Reads and validates a definition.
    pub fn from_json(json: &[u8]) -> Result<Self, DefinitionError> {
        if json.len() > MAX_DEFINITION_BYTES {
            let bytes = json.len();
            return Err(DefinitionError {
                field: ".".into(),
                reason: format!(
                    "the definition has {bytes} bytes, at most {MAX_DEFINITION_BYTES} are allowed"
                ),
                kind: DefinitionErrorKind::TooLarge,
            });
        }
        // serde would take an array for the fields in their order.
        if json.trim_ascii_start().starts_with(b"[") {
            return Err(malformed(".", "expected an object, not an array"));
        }
        let mut deserializer = serde_json::Deserializer::from_slice(json);
        let definition: Self = serde_path_to_error::deserialize(&mut deserializer)
            .map_err(|error| malformed(&error.path().to_string(), error.inner()))?;
        deserializer.end().map_err(|error| malformed(".", error))?;
        definition.validate()?;
        Ok(definition)
    }
}

fn malformed(path: &str, reason: impl Display) -> DefinitionError {
    // An empty name is a name too, but an error that begins with nothing helps nobody.
    let field = if path.is_empty() { "." } else { path };
    DefinitionError {
        field: field.to_owned(),
        reason: reason.to_string(),
        kind: DefinitionErrorKind::Malformed,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use DefinitionErrorKind::{Malformed, OutOfRange, TooLarge};

    fn with(extra: &str) -> Result<FunctionDefinition, DefinitionError> {
        let json =
            format!(r#"{{"image":"alpine","invoke_mode":{{"Executable":["/bin/ls"]}}{extra}}}"#);
        FunctionDefinition::from_json(json.as_bytes())
    }

    #[test]
    fn only_image_and_mode_are_required() {
        let mode = InvokeMode::Executable(vec!["/bin/ls".into()]);
        assert_eq!(
            with(""),
            Ok(FunctionDefinition::new("alpine".parse().unwrap(), mode))
        );
    }

    #[test]
    fn a_full_definition_reads_back_from_its_json() {
        let full = with(
            r#","cpu":0.5,"memory":67108864,"disk":1048576,"env":{"A":"1"},
            "routes":[{"hostname":"a.example.com"}],"max_instances":4,"min_instances":1,
            "concurrency":8,"timeout_ms":1000,"idle_timeout_ms":2000,"startup_timeout_ms":3000,
            "idle_pause_ms":0,"idle_stop_ms":5000,"repo":["https://git.example/x","main"],
            "svc_group_id":"team","svc_quotas":{"kv_bytes":10},"user":"1000:1000",
            "secrets":[{"name":"db/password","env":"DB","file":"db"},{"name":"key","file":"k"}],
            "egress":"none","affinity":{"cookie":"sid"},"readiness":{"path":"/ready?x=1"}"#,
        )
        .unwrap();
        let json = serde_json::to_vec(&full).unwrap();
        assert_eq!(FunctionDefinition::from_json(&json), Ok(full));
    }

    #[test]
    fn every_error_names_the_field() {
        for (extra, field, kind) in [
            (r#","colour":1"#, "colour", Malformed),
            (r#","memory":"128M""#, "memory", Malformed),
            (r#","memory":-1"#, "memory", Malformed),
            (r#","memory":1"#, "memory", OutOfRange),
            (r#","cpu":0"#, "cpu", OutOfRange),
            (r#","cpu":1e400"#, "cpu", Malformed),
            (r#","max_instances":0"#, "max_instances", OutOfRange),
            (r#","min_instances":2"#, "min_instances", OutOfRange),
            (r#","concurrency":0"#, "concurrency", OutOfRange),
            (r#","timeout_ms":0"#, "timeout_ms", OutOfRange),
            (
                r#","routes":[{"hostname":"a b"}]"#,
                "routes[0].hostname",
                Malformed,
            ),
            (
                r#","routes":[{"hostname":"a.b","path":"/"}]"#,
                "routes[0].path",
                Malformed,
            ),
            (
                r#","routes":[{"hostname":"A.b"},{"hostname":"a.b."}]"#,
                "routes[1].hostname",
                OutOfRange,
            ),
            (r#","env":{"A=B":"1"}"#, r#"env["A=B"]"#, OutOfRange),
            (
                r#","env":{"BISMUTH_AUTH":"1"}"#,
                r#"env["BISMUTH_AUTH"]"#,
                OutOfRange,
            ),
            (r#","user":"-x""#, "user", OutOfRange),
            (r#","user":"70000""#, "user", OutOfRange),
            (r#","affinity":{"header":"a b"}"#, "affinity", OutOfRange),
            (r#","readiness":{"path":"x"}"#, "readiness.path", OutOfRange),
            (r#","svc_group_id":"../x""#, "svc_group_id", OutOfRange),
            (r#","secrets":[{"name":"a"}]"#, "secrets[0]", OutOfRange),
            (
                r#","secrets":[{"name":"../a","env":"A"}]"#,
                "secrets[0].name",
                OutOfRange,
            ),
            (
                r#","secrets":[{"name":"a","env":"BISMUTH_AUTH"}]"#,
                "secrets[0].env",
                OutOfRange,
            ),
            (
                r#","env":{"A":"1"},"secrets":[{"name":"a","env":"A"}]"#,
                "secrets[0].env",
                OutOfRange,
            ),
            (
                r#","secrets":[{"name":"a","file":"../x"}]"#,
                "secrets[0].file",
                OutOfRange,
            ),
            (
                r#","secrets":[{"name":"a","file":"x"},{"name":"b","file":"x"}]"#,
                "secrets[1].file",
                OutOfRange,
            ),
            (
                r#","secrets":[{"name":"a","value":"x"}]"#,
                "secrets[0].value",
                Malformed,
            ),
        ] {
            let error = with(extra).unwrap_err();
            assert_eq!(
                (error.field.as_str(), error.kind),
                (field, kind),
                "{extra}: {error}"
            );
        }
    }

    #[test]
    fn json_that_is_no_definition_is_refused() {
        for json in [
            "",
            "[]",
            r#" ["alpine", {"Executable": ["/bin/ls"]}]"#,
            "null",
            "{}",
            "{\"image\":\"alpine\"}",
            "{\"image\":",
            "\u{0}",
        ] {
            let error = FunctionDefinition::from_json(json.as_bytes()).unwrap_err();
            assert_eq!(error.kind, Malformed, "{json}");
        }
        assert_eq!(with("} {").unwrap_err().kind, Malformed);
        let large = vec![b' '; MAX_DEFINITION_BYTES + 1];
        assert_eq!(
            FunctionDefinition::from_json(&large).unwrap_err().kind,
            TooLarge
        );
    }
}

//! Schemas of types from other crates, by hand. Tests hold them to what serde reads and writes.
//!
//! Each type here only names a schema, so that handlers and answers can refer to it.

use std::borrow::Cow;

use bismuth_model::DEFAULTS;
use serde_json::{Map, Value, json};
use utoipa::openapi::{RefOr, Schema, schema};
use utoipa::{PartialSchema, ToSchema};

macro_rules! named {
    ($($name:ident)*) => {$(
        #[doc = concat!("The schema `", stringify!($name), "`.")]
        pub(crate) enum $name {}

        /// Empty: [`schemas`] has it.
        impl PartialSchema for $name {
            fn schema() -> RefOr<Schema> {
                schema::empty().into()
            }
        }

        impl ToSchema for $name {
            fn name() -> Cow<'static, str> {
                stringify!($name).into()
            }
        }
    )*};
}

named! {
    Uuid Ipv4 Status SlotRole Fate Route Backend InvokeMode FunctionDefinition
    Group Purged Secrets SecretVersion SecretName SecretValue
}

/// All of them by name.
pub(super) fn schemas() -> Map<String, Value> {
    let mut schemas = object_of(json!({
        "Uuid": {"type": "string", "format": "uuid"},
        "Ipv4": {"type": "string", "format": "ipv4"},
        "Status": {"type": "string", "enum": ["Starting", "Running", "Paused", "Stopped", "Failed", "Unknown"]},
        "SlotRole": {"type": "string", "enum": ["active", "standby", "leaving"]},
        "Fate": {"type": "string", "enum": ["pending", "proven", "failed"]},
        "Route": closed(json!(["hostname"]), json!({"hostname": {"type": "string", "format": "hostname"}})),
        "Backend": {
            "type": "object",
            "required": ["ip", "container_id"],
            "properties": {"ip": reference("Ipv4"), "container_id": reference("Uuid")},
        },
        "InvokeMode": invoke_mode(),
        "RollbackRequest": closed(json!([]), json!({"revision": {
            "type": ["integer", "null"], "minimum": 0,
            "description": "A kept revision. Unless given: the one that serves if another is wanted, else the newest before it that has run",
        }})),
        "FunctionDefinition": closed(json!(["image", "invoke_mode"]), definition()),
    }));
    schemas.extend(of_svcprovider());
    schemas
}

fn invoke_mode() -> Value {
    let command = json!({"type": "array", "items": {"type": "string"}, "minItems": 1});
    let port = json!({"type": "integer", "minimum": 1, "maximum": 65535});
    let server =
        json!({"type": "array", "prefixItems": [command, port], "minItems": 2, "maxItems": 2});
    json!({
        "description": "Server: the program is the container's init and serves HTTP on the port. \
            Executable: it is run once per request, with the body on its standard input",
        "oneOf": [
            closed(json!(["Server"]), json!({"Server": server})),
            closed(json!(["Executable"]), json!({"Executable": command})),
        ],
    })
}

/// The fields of [`bismuth_model::FunctionDefinition`].
fn definition() -> Value {
    let mut fields = object_of(json!({
        "image": {
            "type": "string",
            "description": "Image reference, with Docker's defaults",
            "example": "docker.io/library/alpine:latest",
        },
        "invoke_mode": reference("InvokeMode"),
        "env": {
            "type": "object",
            "additionalProperties": {"type": "string"},
            "maxProperties": 512,
            "description": "Environment variables; names that start with BISMUTH_ are set by Bismuth",
        },
        "routes": {
            "type": "array",
            "maxItems": 64,
            "items": reference("Route"),
            "description": "Hostnames that lead to the function, besides /invoke/{id}",
        },
        "repo": {
            "type": "array",
            "minItems": 2,
            "maxItems": 2,
            "items": {"type": "string"},
            "description": "Git URL and branch; kept for deployers",
        },
        "svc_group_id": {
            "type": "string",
            "description": "Functions of one group share keys, blobs and secrets; the function's own id by default",
        },
        "svc_quotas": quotas(),
        "secrets": {
            "type": "array",
            "maxItems": 30,
            "items": secret_use(),
            "description": "Secrets of the group that the program is given when it starts",
        },
        "user": {
            "type": "string",
            "description": "user[:group] inside the container, names or numbers up to 65535; the image's by default",
        },
        "egress": {"type": "string", "enum": ["none"], "default": "none", "description": "Where it may connect to"},
        "affinity": {
            "description": "What keeps a client on one container",
            "oneOf": [
                closed(json!(["header"]), json!({"header": {"type": "string"}})),
                closed(json!(["cookie"]), json!({"cookie": {"type": "string"}})),
            ],
        },
        "readiness": with(
            closed(json!(["path"]), json!({"path": {"type": "string"}})),
            "description",
            json!("A GET of this path must answer below 400; that the port accepts by default"),
        ),
    }));
    fields.extend(numbers());
    fields.into()
}

fn numbers() -> Map<String, Value> {
    let integer = |least: u64, most: u64, default: u64, description: &str| {
        json!({
            "type": "integer",
            "default": default,
            "minimum": least,
            "maximum": most,
            "description": description,
        })
    };
    let d = &DEFAULTS;
    object_of(json!({
        "cpu": {
            "type": "number",
            "default": d.cpu,
            "minimum": 0.01,
            "maximum": 1024,
            "description": "Cores each container may use",
        },
        "memory": integer(6 << 20, 16 << 40, d.memory, "Bytes of memory each container may use"),
        "disk": integer(64 << 10, 1 << 40, d.disk, "Bytes each container may write to its root filesystem"),
        "max_instances": integer(1, 1000, 1, "Slots it has"),
        "min_instances": integer(0, 1000, 0, "Containers that are kept running without requests; at most max_instances"),
        "concurrency": integer(1, 10_000, d.concurrency.into(), "Requests one container handles at a time"),
        "timeout_ms": integer(1, 86_400_000, d.timeout_ms, "Until the head of the answer must have come"),
        "idle_timeout_ms": integer(1, 86_400_000, d.idle_timeout_ms, "Silence after which a stream is ended"),
        "startup_timeout_ms": integer(1, 600_000, d.startup_timeout_ms, "From starting the program until it answers"),
        "idle_pause_ms": integer(0, 2_592_000_000, d.idle_pause_ms, "Without requests until the container is frozen; 0 is never"),
        "idle_stop_ms": integer(0, 2_592_000_000, d.idle_stop_ms, "Without requests until the container is stopped; 0 is never"),
    }))
}

fn quotas() -> Value {
    let limit = || json!({"type": "integer", "minimum": 0});
    let fields = json!({
        "kv_bytes": limit(),
        "kv_keys": limit(),
        "blob_bytes": limit(),
        "blob_count": limit(),
        "requests_per_second": limit(),
    });
    with(
        closed(json!([]), fields),
        "description",
        json!("What it may store; absent is unlimited"),
    )
}

fn secret_use() -> Value {
    let fields = json!({
        "name": {"type": "string"},
        "env": {"type": "string", "description": "The environment variable that holds it"},
        "file": {"type": "string", "description": "The file in /run/secrets that holds it"},
    });
    closed(json!(["name"]), fields)
}

/// What svcprovider reads and answers.
fn of_svcprovider() -> Map<String, Value> {
    let (text, version) = (
        json!({"type": "string"}),
        json!({"type": "integer", "minimum": 1}),
    );
    let count = || json!({"type": "integer"});
    let secret = json!({
        "type": "object",
        "required": ["name", "version", "modified_ms"],
        "properties": {"name": text, "version": version, "modified_ms": count()},
    });
    object_of(json!({
        "Group": {"type": "string", "minLength": 1, "maxLength": 64, "pattern": "^[A-Za-z0-9._-]+$"},
        "SecretValue": {"type": "string", "format": "binary", "minLength": 1, "maxLength": 65536},
        "Secrets": {
            "type": "object",
            "required": ["secrets"],
            "properties": {"secrets": {"type": "array", "items": secret}},
        },
        "SecretVersion": {
            "type": "object",
            "required": ["name", "version"],
            "properties": {"name": text, "version": version},
        },
        "SecretName": {"type": "object", "required": ["name"], "properties": {"name": text}},
        "Purged": {
            "type": "object",
            "required": ["kv", "blobs", "secrets"],
            "properties": {"kv": count(), "blobs": count(), "secrets": count()},
            "description": "How many were deleted",
        },
    }))
}

fn reference(name: &str) -> Value {
    json!({"$ref": format!("#/components/schemas/{name}")})
}

/// An object without other members than these.
fn closed(required: Value, properties: Value) -> Value {
    json!({"type": "object", "required": required, "properties": properties, "additionalProperties": false})
}

fn with(mut schema: Value, member: &str, value: Value) -> Value {
    schema[member] = value;
    schema
}

fn object_of(value: Value) -> Map<String, Value> {
    match value {
        Value::Object(members) => members,
        _ => Map::new(),
    }
}

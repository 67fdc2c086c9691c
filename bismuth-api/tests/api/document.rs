//! The OpenAPI document agrees with the model and the router, and every answer in these tests agrees with it.

use std::collections::BTreeSet;
use std::sync::LazyLock;

use bismuth_model::{FunctionDefinition, InvokeMode};
use http::Method;
use serde_json::{Map, Value, json};

use crate::harness::{Answer, Harness, NODE, definition};
use crate::schema;

pub static DOCUMENT: LazyLock<Value> = LazyLock::new(bismuth_api::document);

/// The path item for a path, if one of the documented ones fits.
fn item(path: &str) -> Option<&'static Value> {
    let path = path.split('?').next().unwrap();
    let fits = |pattern: &str| {
        let (pattern, path) = (pattern.split('/'), path.split('/'));
        pattern.clone().count() == path.clone().count()
            && pattern
                .zip(path)
                .all(|(p, s)| p == s || p.starts_with('{') && !s.is_empty())
    };
    let paths = DOCUMENT["paths"].as_object().unwrap();
    paths
        .iter()
        .find(|(pattern, _)| fits(pattern))
        .map(|(_, item)| item)
}

/// Checks status, content type, error code and body of an answer.
#[track_caller]
pub fn check(method: &Method, path: &str, answer: &Answer) {
    let Some(operation) = item(path).and_then(|item| item.get(method.as_str().to_lowercase()))
    else {
        return;
    };
    let (head, text) = (&answer.0, answer.text());
    let what = format!("{method} {path}: {} {text}", head.status());
    let responses = &operation["responses"];
    let response = responses
        .get(head.status().as_str())
        .unwrap_or(&responses["default"]);
    let header = |name| {
        head.headers()
            .get(name)
            .map_or("", |value| value.to_str().unwrap())
    };
    let content_type = header("content-type").split(';').next().unwrap();
    let schema = &response["content"][content_type]["schema"];
    assert!(schema.is_object(), "not documented: {what}");
    if !content_type.ends_with("json") {
        return;
    }
    let body: Value = serde_json::from_str(&text).unwrap();
    schema::check(&DOCUMENT, schema, &body).unwrap_or_else(|why| panic!("{why} in {what}"));
    // svcprovider's codes are its own.
    let code = header("x-bismuth-error");
    let documented = response["description"]
        .as_str()
        .unwrap()
        .contains(&format!("`{code}`"));
    assert!(
        documented || code.is_empty() || body["component"] == "svcprovider",
        "{code}: {what}"
    );
}

#[tokio::test]
async fn every_method_of_every_documented_path_is_documented() {
    let harness = Harness::with_nodes(&[NODE]).await;
    for (path, item) in DOCUMENT["paths"].as_object().unwrap() {
        // A method that nothing has, so that the answer lists those that the path has.
        let brew = Method::from_bytes(b"BREW").unwrap();
        let answer = harness
            .api
            .call(brew, &path.replace(['{', '}'], ""), "")
            .await;
        assert_eq!(answer.0.status(), 405, "{path}: {}", answer.text());
        let allow = answer.0.headers()["allow"].to_str().unwrap();
        let mut routed: BTreeSet<&str> = allow.split(',').map(str::trim).collect();
        // Comes with GET.
        routed.remove("HEAD");
        let documented: Vec<String> = item
            .as_object()
            .unwrap()
            .keys()
            .map(|m| m.to_uppercase())
            .collect();
        assert_eq!(
            routed,
            documented.iter().map(String::as_str).collect(),
            "{path}"
        );
    }
}

#[tokio::test]
async fn the_document_is_served() {
    let harness = Harness::with_nodes(&[NODE]).await;
    assert_eq!(harness.api.get("/openapi.json").await.ok(), *DOCUMENT);
    assert_eq!(DOCUMENT["openapi"], "3.1.0");
}

fn references<'a>(value: &'a Value, found: &mut BTreeSet<&'a str>) {
    match value {
        Value::Object(members) => {
            found.extend(members.get("$ref").and_then(Value::as_str));
            members
                .values()
                .for_each(|member| references(member, found));
        }
        Value::Array(items) => items.iter().for_each(|item| references(item, found)),
        _ => {}
    }
}

#[test]
fn every_reference_leads_somewhere_and_every_schema_is_referred_to() {
    let mut found = BTreeSet::new();
    references(&DOCUMENT, &mut found);
    let schemas = DOCUMENT["components"]["schemas"].as_object().unwrap();
    let there: BTreeSet<String> = schemas
        .keys()
        .map(|name| format!("#/components/schemas/{name}"))
        .collect();
    assert_eq!(found, there.iter().map(String::as_str).collect());
}

fn documented(name: &str) -> &'static Value {
    &DOCUMENT["components"]["schemas"][name]
}

fn names(members: &Value) -> BTreeSet<String> {
    members.as_object().unwrap().keys().cloned().collect()
}

fn whole_definition() -> Value {
    json!({
        "image": "docker.io/library/alpine:latest", "invoke_mode": {"Server": [["/bin/httpd", "-f"], 80]},
        "cpu": 0.5, "memory": 64 << 20, "disk": 1 << 20, "env": {"A": "1"}, "routes": [{"hostname": "a.example"}],
        "max_instances": 4, "min_instances": 1, "concurrency": 8, "timeout_ms": 1000, "idle_timeout_ms": 2000,
        "startup_timeout_ms": 3000, "idle_pause_ms": 0, "idle_stop_ms": 5000,
        "repo": ["https://git.example/a", "main"], "svc_group_id": "team", "user": "1000:1000", "egress": "none",
        "svc_quotas": {"kv_bytes": 1, "kv_keys": 1, "blob_bytes": 1, "blob_count": 1, "requests_per_second": 1},
        "secrets": [{"name": "db/password", "env": "DB", "file": "db"}],
        "affinity": {"cookie": "sid"}, "readiness": {"path": "/ready"},
    })
}

/// The names that serde expects where it finds `?`: in "unknown field `?`, expected one of `image`, `invoke_mode`".
fn known_to_serde(pointer: &str, unknown: &Value) -> BTreeSet<String> {
    let mut definition = whole_definition();
    let place = definition.pointer_mut(pointer).unwrap();
    match (place, unknown) {
        (Value::Object(place), Value::Object(unknown)) => place.extend(unknown.clone()),
        (place, unknown) => *place = unknown.clone(),
    }
    let refused = FunctionDefinition::from_json(definition.to_string().as_bytes()).unwrap_err();
    let (_, expected) = refused.reason.split_once("expected ").unwrap();
    expected
        .split('`')
        .skip(1)
        .step_by(2)
        .map(str::to_owned)
        .collect()
}

#[test]
fn a_definition_has_the_fields_that_the_model_reads() {
    let fields = &documented("FunctionDefinition")["properties"];
    let unknown = json!({"?": 1});
    for (pointer, members) in [
        ("", fields),
        ("/svc_quotas", &fields["svc_quotas"]["properties"]),
        ("/secrets/0", &fields["secrets"]["items"]["properties"]),
        ("/routes/0", &documented("Route")["properties"]),
        ("/readiness", &fields["readiness"]["properties"]),
    ] {
        let known = known_to_serde(pointer, &unknown);
        // A struct of one field has no list; its name is all that is quoted.
        assert_eq!(names(members), known, "{pointer}");
    }
    assert_eq!(
        known_to_serde("/egress", &json!("?")),
        ["none".to_owned()].into()
    );
    for (pointer, schema) in [
        ("/affinity", &fields["affinity"]),
        ("/invoke_mode", documented("InvokeMode")),
    ] {
        let mut definition = whole_definition();
        *definition.pointer_mut(pointer).unwrap() = unknown.clone();
        let refused = FunctionDefinition::from_json(definition.to_string().as_bytes()).unwrap_err();
        for variant in schema["oneOf"].as_array().unwrap() {
            let name = format!("`{}`", variant["required"][0].as_str().unwrap());
            assert!(
                refused.reason.contains(&name),
                "{pointer}: {}",
                refused.reason
            );
        }
    }
}

#[test]
fn a_definition_is_written_as_documented() {
    for given in [definition(), whole_definition()] {
        let read = FunctionDefinition::from_json(given.to_string().as_bytes()).unwrap();
        let written = serde_json::to_value(read).unwrap();
        schema::check(&DOCUMENT, documented("FunctionDefinition"), &written).unwrap();
    }
}

#[test]
fn the_defaults_are_those_of_the_model() {
    let mode = InvokeMode::Executable(vec!["/bin/ls".into()]);
    let bare =
        serde_json::to_value(FunctionDefinition::new("alpine".parse().unwrap(), mode)).unwrap();
    let fields = documented("FunctionDefinition")["properties"]
        .as_object()
        .unwrap();
    let defaults: Map<String, Value> = fields
        .iter()
        .filter_map(|(name, schema)| Some((name.clone(), schema.get("default")?.clone())))
        .collect();
    for (name, default) in &defaults {
        assert_eq!(bare[name], *default, "{name}");
    }
    let written = names(&bare)
        .into_iter()
        .filter(|name| !["image", "invoke_mode"].contains(&name.as_str()));
    assert_eq!(
        written.collect::<BTreeSet<_>>(),
        defaults.keys().cloned().collect()
    );
}

#[test]
fn the_limits_are_those_of_the_model() {
    let accepts = |field: &str, value: Value| {
        let mut definition = definition();
        definition["max_instances"] = json!(1000);
        definition[field] = value;
        FunctionDefinition::from_json(definition.to_string().as_bytes()).is_ok()
    };
    let fields = documented("FunctionDefinition")["properties"]
        .as_object()
        .unwrap();
    let integers = fields
        .iter()
        .filter(|(_, schema)| schema["type"] == "integer");
    for (field, schema) in integers {
        let limit = |name: &str| schema[name].as_u64().unwrap();
        let (least, most) = (limit("minimum"), limit("maximum"));
        assert!(
            accepts(field, json!(least)) && accepts(field, json!(most)),
            "{field}"
        );
        assert!(!accepts(field, json!(most + 1)), "{field}: {}", most + 1);
        assert!(
            least == 0 || !accepts(field, json!(least - 1)),
            "{field}: {}",
            least - 1
        );
    }
    let names = |count: u64| (0..count).map(|n| format!("n{n}"));
    let env = |count| json!(names(count).map(|n| (n, json!("1"))).collect::<Map<_, _>>());
    let routes = |count| {
        names(count)
            .map(|n| json!({"hostname": n}))
            .collect::<Value>()
    };
    let secrets = |count| {
        names(count)
            .map(|n| json!({"name": n, "env": n}))
            .collect::<Value>()
    };
    for (field, limit, of) in [
        ("env", "maxProperties", &env as &dyn Fn(u64) -> Value),
        ("routes", "maxItems", &routes),
        ("secrets", "maxItems", &secrets),
    ] {
        let most = fields[field][limit].as_u64().unwrap();
        assert!(
            accepts(field, of(most)) && !accepts(field, of(most + 1)),
            "{field}: {most}"
        );
    }
    let cpu = |limit: &str| fields["cpu"][limit].as_f64().unwrap();
    let (least, most) = (cpu("minimum"), cpu("maximum"));
    assert!(accepts("cpu", json!(least)) && accepts("cpu", json!(most)));
    assert!(!accepts("cpu", json!(least * 0.99)) && !accepts("cpu", json!(most * 1.01)));
}

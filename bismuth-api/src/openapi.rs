//! `/openapi.json`: written by hand, and held to the router and the model by tests.

use axum::response::{IntoResponse, Response};
use http::header::CONTENT_TYPE;

const DOCUMENT: &str = include_str!("openapi.json");

/// `GET /openapi.json`.
pub(crate) async fn get() -> Response {
    ([(CONTENT_TYPE, "application/json")], DOCUMENT).into_response()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use bismuth_model::{
        Affinity, DEFAULTS, FunctionDefinition, InvokeMode, Readiness, Repo, Route, SecretUse,
        ServiceQuotas,
    };
    use serde_json::{Value, json};

    use super::*;

    fn document() -> Value {
        serde_json::from_str(DOCUMENT).unwrap()
    }

    fn references(value: &Value, found: &mut BTreeSet<String>) {
        match value {
            Value::Object(members) => {
                found.extend(
                    members
                        .get("$ref")
                        .and_then(Value::as_str)
                        .map(str::to_owned),
                );
                members
                    .values()
                    .for_each(|member| references(member, found));
            }
            Value::Array(items) => items.iter().for_each(|item| references(item, found)),
            _ => {}
        }
    }

    #[test]
    fn every_reference_leads_somewhere() {
        let (document, mut found) = (document(), BTreeSet::new());
        references(&document, &mut found);
        assert!(found.len() > 5);
        for reference in found {
            let pointer = reference.strip_prefix('#').unwrap();
            assert!(document.pointer(pointer).is_some(), "{reference}");
        }
    }

    #[test]
    fn the_definition_has_the_fields_of_the_model() {
        let mut whole = FunctionDefinition::new(
            "alpine".parse().unwrap(),
            InvokeMode::Executable(vec!["/bin/ls".into()]),
        );
        whole.env.insert("A".into(), "b".into());
        whole.routes.push(Route {
            hostname: bismuth_model::Hostname::parse("a.example").unwrap(),
        });
        whole.repo = Some(Repo("https://git.example/a".into(), "main".into()));
        whole.svc_group_id = Some("group".into());
        whole.svc_quotas = ServiceQuotas {
            kv_bytes: Some(1),
            kv_keys: Some(1),
            blob_bytes: Some(1),
            blob_count: Some(1),
            requests_per_second: Some(1),
        };
        whole.secrets = vec![SecretUse {
            name: "s".into(),
            env: Some("S".into()),
            file: Some("s".into()),
        }];
        whole.user = Some("nobody".into());
        whole.affinity = Some(Affinity::Cookie("c".into()));
        whole.readiness = Some(Readiness { path: "/".into() });
        let (whole, document) = (serde_json::to_value(whole).unwrap(), document());
        let documented = &document["components"]["schemas"]["FunctionDefinition"]["properties"];
        let names = |value: &Value| {
            value
                .as_object()
                .unwrap()
                .keys()
                .cloned()
                .collect::<BTreeSet<_>>()
        };
        assert_eq!(names(documented), names(&whole));
        assert_eq!(
            names(&documented["svc_quotas"]["properties"]),
            names(&whole["svc_quotas"])
        );
        assert_eq!(
            names(&documented["secrets"]["items"]["properties"]),
            names(&whole["secrets"][0])
        );
    }

    #[test]
    fn the_defaults_are_those_of_the_model() {
        let document = document();
        let documented = &document["components"]["schemas"]["FunctionDefinition"]["properties"];
        for (field, default) in [
            ("cpu", json!(DEFAULTS.cpu)),
            ("memory", json!(DEFAULTS.memory)),
            ("disk", json!(DEFAULTS.disk)),
            ("concurrency", json!(DEFAULTS.concurrency)),
            ("timeout_ms", json!(DEFAULTS.timeout_ms)),
            ("idle_timeout_ms", json!(DEFAULTS.idle_timeout_ms)),
            ("startup_timeout_ms", json!(DEFAULTS.startup_timeout_ms)),
            ("idle_pause_ms", json!(DEFAULTS.idle_pause_ms)),
            ("idle_stop_ms", json!(DEFAULTS.idle_stop_ms)),
        ] {
            assert_eq!(documented[field]["default"], default, "{field}");
        }
    }

    #[test]
    fn the_limits_are_those_of_the_model() {
        let document = document();
        let documented = document["components"]["schemas"]["FunctionDefinition"]["properties"]
            .as_object()
            .unwrap();
        let with = |field: &str, value: Value| {
            let mut definition = json!({"image": "alpine", "invoke_mode": {"Executable": ["/bin/ls"]}, "max_instances": 1000});
            definition[field] = value;
            FunctionDefinition::from_json(definition.to_string().as_bytes())
        };
        for (field, schema) in documented
            .iter()
            .filter(|(_, schema)| schema["type"] == "integer")
        {
            let (least, most) = (
                schema["minimum"].as_u64().unwrap(),
                schema["maximum"].as_u64().unwrap(),
            );
            assert!(with(field, json!(least)).is_ok(), "{field}: {least}");
            assert!(with(field, json!(most)).is_ok(), "{field}: {most}");
            assert!(
                with(field, json!(most + 1)).is_err(),
                "{field}: {}",
                most + 1
            );
            assert!(
                least == 0 || with(field, json!(least - 1)).is_err(),
                "{field}: {}",
                least - 1
            );
        }
    }
}

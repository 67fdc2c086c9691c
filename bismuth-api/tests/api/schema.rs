//! Checks a JSON value against a JSON Schema, as far as the OpenAPI document uses it. Stricter in one point: members that
//! are not described are refused everywhere.

use serde_json::{Map, Value, json};

/// Why the value is not as the schema says.
pub fn check(document: &Value, schema: &Value, value: &Value) -> Result<(), String> {
    let schema = resolve(document, schema);
    if let Some(alternatives) = schema.get("oneOf").and_then(Value::as_array) {
        let fitting = alternatives
            .iter()
            .filter(|one| check(document, one, value).is_ok());
        return match fitting.count() {
            1 => Ok(()),
            count => Err(format!("{value} fits {count} of {alternatives:?}")),
        };
    }
    check_type(schema, value)?;
    if let Some(values) = schema.get("enum").and_then(Value::as_array)
        && !values.contains(value)
    {
        return Err(format!("{value} is none of {values:?}"));
    }
    if let Some(number) = value.as_f64() {
        let limit = |name: &str| schema.get(name).and_then(Value::as_f64);
        let least = limit("minimum").unwrap_or(f64::MIN);
        let most = limit("maximum").unwrap_or(f64::MAX);
        if !(least..=most).contains(&number) {
            return Err(format!("{value} is not from {least} to {most}"));
        }
    }
    match value {
        Value::Array(items) => check_items(document, schema, items),
        Value::Object(members) => check_members(document, schema, members),
        _ => Ok(()),
    }
}

fn resolve<'a>(document: &'a Value, schema: &'a Value) -> &'a Value {
    match schema["$ref"].as_str() {
        Some(reference) => document.pointer(reference.trim_start_matches('#')).unwrap(),
        None => schema,
    }
}

fn check_type(schema: &Value, value: &Value) -> Result<(), String> {
    let kind = match value {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Number(number) if number.is_f64() => "number",
        Value::Number(_) => "integer",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    };
    let fits = |of: &Value| of == kind || (of == "number" && kind == "integer");
    let text = value.as_str().unwrap_or_default();
    let format = match schema["format"].as_str() {
        Some("uuid") if kind == "string" => text.parse::<bismuth_model::FunctionId>().is_ok(),
        Some("ipv4") if kind == "string" => text.parse::<std::net::Ipv4Addr>().is_ok(),
        _ => true,
    };
    match &schema["type"] {
        Value::Null => Ok(()),
        Value::Array(kinds) if kinds.iter().any(fits) && format => Ok(()),
        of if fits(of) && format => Ok(()),
        of => Err(format!("{value} is not a {of} as in {schema}")),
    }
}

fn check_items(document: &Value, schema: &Value, items: &[Value]) -> Result<(), String> {
    let limit = |name: &str| schema.get(name).and_then(Value::as_u64);
    let (least, most) = (
        limit("minItems").unwrap_or(0),
        limit("maxItems").unwrap_or(u64::MAX),
    );
    if !(least..=most).contains(&(items.len() as u64)) {
        return Err(format!("{items:?} has not from {least} to {most} items"));
    }
    for (index, item) in items.iter().enumerate() {
        let of = schema["prefixItems"].get(index).or(schema.get("items"));
        check(
            document,
            of.ok_or(format!("{item} is not described"))?,
            item,
        )?;
    }
    Ok(())
}

fn check_members(
    document: &Value,
    schema: &Value,
    members: &Map<String, Value>,
) -> Result<(), String> {
    if *schema == json!({"type": "object"}) {
        return Ok(());
    }
    let (mut properties, mut required) = (Map::new(), Vec::new());
    gather(document, schema, &mut properties, &mut required);
    if let Some(missing) = required.iter().find(|name| !members.contains_key(**name)) {
        return Err(format!("{missing} is missing in {members:?}"));
    }
    let others = schema
        .get("additionalProperties")
        .filter(|others| others.is_object());
    for (name, member) in members {
        let of = properties
            .get(name)
            .or(others)
            .ok_or(format!("{name} is not described"))?;
        check(document, of, member).map_err(|why| format!("{name}: {why}"))?;
    }
    Ok(())
}

/// Members of the schema and of all that it is made of.
fn gather<'a>(
    document: &'a Value,
    schema: &'a Value,
    properties: &mut Map<String, Value>,
    required: &mut Vec<&'a str>,
) {
    let schema = resolve(document, schema);
    for part in schema["allOf"].as_array().into_iter().flatten() {
        gather(document, part, properties, required);
    }
    properties.extend(
        schema["properties"]
            .as_object()
            .cloned()
            .unwrap_or_default(),
    );
    required.extend(
        schema["required"]
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(Value::as_str),
    );
}

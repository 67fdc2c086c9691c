//! Builds and changes a function definition from command-line flags.

use bismuth_model::{
    DefinitionError, DefinitionErrorKind, FunctionDefinition, ImageReference, InvokeMode,
    Readiness, Repo, Route,
};
use serde_json::Value;

use crate::args::{Fields, UpdateFunction};

/// A definition as the flags say, checked.
pub(crate) fn build(
    image: ImageReference,
    mode: InvokeMode,
    fields: Fields,
) -> Result<FunctionDefinition, DefinitionError> {
    let mut definition = FunctionDefinition::new(image, mode);
    set(&mut definition, fields)?;
    definition.validate()?;
    Ok(definition)
}

/// Another one, with what the flags change, checked. Fields get their defaults back before others are set.
pub(crate) fn change(
    definition: FunctionDefinition,
    changes: UpdateFunction,
) -> Result<FunctionDefinition, DefinitionError> {
    let mut definition = unset(definition, &changes.unset)?;
    replace(&mut definition.image, changes.image);
    replace(&mut definition.invoke_mode, changes.mode);
    set(&mut definition, changes.fields)?;
    definition.validate()?;
    Ok(definition)
}

fn set(definition: &mut FunctionDefinition, fields: Fields) -> Result<(), DefinitionError> {
    replace(&mut definition.cpu, fields.cpu);
    replace(&mut definition.memory, fields.memory);
    replace(&mut definition.disk, fields.disk);
    replace(&mut definition.max_instances, fields.max_instances);
    replace(&mut definition.min_instances, fields.min_instances);
    replace(&mut definition.concurrency, fields.concurrency);
    replace(&mut definition.timeout_ms, fields.timeout_ms);
    replace(&mut definition.idle_timeout_ms, fields.idle_timeout_ms);
    replace(
        &mut definition.startup_timeout_ms,
        fields.startup_timeout_ms,
    );
    replace(&mut definition.idle_pause_ms, fields.idle_pause_ms);
    replace(&mut definition.idle_stop_ms, fields.idle_stop_ms);
    definition.env.extend(fields.env);
    if !fields.route.is_empty() {
        definition.routes = fields
            .route
            .into_iter()
            .map(|hostname| Route { hostname })
            .collect();
    }
    if let [url, branch] = fields.repo.as_slice() {
        definition.repo = Some(Repo(url.clone(), branch.clone()));
    }
    for (name, limit) in fields.svc_quota {
        set_quota(definition, &name, limit)?;
    }
    if !fields.secret.is_empty() {
        definition.secrets = fields.secret;
    }
    definition.svc_group_id = fields.svc_group_id.or(definition.svc_group_id.take());
    definition.user = fields.user.or(definition.user.take());
    definition.affinity = fields.affinity.or(definition.affinity.take());
    definition.readiness = fields
        .readiness
        .map(|path| Readiness { path })
        .or(definition.readiness.take());
    // The only value of egress that there is, is its default.
    Ok(())
}

fn replace<T>(field: &mut T, value: Option<T>) {
    if let Some(value) = value {
        *field = value;
    }
}

fn set_quota(
    definition: &mut FunctionDefinition,
    name: &str,
    limit: u64,
) -> Result<(), DefinitionError> {
    let quotas = &mut definition.svc_quotas;
    let quota = match name {
        "kv_bytes" => &mut quotas.kv_bytes,
        "kv_keys" => &mut quotas.kv_keys,
        "blob_bytes" => &mut quotas.blob_bytes,
        "blob_count" => &mut quotas.blob_count,
        "requests_per_second" => &mut quotas.requests_per_second,
        _ => {
            return Err(refused(
                format!("svc_quotas.{name}"),
                "there is no such quota",
            ));
        }
    };
    *quota = Some(limit);
    Ok(())
}

/// By way of the JSON form, which leaves out what has its default.
fn unset(
    definition: FunctionDefinition,
    fields: &[String],
) -> Result<FunctionDefinition, DefinitionError> {
    if fields.is_empty() {
        return Ok(definition);
    }
    // Maps with text keys, texts and finite numbers: it cannot fail.
    let Ok(Value::Object(mut json)) = serde_json::to_value(&definition) else {
        return Ok(definition);
    };
    for field in fields {
        // A field that is left out of the form has its default already, if it exists.
        if json.remove(field).is_none() {
            json.insert(field.clone(), Value::Null);
            let form = Value::Object(json.clone()).to_string();
            match FunctionDefinition::from_json(form.as_bytes()) {
                Err(error) if error.reason.contains("unknown field") => {
                    return Err(refused(field.clone(), "there is no such field"));
                }
                _ => json.remove(field),
            };
        }
    }
    FunctionDefinition::from_json(Value::Object(json).to_string().as_bytes())
}

fn refused(field: String, reason: &str) -> DefinitionError {
    DefinitionError {
        field,
        reason: reason.to_owned(),
        kind: DefinitionErrorKind::Malformed,
    }
}

#[cfg(test)]
mod tests {
    use bismuth_model::FunctionId;
    use clap::Parser as _;

    use super::*;
    use crate::args::{Args, Command};

    fn parsed(line: &str) -> Result<Command, String> {
        let line = format!("bismuthctl {line}");
        let args = Args::try_parse_from(line.split_whitespace());
        args.map(|args| args.command)
            .map_err(|error| error.to_string())
    }

    /// The definition that a `create-function` with these flags makes.
    fn created(flags: &str) -> Result<FunctionDefinition, String> {
        let line = format!("create-function alpine exec:/bin/ls {flags}");
        let Command::CreateFunction(create) = parsed(&line)? else {
            panic!("not create-function");
        };
        build(create.image, create.mode, create.fields).map_err(|error| error.to_string())
    }

    /// What an `update-function` with these flags makes of it.
    fn updated(definition: &FunctionDefinition, flags: &str) -> Result<FunctionDefinition, String> {
        let id = FunctionId::from_bytes([7; 16]);
        let Command::UpdateFunction(update) = parsed(&format!("update-function {id} {flags}"))?
        else {
            panic!("not update-function");
        };
        change(definition.clone(), *update).map_err(|error| error.to_string())
    }

    #[test]
    fn every_flag_sets_its_field() {
        let table = [
            ("cpu", "--cpu 0.5", "0.5"),
            ("memory", "--memory 256MiB", "268435456"),
            ("disk", "--disk 1GiB", "1073741824"),
            ("env", "--env A=b=c --env D=", r#"{"A":"b=c","D":""}"#),
            (
                "routes",
                "--route A.example --route b.example.",
                r#"[{"hostname":"a.example"},{"hostname":"b.example"}]"#,
            ),
            ("max_instances", "--max-instances 3", "3"),
            ("min_instances", "--min-instances 1", "1"),
            ("concurrency", "--concurrency 7", "7"),
            ("timeout_ms", "--timeout-ms 1000", "1000"),
            ("idle_timeout_ms", "--idle-timeout-ms 1001", "1001"),
            ("startup_timeout_ms", "--startup-timeout-ms 1002", "1002"),
            ("idle_pause_ms", "--idle-pause-ms 0", "0"),
            ("idle_stop_ms", "--idle-stop-ms 1003", "1003"),
            (
                "repo",
                "--repo https://git.example/a.git main",
                r#"["https://git.example/a.git","main"]"#,
            ),
            ("svc_group_id", "--svc-group-id shop", r#""shop""#),
            ("svc_quotas", "--svc-quota kv_keys=9", r#"{"kv_keys":9}"#),
            (
                "secrets",
                "--secret db/a=b=env:DB --secret key=file:tls.key",
                r#"[{"env":"DB","name":"db/a=b"},{"file":"tls.key","name":"key"}]"#,
            ),
            ("user", "--user nobody:100", r#""nobody:100""#),
            ("egress", "--egress none", r#""none""#),
            (
                "affinity",
                "--affinity cookie:session",
                r#"{"cookie":"session"}"#,
            ),
            (
                "readiness",
                "--readiness /healthz",
                r#"{"path":"/healthz"}"#,
            ),
        ];
        for (field, flags, expected) in table {
            let definition = serde_json::to_value(created(flags).unwrap()).unwrap();
            assert_eq!(definition[field].to_string(), expected, "{flags}");
        }
    }

    #[test]
    fn a_value_out_of_range_is_refused_with_the_field_named() {
        let table = [
            ("--memory 128M", "not a size"),
            ("--memory 1KiB", "memory"),
            ("--cpu 0", "cpu"),
            ("--env A", "NAME=VALUE"),
            ("--env BISMUTH_X=1", "BISMUTH_"),
            ("--route bad-", "bad-"),
            ("--min-instances 2", "min_instances"),
            ("--svc-quota colour=1", "svc_quotas.colour"),
            ("--affinity moon", "header:NAME"),
            ("--egress internet", "none"),
            ("--repo only-one", "--repo"),
        ];
        for (flags, expected) in table {
            let refusal = created(flags).unwrap_err();
            assert!(refusal.contains(expected), "{flags}: {refusal}");
        }
    }

    #[test]
    fn an_update_changes_only_the_given_fields() {
        let before = created("--env A=1 --env B=2 --user nobody --memory 1GiB").unwrap();
        assert_eq!(updated(&before, "").unwrap(), before);
        let flags =
            "--mode server:80:/bin/serve --env B=3 --unset memory --unset user --unset routes";
        let after = updated(&before, flags).unwrap();
        assert_eq!(
            (after.env["A"].as_str(), after.env["B"].as_str()),
            ("1", "3")
        );
        assert_eq!((after.memory, after.user), (128 << 20, None));
        assert_eq!(after.invoke_mode.to_string(), "server:80:/bin/serve");
    }

    #[test]
    fn unknown_or_required_fields_cannot_be_unset() {
        let definition = created("").unwrap();
        let refusal = |field: &str| updated(&definition, &format!("--unset {field}")).unwrap_err();
        assert_eq!(refusal("colour"), "colour: there is no such field");
        assert!(refusal("image").contains("missing field `image`"));
    }
}

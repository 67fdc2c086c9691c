//! Validates a function definition: every value against its limits. Pure.

use std::fmt::Display;
use std::ops::RangeInclusive;

use crate::definition::{Affinity, DefinitionError, FunctionDefinition, Readiness, Repo};
use crate::{SecretUse, ServiceGroup, limits};

impl FunctionDefinition {
    /// Checks every value against its limits.
    pub fn validate(&self) -> Result<(), DefinitionError> {
        self.invoke_mode
            .validate()
            .map_err(|error| DefinitionError::out_of_range("invoke_mode", error))?;
        self.validate_numbers()?;
        self.validate_env()?;
        self.validate_routes()?;
        SecretUse::validate_all(&self.secrets, |name| self.env.contains_key(name))?;
        self.validate_texts()
    }

    fn validate_numbers(&self) -> Result<(), DefinitionError> {
        if !limits::CPU.contains(&self.cpu) {
            return Err(out_of(&limits::CPU, "cpu", self.cpu, " cores"));
        }
        for (field, value, range, unit) in [
            ("memory", self.memory, limits::MEMORY, " bytes"),
            ("disk", self.disk, limits::DISK, " bytes"),
            (
                "max_instances",
                self.max_instances.into(),
                limits::INSTANCES,
                "",
            ),
            (
                "concurrency",
                self.concurrency.into(),
                limits::CONCURRENCY,
                "",
            ),
            ("timeout_ms", self.timeout_ms, limits::TIMEOUT_MS, " ms"),
            (
                "idle_timeout_ms",
                self.idle_timeout_ms,
                limits::TIMEOUT_MS,
                " ms",
            ),
            (
                "startup_timeout_ms",
                self.startup_timeout_ms,
                limits::STARTUP_TIMEOUT_MS,
                " ms",
            ),
            ("idle_pause_ms", self.idle_pause_ms, limits::IDLE_MS, " ms"),
            ("idle_stop_ms", self.idle_stop_ms, limits::IDLE_MS, " ms"),
        ] {
            if !range.contains(&value) {
                return Err(out_of(&range, field, value, unit));
            }
        }
        let (min, max) = (self.min_instances, self.max_instances);
        if min > max {
            let reason = format!("{min} is more than max_instances, {max}");
            return Err(DefinitionError::out_of_range("min_instances", reason));
        }
        Ok(())
    }

    fn validate_env(&self) -> Result<(), DefinitionError> {
        check_count("env", self.env.len(), limits::ENV_ENTRIES, "entries")?;
        for (name, value) in &self.env {
            let refuse = |reason: &str| {
                let shown: String = name.chars().take(64).collect();
                Err(DefinitionError::out_of_range(
                    format!("env[{shown:?}]"),
                    reason,
                ))
            };
            if name.is_empty() || name.contains(['=', '\0']) {
                return refuse("a name is not empty and has neither '=' nor NUL");
            }
            if name.starts_with("BISMUTH_") {
                return refuse("names that start with BISMUTH_ are set by Bismuth");
            }
            if value.contains('\0') {
                return refuse("a value has no NUL");
            }
        }
        Ok(())
    }

    fn validate_routes(&self) -> Result<(), DefinitionError> {
        check_count("routes", self.routes.len(), limits::ROUTES, "routes")?;
        for (index, route) in self.routes.iter().enumerate() {
            if self.routes[..index].contains(route) {
                return Err(DefinitionError::out_of_range(
                    format!("routes[{index}].hostname"),
                    format!("{} is listed twice", route.hostname),
                ));
            }
        }
        Ok(())
    }

    fn validate_texts(&self) -> Result<(), DefinitionError> {
        if let Some(Repo(url, branch)) = &self.repo {
            check_text("repo[0]", url)?;
            check_text("repo[1]", branch)?;
        }
        if let Some(group) = &self.svc_group_id {
            group
                .parse::<ServiceGroup>()
                .map_err(|error| DefinitionError::out_of_range("svc_group_id", error))?;
        }
        if let Some(user) = &self.user {
            validate_user(user)?;
        }
        if let Some(Affinity::Header(name) | Affinity::Cookie(name)) = &self.affinity
            && !is_token(name)
        {
            return Err(DefinitionError::out_of_range(
                "affinity",
                format!("{name:?} is not the name of a header or cookie"),
            ));
        }
        if let Some(Readiness { path }) = &self.readiness {
            let visible = path.bytes().all(|b| b.is_ascii_graphic());
            if !path.starts_with('/') || !visible || path.len() > limits::TEXT {
                return Err(DefinitionError::out_of_range(
                    "readiness.path",
                    "expected a path that starts with '/', percent-encoded where needed",
                ));
            }
        }
        Ok(())
    }
}

fn out_of<T: Display>(
    range: &RangeInclusive<T>,
    field: &str,
    value: T,
    unit: &str,
) -> DefinitionError {
    let reason = format!(
        "{value} is not within {} to {}{unit}",
        range.start(),
        range.end()
    );
    DefinitionError::out_of_range(field, reason)
}

fn check_count(field: &str, count: usize, max: usize, what: &str) -> Result<(), DefinitionError> {
    if count > max {
        let reason = format!("{count} {what}, at most {max} are allowed");
        return Err(DefinitionError::out_of_range(field, reason));
    }
    Ok(())
}

fn check_text(field: &str, text: &str) -> Result<(), DefinitionError> {
    if text.is_empty() || text.len() > limits::TEXT || text.contains(char::is_control) {
        let reason = format!(
            "expected 1 to {} bytes without control characters",
            limits::TEXT
        );
        return Err(DefinitionError::out_of_range(field, reason));
    }
    Ok(())
}

/// `user[:group]`, each a number or a name as in passwd(5).
fn validate_user(user: &str) -> Result<(), DefinitionError> {
    let part_is_good = |part: &str| {
        let first = part.bytes().next();
        let allowed = |b: u8| b.is_ascii_alphanumeric() || b"-_.".contains(&b);
        (1..=32).contains(&part.len())
            && part.bytes().all(allowed)
            && first.is_some_and(|b| b != b'-')
            // Ids above 65535 are not mapped into the container's user namespace.
            && part.parse::<u64>().map_or(true, |id| id <= 65_535)
    };
    let (name, group) = user
        .split_once(':')
        .map_or((user, None), |(u, g)| (u, Some(g)));
    if part_is_good(name) && group.is_none_or(part_is_good) {
        return Ok(());
    }
    Err(DefinitionError::out_of_range(
        "user",
        format!("{user:?} is not user[:group], names or numbers up to 65535"),
    ))
}

/// RFC 9110 section 5.6.2.
fn is_token(text: &str) -> bool {
    let allowed = |b: u8| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b);
    (1..=256).contains(&text.len()) && text.bytes().all(allowed)
}

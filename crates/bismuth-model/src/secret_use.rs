//! Secrets of its group that a function gets at start, as environment variables or files.

use serde::{Deserialize, Serialize};

use crate::DefinitionError;
use crate::limits;

/// One secret, as an environment variable, as a file in `/run/secrets`, or as both.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SecretUse {
    /// Its name in the function's service group.
    pub name: String,
    /// The environment variable that holds it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub env: Option<String>,
    /// The file in `/run/secrets` that holds it; one path segment.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub file: Option<String>,
}

impl SecretUse {
    /// Checks each alone and all against each other. `taken` says which variables the definition sets otherwise.
    pub(crate) fn validate_all(
        uses: &[Self],
        taken: impl Fn(&str) -> bool,
    ) -> Result<(), DefinitionError> {
        let refuse =
            |field: String, reason: &str| Err(DefinitionError::out_of_range(field, reason));
        if uses.len() > limits::SECRETS {
            let reason = format!("at most {} secrets are allowed", limits::SECRETS);
            return refuse("secrets".to_owned(), &reason);
        }
        for (index, one) in uses.iter().enumerate() {
            let field = |name: &str| format!("secrets[{index}].{name}");
            let earlier = &uses[..index];
            if let Err(reason) = check_name(&one.name) {
                return refuse(field("name"), reason);
            }
            match (&one.env, &one.file) {
                (None, None) => {
                    return refuse(
                        format!("secrets[{index}]"),
                        "expected `env`, `file`, or both",
                    );
                }
                (Some(env), _) if !is_variable(env) => {
                    return refuse(
                        field("env"),
                        "a name is not empty, has neither '=' nor NUL, and does not start with BISMUTH_",
                    );
                }
                (Some(env), _) if taken(env) || earlier.iter().any(|e| e.env == one.env) => {
                    return refuse(field("env"), "the variable is set twice");
                }
                (_, Some(file)) if !is_segment(file) => {
                    return refuse(
                        field("file"),
                        "expected the name of a file: 1 to 255 bytes without '/' or NUL",
                    );
                }
                (_, Some(_)) if earlier.iter().any(|e| e.file == one.file) => {
                    return refuse(field("file"), "the file is written twice");
                }
                _ => {}
            }
        }
        Ok(())
    }
}

/// As keys of the services are.
fn check_name(name: &str) -> Result<(), &'static str> {
    let segments = || name.split('/').all(|s| !matches!(s, "" | "." | ".."));
    if (1..=512).contains(&name.len()) && !name.contains('\0') && segments() {
        Ok(())
    } else {
        Err(
            "expected 1 to 512 bytes without NUL, whose parts between '/' are neither empty nor '.' nor '..'",
        )
    }
}

fn is_variable(name: &str) -> bool {
    !name.is_empty() && !name.contains(['=', '\0']) && !name.starts_with("BISMUTH_")
}

fn is_segment(name: &str) -> bool {
    (1..=255).contains(&name.len()) && !name.contains(['/', '\0']) && !matches!(name, "." | "..")
}

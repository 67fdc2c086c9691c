//! The program of a container: arguments, environment and directory, from image and definition. Pure.

use std::collections::BTreeMap;

use bismuth_model::{ContainerId, FunctionDefinition, FunctionId};
use serde::{Deserialize, Serialize};

use crate::svcprovider::{self, Token};

/// Where programs are looked for when neither image nor definition says: Docker's default.
const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// A command with its surroundings.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Program {
    pub argv: Vec<String>,
    /// Its environment, `NAME=value`, in the order of names.
    pub env: Vec<String>,
    pub cwd: String,
}

/// The part of an image's configuration that a program inherits.
#[derive(Clone, Copy, Debug)]
pub struct ImageDefaults<'a> {
    /// `NAME=value` lines.
    pub env: &'a [String],
    /// Working directory; empty is `/`.
    pub working_dir: Option<&'a str>,
    /// The user's home directory as the image's passwd file says.
    pub home: &'a str,
}

/// Puts the program together: image first, then the definition, then what Bismuth sets.
pub fn program(
    definition: &FunctionDefinition,
    image: ImageDefaults<'_>,
    function: FunctionId,
    container: ContainerId,
    token: &Token,
) -> Program {
    let mut env = BTreeMap::from([("PATH", DEFAULT_PATH), ("HOME", image.home)]);
    env.extend(image.env.iter().filter_map(|line| line.split_once('=')));
    env.extend(definition.env.iter().map(|(n, v)| (n.as_str(), v.as_str())));
    let (function, container) = (function.to_string(), container.to_string());
    env.insert("BISMUTH_FUNCTION_ID", &function);
    env.insert("BISMUTH_CONTAINER_ID", &container);
    env.insert("BISMUTH_SERVICES", svcprovider::URL);
    env.extend([token.variable()]);
    let cwd = image.working_dir.filter(|dir| dir.starts_with('/'));
    Program {
        argv: definition.invoke_mode.command().to_vec(),
        env: env.into_iter().map(|(n, v)| format!("{n}={v}")).collect(),
        cwd: cwd.unwrap_or("/").to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_definition_overrides_the_image_and_bismuth_overrides_both() {
        let mut definition =
            FunctionDefinition::new("a".parse().unwrap(), "exec:/bin/ls -l".parse().unwrap());
        definition.env.insert("LANG".into(), "C".into());
        let image_env =
            ["LANG=de", "A=1=2", "BISMUTH_FUNCTION_ID=forged", "broken"].map(String::from);
        let image = ImageDefaults {
            env: &image_env,
            working_dir: Some(""),
            home: "/root",
        };
        let (function, container) = (FunctionId::new_random(), ContainerId::new_random());
        let token = Token::random().unwrap();
        let program = program(&definition, image, function, container, &token);
        assert_eq!(program.argv, ["/bin/ls", "-l"]);
        assert_eq!(program.cwd, "/");
        assert_eq!(
            program.env,
            [
                "A=1=2".to_owned(),
                format!("BISMUTH_AUTH={}", token.variable().1),
                format!("BISMUTH_CONTAINER_ID={container}"),
                format!("BISMUTH_FUNCTION_ID={function}"),
                "BISMUTH_SERVICES=http://169.254.169.254:9000".to_owned(),
                "HOME=/root".to_owned(),
                "LANG=C".to_owned(),
                format!("PATH={DEFAULT_PATH}"),
            ]
        );
    }
}

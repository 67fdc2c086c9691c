//! Invoke mode: an HTTP server that requests are proxied to, or a program executed per request.
//!
//! | mode | as text | as JSON |
//! |---|---|---|
//! | server | `server:8000:/usr/bin/python3 -m http.server` | `{"Server":[["/usr/bin/python3","-m","http.server"],8000]}` |
//! | exec | `exec:/bin/ls -l` | `{"Executable":["/bin/ls","-l"]}` |
//!
//! The text form splits its command line as a POSIX shell would (quotes and backslashes
//! respected, no expansion).

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use thiserror::Error;

/// The program of a function and how it is spoken to.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum InvokeMode {
    /// The program is the container's init and serves HTTP on this port; requests are proxied.
    Server(Vec<String>, u16),
    /// The program is run once per request: body on stdin, stdout is the answer.
    Executable(Vec<String>),
}

/// Why an invoke mode is refused.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum InvokeModeError {
    /// Neither `server:` nor `exec:`.
    #[error("{0:?} is not an invoke mode: expected server:PORT:COMMAND or exec:COMMAND")]
    UnknownForm(String),
    /// The part between the colons of the server form.
    #[error("{0:?} is not a port: expected a number from 1 to 65535")]
    BadPort(String),
    /// An open quote or a trailing backslash.
    #[error("cannot split the command {0:?}: a quote is not closed")]
    UnclosedQuote(String),
    /// No program.
    #[error("the command is empty")]
    EmptyCommand,
    /// Arguments are C strings.
    #[error("argument {0} of the command contains a NUL byte")]
    Nul(usize),
}

impl InvokeMode {
    /// The program and its arguments.
    pub fn command(&self) -> &[String] {
        match self {
            Self::Server(command, _) | Self::Executable(command) => command,
        }
    }

    /// Checks what serde cannot: a program is named, no NUL bytes, the port is not 0.
    pub fn validate(&self) -> Result<(), InvokeModeError> {
        let command = self.command();
        if command.first().is_none_or(String::is_empty) {
            return Err(InvokeModeError::EmptyCommand);
        }
        if let Some(index) = command.iter().position(|a| a.contains('\0')) {
            return Err(InvokeModeError::Nul(index));
        }
        match self {
            Self::Server(_, 0) => Err(InvokeModeError::BadPort("0".into())),
            _ => Ok(()),
        }
    }
}

fn split(command: &str) -> Result<Vec<String>, InvokeModeError> {
    shlex::split(command).ok_or_else(|| InvokeModeError::UnclosedQuote(command.to_owned()))
}

impl FromStr for InvokeMode {
    type Err = InvokeModeError;

    fn from_str(text: &str) -> Result<Self, InvokeModeError> {
        let mode = if let Some(command) = text.strip_prefix("exec:") {
            Self::Executable(split(command)?)
        } else if let Some(rest) = text.strip_prefix("server:") {
            let (port, command) = rest
                .split_once(':')
                .ok_or_else(|| InvokeModeError::UnknownForm(text.to_owned()))?;
            let number = port
                .parse()
                .map_err(|_| InvokeModeError::BadPort(port.to_owned()))?;
            Self::Server(split(command)?, number)
        } else {
            return Err(InvokeModeError::UnknownForm(text.to_owned()));
        };
        mode.validate()?;
        Ok(mode)
    }
}

/// Writes the text form, quoted so that [`InvokeMode::from_str`] reads it back.
impl fmt::Display for InvokeMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Server(_, port) => write!(f, "server:{port}:")?,
            Self::Executable(_) => f.write_str("exec:")?,
        }
        // Fails only on NUL bytes, which a validated mode does not have.
        let command = shlex::try_join(self.command().iter().map(String::as_str));
        f.write_str(&command.map_err(|_| fmt::Error)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn documented_forms_parse_as_documented() {
        let server = InvokeMode::Server(
            ["/usr/bin/python3", "-m", "http.server"]
                .map(String::from)
                .into(),
            8000,
        );
        assert_eq!(
            "server:8000:/usr/bin/python3 -m http.server".parse(),
            Ok(server.clone())
        );
        assert_eq!(
            serde_json::to_string(&server).unwrap(),
            r#"{"Server":[["/usr/bin/python3","-m","http.server"],8000]}"#
        );
        let exec = InvokeMode::Executable(["/bin/ls", "-l"].map(String::from).into());
        assert_eq!("exec:/bin/ls -l".parse(), Ok(exec.clone()));
        assert_eq!(
            serde_json::from_str::<InvokeMode>(r#"{"Executable":["/bin/ls","-l"]}"#).unwrap(),
            exec
        );
    }

    #[test]
    fn quotes_are_respected() {
        let mode: InvokeMode = r#"exec:sh -c 'echo "a b"' c\ d"#.parse().unwrap();
        assert_eq!(mode.command(), ["sh", "-c", r#"echo "a b""#, "c d"]);
    }

    #[test]
    fn malformed_modes_are_refused_by_name() {
        use InvokeModeError as E;
        for (text, error) in [
            ("", E::UnknownForm(String::new())),
            ("lambda:x", E::UnknownForm("lambda:x".into())),
            ("server:8000", E::UnknownForm("server:8000".into())),
            ("server:0:x", E::BadPort("0".into())),
            ("server:70000:x", E::BadPort("70000".into())),
            ("exec:", E::EmptyCommand),
            ("exec:''", E::EmptyCommand),
            ("exec:'a", E::UnclosedQuote("'a".into())),
            ("exec:a\0", E::Nul(0)),
        ] {
            assert_eq!(text.parse::<InvokeMode>(), Err(error));
        }
    }

    fn any_mode() -> impl Strategy<Value = InvokeMode> {
        let command = prop::collection::vec("[^\0]{1,20}", 1..5);
        prop_oneof![
            (command.clone(), 1u16..).prop_map(|(c, p)| InvokeMode::Server(c, p)),
            command.prop_map(InvokeMode::Executable),
        ]
    }

    proptest! {
        #[test]
        fn every_mode_reads_back_from_its_text_and_its_json(mode in any_mode()) {
            prop_assert_eq!(mode.to_string().parse::<InvokeMode>().unwrap(), mode.clone());
            let json = serde_json::to_string(&mode).unwrap();
            prop_assert_eq!(serde_json::from_str::<InvokeMode>(&json).unwrap(), mode);
        }
    }
}

//! Injects secrets into a started container, through bismuth-init.
//!
//! ```text
//!   exec:    init listens ─► files and variables ─► Delivered
//!   server:  init listens ─► files and program ───► it closes the connection and is the program
//! ```

use std::ffi::CString;
use std::io;
use std::path::Path;
use std::time::Duration;

use bismuth_init::protocol::{ProtocolError, RequestError};
use bismuth_init::{AfterInject, ExecRequest, FailureKind, InjectRequest, Reply, ReplyDecoder};
use bismuth_model::{FunctionDefinition, InvokeMode};
use thiserror::Error;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UnixStream;
use zeroize::Zeroizing;

use super::user::User;
use crate::node::program::Program;
use crate::svcprovider::Secrets;

/// bismuth-init answers at once, unless the disk is slow from which it executes the program.
const BOUND: Duration = Duration::from_secs(5);

/// Why secrets did not arrive.
#[derive(Debug, Error)]
pub enum InjectError {
    #[error("give bismuth-init the secrets")]
    Io(#[from] io::Error),
    #[error("send the secrets")]
    Send(#[from] RequestError),
    #[error("decode the reply of bismuth-init")]
    Protocol(#[from] ProtocolError),
    #[error("{what}")]
    Refused { kind: FailureKind, what: String },
}

impl InjectError {
    /// Whether the program itself cannot be run.
    pub(super) fn is_about_the_program(&self) -> bool {
        let program = |kind: &FailureKind| {
            matches!(
                kind,
                FailureKind::ProgramNotFound
                    | FailureKind::NotExecutable
                    | FailureKind::BadInterpreter
                    | FailureKind::WorkingDirectory
            )
        };
        matches!(self, Self::Refused { kind, .. } if program(kind))
    }
}

/// What bismuth-init is given, if anything: the files, and what belongs into environments: for executions the variables, and
/// for a server the whole program.
pub(super) fn delivery(
    definition: &FunctionDefinition,
    program: &Program,
    user: &User,
    secrets: Secrets,
) -> Result<Option<InjectRequest>, RequestError> {
    if definition.secrets.is_empty() {
        return Ok(None);
    }
    let Secrets { env, files } = secrets;
    let then = match definition.invoke_mode {
        InvokeMode::Executable(_) => AfterInject::Serve(variables(&env)?),
        InvokeMode::Server(..) => AfterInject::Become(server(program, user, &env)?),
    };
    Ok(Some(InjectRequest { files, then }))
}

fn variables(env: &[Zeroizing<Vec<u8>>]) -> Result<Vec<CString>, RequestError> {
    let lines = env.iter().map(|line| CString::new(line.to_vec()));
    Ok(lines.collect::<Result<_, _>>()?)
}

fn server(
    program: &Program,
    user: &User,
    secrets: &[Zeroizing<Vec<u8>>],
) -> Result<ExecRequest, RequestError> {
    fn name(line: &[u8]) -> Option<&[u8]> {
        line.split(|byte| *byte == b'=').next()
    }
    // The image may set what the definition says is a secret.
    let is_secret = |line: &&String| {
        let own = name(line.as_bytes());
        secrets.iter().any(|secret| name(secret) == own)
    };
    let env = program.env.iter().filter(|line| !is_secret(line));
    let env = env.map(|line| line.clone().into_bytes());
    let env = env.chain(secrets.iter().map(|line| line.to_vec()));
    let argv = program.argv.iter().map(String::as_str);
    let request = ExecRequest::new(argv, env, program.cwd.as_str(), (user.uid, user.gid));
    let mut request = request?;
    request.groups.clone_from(&user.groups);
    Ok(request)
}

/// Returns when bismuth-init has taken the delivery, and become the program if there is one in it.
pub(super) async fn inject(run_dir: &Path, delivery: &InjectRequest) -> Result<(), InjectError> {
    let message = Zeroizing::new(delivery.encode()?);
    let exchange = async {
        let mut stream = UnixStream::connect(super::init_socket(run_dir)).await?;
        // When sending fails, init may have said why.
        let sent = stream.write_all(&message).await;
        let mut replies = Vec::new();
        stream.read_to_end(&mut replies).await?;
        Ok::<_, io::Error>((sent, replies))
    };
    let exchanged = tokio::time::timeout(BOUND, exchange).await;
    let (sent, replies) =
        exchanged.map_err(|_elapsed| io::Error::from(io::ErrorKind::TimedOut))??;
    let mut decoder = ReplyDecoder::new();
    decoder.push(&replies);
    while let Some(reply) = decoder.next_reply()? {
        if let Reply::SpawnFailed { kind, what, .. } = reply {
            return Err(InjectError::Refused { kind, what });
        }
    }
    Ok(sent.map_err(RequestError::Send)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn delivered(mode: &str) -> AfterInject {
        let mut definition = FunctionDefinition::new("a".parse().unwrap(), mode.parse().unwrap());
        definition.secrets = vec![bismuth_model::SecretUse {
            name: "key".into(),
            env: Some("KEY".into()),
            file: None,
        }];
        let program = Program {
            argv: vec!["/run".into()],
            env: vec!["KEY=of the image".into(), "KEYS=1".into()],
            cwd: "/".into(),
        };
        let user = User {
            uid: 1,
            gid: 2,
            groups: vec![3],
            home: String::new(),
        };
        let secrets = Secrets {
            env: vec![Zeroizing::new(b"KEY=canary".to_vec())],
            files: Vec::new(),
        };
        let delivery = delivery(&definition, &program, &user, secrets);
        delivery.unwrap().unwrap().then
    }

    #[test]
    fn executions_get_secret_variables_and_a_server_its_whole_environment_with_each_name_once() {
        let variables = AfterInject::Serve(vec![c"KEY=canary".into()]);
        assert_eq!(delivered("exec:/run"), variables);
        let AfterInject::Become(program) = delivered("server:80:/run") else {
            panic!("a server is a program");
        };
        assert_eq!(program.env, [c"KEYS=1", c"KEY=canary"]);
        assert_eq!((program.uid, program.gid, program.groups), (1, 2, vec![3]));
    }
}

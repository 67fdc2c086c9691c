//! `secret`: sets, rotates, lists and deletes secrets. Values are written and never read back.

use bismuth_operator::{Call, OperatorClient, json};
use http::Method;
use http_body_util::Full;
use serde::{Deserialize, Serialize};

use super::surface;
use super::value_source::ValueSource;
use crate::args::{OnServices, SecretCommand, SecretValue};
use crate::error::Error;
use crate::output::{Output, table, time};

/// svcprovider takes no more.
const MAX_BYTES: usize = 64 * 1024;

#[derive(Serialize, Deserialize)]
struct SecretVersion {
    name: String,
    version: u64,
}

#[derive(Deserialize)]
struct Secrets {
    secrets: Vec<SecretListEntry>,
}

#[derive(Serialize, Deserialize)]
struct SecretListEntry {
    name: String,
    version: u64,
    modified_ms: u64,
}

#[derive(Serialize, Deserialize)]
struct Rewrapped {
    groups: u64,
    master_key: String,
}

pub(crate) async fn run(
    args: OnServices<SecretCommand>,
    output: &mut Output<'_>,
) -> Result<(), Error> {
    let surface = surface(&args.services)?;
    match args.command {
        SecretCommand::Set(value) => {
            let call = Call::secret(Method::PUT, &value.group, &value.name);
            write(&surface, call, &value, output).await
        }
        SecretCommand::Rotate(value) => {
            let call = Call::rotate(&value.group, &value.name);
            write(&surface, call, &value, output).await
        }
        SecretCommand::List { group } => {
            let answer = surface.ask(Call::secrets(Method::GET, &group)).await?;
            let listed: Secrets = json(&surface, answer).await?;
            list(&listed.secrets, output)
        }
        SecretCommand::Delete { group, name } => {
            let call = Call::secret(Method::DELETE, &group, &name);
            surface.ask(call).await?;
            eprintln!("secret {name} of group {group} is deleted");
            Ok(())
        }
        SecretCommand::Rewrap => {
            let answer = surface.ask(Call::rewrap()).await?;
            let done: Rewrapped = json(&surface, answer).await?;
            output.answer(&done, || {
                format!(
                    "the data keys of {} groups were rewrapped; all are under master key {}\n",
                    done.groups, done.master_key
                )
            })
        }
    }
}

async fn write(
    surface: &OperatorClient,
    call: Call,
    args: &SecretValue,
    output: &mut Output<'_>,
) -> Result<(), Error> {
    let value = source(args)?.read_typed(MAX_BYTES).await?;
    if value.is_empty() {
        return Err(Error::EmptyValue);
    }
    let answer = surface.call(call, Full::new(value)).await?;
    let made: SecretVersion = json(surface, answer).await?;
    output.answer(&made, || format!("{}\n", made.version))
}

/// The error does not repeat what was given, which is or may be the secret.
fn source(args: &SecretValue) -> Result<ValueSource, Error> {
    match &args.source {
        _ if !args.surplus.is_empty() => Err(Error::SecretInArguments),
        None => Ok(ValueSource::Stdin),
        Some(given) => ValueSource::stream(given).map_err(|_| Error::SecretInArguments),
    }
}

fn list(secrets: &[SecretListEntry], output: &mut Output<'_>) -> Result<(), Error> {
    output.answer(&secrets, || {
        let row = |secret: &SecretListEntry| {
            let version = secret.version.to_string();
            [secret.name.clone(), version, time(secret.modified_ms)]
        };
        let header = ["NAME", "VERSION", "MODIFIED"];
        table(header, secrets.iter().map(row))
    })
}

//! `group`: lists, shows and purges the data of service groups.

use bismuth_operator::{Call, json};
use http::Method;
use serde::{Deserialize, Serialize};

use super::{pagination, surface};
use crate::args::{GroupCommand, OnServices};
use crate::byte_size;
use crate::error::Error;
use crate::output::{self, Output};

#[derive(Serialize, Deserialize)]
struct GroupUsage {
    group: String,
    kv: Count,
    blob: Count,
    secrets: u64,
}

#[derive(Serialize, Deserialize)]
struct Count {
    bytes: u64,
    count: u64,
}

pub(crate) async fn run(
    args: OnServices<GroupCommand>,
    output: &mut Output<'_>,
) -> Result<(), Error> {
    let surface = surface(&args.services)?;
    match args.command {
        GroupCommand::List => {
            let groups: Vec<GroupUsage> =
                pagination::all(&surface, Call::new(Method::GET, "/group")).await?;
            output.answer(&groups, || table(&groups))
        }
        GroupCommand::Show { group } => {
            let answer = surface.ask(Call::group(Method::GET, &group)).await?;
            let usage: GroupUsage = json(&surface, answer).await?;
            output.answer(&usage, || table(std::slice::from_ref(&usage)))
        }
        GroupCommand::Purge { group } => {
            let purged = surface.purge(&group).await?;
            output.answer(&purged, || {
                format!(
                    "deleted {} keys, {} blobs and {} secrets of group {group}\n",
                    purged.kv, purged.blobs, purged.secrets
                )
            })
        }
    }
}

fn table(groups: &[GroupUsage]) -> String {
    let row = |usage: &GroupUsage| {
        [
            usage.group.clone(),
            usage.kv.count.to_string(),
            byte_size::show(usage.kv.bytes),
            usage.blob.count.to_string(),
            byte_size::show(usage.blob.bytes),
            usage.secrets.to_string(),
        ]
    };
    let header = [
        "GROUP",
        "KEYS",
        "KEYS-SIZE",
        "BLOBS",
        "BLOBS-SIZE",
        "SECRETS",
    ];
    output::table(header, groups.iter().map(row))
}

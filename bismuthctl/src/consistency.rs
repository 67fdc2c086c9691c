//! `consistency`: finds and repairs inconsistencies between records in ZooKeeper. `show`: shows one record.

use bismuth_registry::audit::{DEPLOYMENT_GRACE, Finding};
use serde::Serialize;

use crate::error::Error;
use crate::output::Output;
use crate::session::Session;

#[derive(Serialize)]
struct FindingOutput {
    what: String,
    #[serde(rename = "how_to_mend")]
    how_to_repair: String,
    /// Whether `--repair` can repair it.
    repairable: bool,
    #[serde(rename = "mended")]
    repaired: bool,
}

pub(crate) async fn run(
    session: &Session,
    repair: bool,
    output: &mut Output<'_>,
) -> Result<(), Error> {
    let (repaired, left) = if repair {
        session.registry.repair_all(DEPLOYMENT_GRACE).await?
    } else {
        (Vec::new(), session.registry.audit().await?)
    };
    let shown: Vec<FindingOutput> = repaired
        .iter()
        .map(|finding| show(finding, true))
        .chain(left.iter().map(|finding| show(finding, false)))
        .collect();
    output.answer(&shown, || {
        let line = |finding: &FindingOutput| match (finding.repaired, finding.repairable) {
            (true, _) => format!("{}: repaired\n", finding.what),
            (false, true) => format!(
                "{}: {} (--repair does it)\n",
                finding.what, finding.how_to_repair
            ),
            (false, false) => format!("{}: {}\n", finding.what, finding.how_to_repair),
        };
        if shown.is_empty() {
            return "No inconsistencies.\n".to_owned();
        }
        shown.iter().map(line).collect()
    })?;
    match left.len() {
        0 => Ok(()),
        count => Err(Error::Inconsistencies(count, repair)),
    }
}

fn show(finding: &Finding, repaired: bool) -> FindingOutput {
    FindingOutput {
        what: finding.what.to_string(),
        how_to_repair: finding.how_to_repair.clone(),
        repairable: finding.repair.is_some(),
        repaired,
    }
}

pub(crate) async fn record(
    session: &Session,
    path: &str,
    output: &mut Output<'_>,
) -> Result<(), Error> {
    let layout = session.registry.layout();
    let root = layout.root();
    let inside = path
        .strip_prefix(root)
        .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'));
    let path = match (inside, path.trim_matches('/')) {
        (true, _) => path.trim_end_matches('/').to_owned(),
        (false, "") => root.to_owned(),
        (false, relative) => format!("{root}/{relative}"),
    };
    // Before it is asked for: what is none of ours is not shown, wherever it is.
    layout.json(&path, &[]).or_else(|error| match error {
        bismuth_registry::JsonError::UnknownPath { .. } => Err(error),
        bismuth_registry::JsonError::Record { .. } => Ok(serde_json::Value::Null),
    })?;
    let node = match session.registry.tree().get(&path).await {
        Ok(node) => node,
        Err(error) if error.is_not_found() => return Err(Error::NoRecord { path }),
        Err(error) => return Err(bismuth_registry::Error::from(error).into()),
    };
    output.json(&layout.json(&path, &node.data)?)
}

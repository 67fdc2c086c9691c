//! Reads all pages of a list from svcprovider.

use bismuth_operator::{Call, CallError, OperatorClient, json};
use serde::Deserialize;
use serde::de::DeserializeOwned;

/// Entries asked for at a time.
const LIMIT: &str = "1000";

/// One page, whatever it is of.
#[derive(Deserialize)]
struct Page<T> {
    #[serde(alias = "keys", alias = "blobs", alias = "groups")]
    entries: Vec<T>,
    next: Option<String>,
}

/// Asks until there is no more.
pub(super) async fn all<T: DeserializeOwned>(
    surface: &OperatorClient,
    call: Call,
) -> Result<Vec<T>, CallError> {
    let (mut all, mut after) = (Vec::new(), None::<String>);
    loop {
        let mut part = call.clone().query("limit", LIMIT);
        if let Some(after) = &after {
            part = part.query("after", after);
        }
        let page: Page<T> = json(surface, surface.ask(part).await?).await?;
        all.extend(page.entries);
        // Names come in order, so a list that does not get on would never end.
        match page.next {
            None => return Ok(all),
            next if next <= after => {
                return Err(CallError::Answer {
                    address: surface.address(),
                    reason: format!("after {after:?} comes {next:?}"),
                });
            }
            next => after = next,
        }
    }
}

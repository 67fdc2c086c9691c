//! `store`: shows and releases the node's claim on the services' embedded store.

use crate::args::StoreCommand;
use crate::error::Error;
use crate::output::Output;
use crate::session::Session;

pub(crate) async fn run(
    session: &Session,
    command: StoreCommand,
    output: &mut Output<'_>,
) -> Result<(), Error> {
    let claim = session.registry.store_claim().await?;
    match command {
        StoreCommand::Show => output.answer(&claim, || match &claim {
            Some(claim) => format!("{} {}\n", claim.node, claim.store),
            None => "No node has an embedded store.\n".to_owned(),
        }),
        StoreCommand::Release { node } => {
            let Some(claim) = claim.filter(|claim| claim.node == node) else {
                return Err(Error::StoreNotHeld(node));
            };
            if !session.registry.release_store(&claim).await? {
                return Err(Error::StoreNotHeld(node));
            }
            eprintln!(
                "the embedded store of {node} is released; its data stays on that node's disk"
            );
            Ok(())
        }
    }
}

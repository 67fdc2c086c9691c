//! Plans the steps that make svcprovider hold the service sockets it should. Pure.
//!
//! ```text
//!  wanted: container → (digest, have we its socket?)  ─┐
//!                                                      ├─► [Detach…, TakeBack…, Make…, Attach…]
//!  held:   container → digest                         ─┘
//! ```

use std::collections::BTreeMap;

use bismuth_handover::TokenDigest;
use bismuth_model::ContainerId;

/// A service socket as far as planning needs it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Wanted {
    /// Which start of the container.
    pub token: TokenDigest,
    /// Whether this process holds its socket.
    pub has_socket: bool,
}

/// One thing to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// svcprovider lets go of a socket that should be gone, or of an earlier start.
    Detach(ContainerId),
    /// svcprovider holds the socket and we do not.
    TakeBack(ContainerId),
    /// Nobody holds the socket.
    Make(ContainerId),
    /// svcprovider does not hold it.
    Attach(ContainerId),
}

/// The steps from `held` to `wanted`, in the order of their kinds.
pub(super) fn plan(
    wanted: &BTreeMap<ContainerId, Wanted>,
    held: &BTreeMap<ContainerId, TokenDigest>,
) -> Vec<Step> {
    let fits =
        |id: &ContainerId, token: &TokenDigest| wanted.get(id).map(|w| w.token) == Some(*token);
    let detach = held
        .iter()
        .filter(|(id, token)| !fits(id, token))
        .map(|(id, _)| Step::Detach(*id));
    let is_held = |(id, wanted): &(&ContainerId, &Wanted)| held.get(id) == Some(&wanted.token);
    let (there, missing): (Vec<_>, Vec<_>) = wanted.iter().partition(is_held);
    let take_back = there
        .into_iter()
        .filter(|(_, wanted)| !wanted.has_socket)
        .map(|(id, _)| Step::TakeBack(*id));
    let make = missing
        .iter()
        .filter(|(_, wanted)| !wanted.has_socket)
        .map(|(id, _)| Step::Make(**id));
    let attach = missing.iter().map(|(id, _)| Step::Attach(**id));
    detach.chain(take_back).chain(make).chain(attach).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn id(n: u8) -> ContainerId {
        ContainerId::from_bytes([n; 16])
    }

    fn token(n: u8) -> TokenDigest {
        TokenDigest([n; 32])
    }

    fn wanted(service_sockets: &[(u8, u8, bool)]) -> BTreeMap<ContainerId, Wanted> {
        let socket = |&(n, start, has_socket): &(u8, u8, bool)| {
            let token = token(start);
            (id(n), Wanted { token, has_socket })
        };
        service_sockets.iter().map(socket).collect()
    }

    fn held(sockets: &[(u8, u8)]) -> BTreeMap<ContainerId, TokenDigest> {
        sockets
            .iter()
            .map(|(n, start)| (id(*n), token(*start)))
            .collect()
    }

    #[test]
    fn a_new_svcprovider_is_given_every_socket() {
        let steps = plan(&wanted(&[(1, 1, true), (2, 1, true)]), &held(&[]));
        assert_eq!(steps, [Step::Attach(id(1)), Step::Attach(id(2))]);
    }

    #[test]
    fn after_a_restart_held_sockets_are_taken_back_and_the_others_made() {
        let steps = plan(
            &wanted(&[(1, 1, false), (2, 1, false)]),
            &held(&[(1, 1), (3, 1)]),
        );
        let expected = [
            Step::Detach(id(3)),
            Step::TakeBack(id(1)),
            Step::Make(id(2)),
            Step::Attach(id(2)),
        ];
        assert_eq!(steps, expected);
    }

    #[test]
    fn the_socket_of_an_earlier_start_is_replaced() {
        let steps = plan(&wanted(&[(1, 2, true)]), &held(&[(1, 1)]));
        assert_eq!(steps, [Step::Detach(id(1)), Step::Attach(id(1))]);
    }

    proptest! {
        #[test]
        fn after_all_steps_nothing_is_left_to_do(
            service_sockets in prop::collection::btree_map(0_u8..8, (0_u8..3, any::<bool>()), 0..8),
            sockets in prop::collection::btree_map(0_u8..8, 0_u8..3, 0..8),
        ) {
            let service_sockets: Vec<_> = service_sockets.into_iter().map(|(n, (start, has))| (n, start, has)).collect();
            let sockets: Vec<_> = sockets.into_iter().collect();
            let (mut wanted, mut held) = (wanted(&service_sockets), held(&sockets));
            for step in plan(&wanted, &held) {
                match step {
                    Step::Detach(id) => drop(held.remove(&id)),
                    Step::TakeBack(id) => {
                        prop_assert_eq!(held.get(&id), wanted.get(&id).map(|w| &w.token));
                        wanted.entry(id).and_modify(|w| w.has_socket = true);
                    }
                    Step::Make(id) => {
                        prop_assert!(!held.contains_key(&id), "it would be in use");
                        wanted.entry(id).and_modify(|w| w.has_socket = true);
                    }
                    Step::Attach(id) => {
                        prop_assert!(wanted[&id].has_socket);
                        held.insert(id, wanted[&id].token);
                    }
                }
            }
            prop_assert_eq!(plan(&wanted, &held), vec![]);
            prop_assert!(wanted.values().all(|w| w.has_socket));
        }
    }
}

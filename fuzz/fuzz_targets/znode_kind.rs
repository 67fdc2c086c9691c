//! Any path and any bytes: showing a znode as JSON never panics, and parsing and building a path agree.
#![no_main]

use bismuth_model::Environment;
use bismuth_registry::{Layout, ZnodeKind};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: (&str, &[u8])| {
    let layout = Layout::new(&Environment::default());
    let path = format!("/default/{}", input.0);
    let _ = layout.json(&path, input.1);
    let built = match layout.znode_kind(&path) {
        Some(ZnodeKind::Function(id)) => layout.function(id),
        Some(ZnodeKind::Backends(id)) => layout.backends(id),
        Some(ZnodeKind::Serving(id)) => layout.serving(id),
        Some(ZnodeKind::Slots(id)) => layout.slots(id),
        Some(ZnodeKind::Revision(id, revision)) => layout.revision(id, revision),
        Some(ZnodeKind::Node(ip)) => layout.node(ip),
        Some(ZnodeKind::Alive(ip)) => layout.alive(ip),
        Some(ZnodeKind::Container(ip, id)) => layout.container(ip, id),
        Some(ZnodeKind::Route(hostname)) => layout.route(&hostname),
        Some(ZnodeKind::Leader) => layout.leader(),
        Some(ZnodeKind::Term) => layout.term(),
        _ => return,
    };
    assert_eq!(built, path);
});

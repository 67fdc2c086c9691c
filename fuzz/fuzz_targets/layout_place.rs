//! Any path and any bytes: what is shown of a node never panics, and a place has one path.
#![no_main]

use bismuth_model::Environment;
use bismuth_registry::{Layout, Place};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: (&str, &[u8])| {
    let layout = Layout::new(&Environment::default());
    let path = format!("/default/{}", input.0);
    let _ = layout.json(&path, input.1);
    let built = match layout.place(&path) {
        Some(Place::Function(id)) => layout.function(id),
        Some(Place::Backends(id)) => layout.backends(id),
        Some(Place::Node(ip)) => layout.node(ip),
        Some(Place::Alive(ip)) => layout.alive(ip),
        Some(Place::Container(ip, id)) => layout.container(ip, id),
        Some(Place::Route(hostname)) => layout.route(&hostname),
        _ => return,
    };
    assert_eq!(built, path);
});

//! Concurrent writers and readers of secrets, of two processes where the engine allows it.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use super::{Keys, assert_read, key, read, read_version, set};
use crate::test_engines::{TestEngines, join};

const WRITERS: usize = 16;
const CHANGES: usize = 5;

pub async fn every_change_of_many_writers_is_made_once(engines: &mut dyn TestEngines) {
    let keys = Keys::new();
    let nodes = [engines.records(), engines.others()].map(|records| keys.secrets(records));
    let versions = Arc::new(Mutex::new(Vec::new()));
    // Each has a secret of its own, which is made in the first moment of the group, and all have one together.
    let writers = (0..WRITERS).map(|n| {
        let (secrets, versions) = (Arc::clone(&nodes[n % 2]), Arc::clone(&versions));
        tokio::spawn(async move {
            let own = format!("own-{n}");
            assert_eq!(set(&secrets, "group", &own, "0").await, 1);
            for change in 1..CHANGES {
                let value = change.to_string();
                let rotated = secrets.rotate("group", &key(&own), value.as_bytes()).await;
                assert_eq!(rotated.unwrap(), change as u64 + 1);
                let shared = set(&secrets, "group", "shared", "value").await;
                versions.lock().unwrap().push(shared);
            }
        })
    });
    join(writers).await;
    let mut versions = versions.lock().unwrap().clone();
    versions.sort_unstable();
    let last = WRITERS * (CHANGES - 1);
    assert_eq!(versions, (1..=last as u64).collect::<Vec<_>>());
    for n in 0..WRITERS {
        let own = format!("own-{n}");
        assert_read(&nodes[0], "group", &own, "4", 5).await;
        assert_eq!(read_version(&nodes[1], &own, 4).await.unwrap(), "3");
    }
    assert_eq!(nodes[0].list("group").await.unwrap().len(), WRITERS + 1);
}

pub async fn readers_see_whole_values_in_their_order(engines: &mut dyn TestEngines) {
    let keys = Keys::new();
    let nodes = [engines.records(), engines.others()].map(|records| keys.secrets(records));
    set(&nodes[0], "group", "name", "1").await;
    let done = Arc::new(AtomicBool::new(false));
    let readers = (0..4).map(|n| {
        let (secrets, done) = (Arc::clone(&nodes[n % 2]), Arc::clone(&done));
        tokio::spawn(async move {
            let mut newest = 0;
            while !done.load(Ordering::SeqCst) {
                let (value, version) = read(&secrets, "group", "name").await.unwrap();
                assert_eq!(value, version.to_string());
                assert!(version >= newest, "{version} came after {newest}");
                newest = version;
            }
        })
    });
    let readers = readers.collect::<Vec<_>>();
    for version in 2..60 {
        let written = set(&nodes[0], "group", "name", &version.to_string()).await;
        assert_eq!(written, version);
        // Comes and goes beside it, so that the manifest changes too.
        set(&nodes[1], "group", "beside", "value").await;
        nodes[1].delete("group", &key("beside")).await.unwrap();
    }
    done.store(true, Ordering::SeqCst);
    join(readers.into_iter()).await;
}

//! Master keys that are missing or wrong at start.

use std::fs;

use bismuth_store::secrets::{MasterKeysError, SecretError, master_keys};

use super::{Keys, new, read, set};
use crate::test_engines::TestEngines;

pub async fn a_master_key_is_made_only_where_nothing_is_sealed_yet(engines: &mut dyn TestEngines) {
    let keys = Keys::new();
    let (path, records) = (keys.path(), engines.records());
    fs::remove_file(&path).unwrap();
    let missing = master_keys(&path, false, false, &*records).await;
    assert!(matches!(missing, Err(MasterKeysError::Keyring(_))));
    let made = master_keys(&path, true, false, &*records).await.unwrap();
    let secrets = keys.secrets(engines.records());
    set(&secrets, "group", "name", "value").await;
    let read_again = master_keys(&path, true, false, &*records).await.unwrap();
    assert_eq!(read_again.current().id(), made.current().id());

    // The file is lost, and whoever starts still says to make one.
    let kept = path.with_extension("kept");
    fs::rename(&path, &kept).unwrap();
    let lost = master_keys(&path, true, false, &*records).await;
    let error = lost.unwrap_err();
    assert!(matches!(&error, MasterKeysError::Lost { groups: 1, group, .. } if group == "group"));
    let said = error.to_string();
    for words in [&*path.to_string_lossy(), "put the file back", "group"] {
        assert!(said.contains(words), "{said}");
    }
    assert!(!path.exists(), "nothing was made");
    fs::rename(&kept, &path).unwrap();
    assert!(read(&secrets, "group", "name").await.is_some());

    // Whoever says so may give up what is lost.
    fs::remove_file(&path).unwrap();
    let other = master_keys(&path, true, true, &*records).await.unwrap();
    assert_ne!(other.current().id(), made.current().id());
    // Or nothing is sealed any more.
    secrets.purge("group").await.unwrap();
    fs::remove_file(&path).unwrap();
    master_keys(&path, true, false, &*records).await.unwrap();
}

pub async fn master_keys_that_open_nothing_of_what_is_stored_are_refused(
    engines: &mut dyn TestEngines,
) {
    let (keys, secrets) = new(engines);
    secrets.check_master_keys().await.unwrap();
    for group in ["a", "b"] {
        set(&secrets, group, "name", "value").await;
    }
    secrets.check_master_keys().await.unwrap();

    // Another key, also one that is called the same.
    for wrong in ["second", "first:another"] {
        keys.write(&[wrong]);
        let restarted = keys.secrets(engines.records());
        let error = restarted.check_master_keys().await.unwrap_err();
        let MasterKeysError::OpensNothing {
            groups: 2, first, ..
        } = &error
        else {
            panic!("{error:?}");
        };
        assert!(first.to_string().contains("first"), "{first}");
        let said = error.to_string();
        assert!(said.contains(&*keys.path().to_string_lossy()), "{said}");
    }
    // One is enough: what another sealed is named when it is asked for.
    keys.write(&["second"]);
    let mixed = keys.secrets(engines.records());
    set(&mixed, "c", "name", "value").await;
    mixed.check_master_keys().await.unwrap();
    let error = mixed.get("a", "name", None).await.unwrap_err();
    assert!(matches!(error, SecretError::UnknownMasterKey { .. }));
}

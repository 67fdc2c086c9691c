//! Broken data of one group does not affect other groups, and can be purged.

use bismuth_operator::Call;
use bismuth_store::records::{Change, Condition, Keyspace, RecordKey, Write};
use bytes::Bytes;
use http::{Method, StatusCode};
use http_body_util::Full;

use crate::harness::{Harness, group};

/// Writes over a record of a group.
async fn tamper(harness: &Harness, name: &str, keyspace: Keyspace, key: &str) {
    let record_key = RecordKey::new(name, keyspace, key);
    let write = Write::new(record_key, Condition::Present, Change::put("nonsense", 8));
    harness.records.write(vec![write]).await.unwrap();
}

async fn secrets_by_group(harness: &Harness) -> Vec<(String, u64)> {
    let list = Call::new(Method::GET, "/group");
    let listed = harness.answered(list, "").await;
    let groups = listed["groups"].as_array().unwrap().iter();
    groups
        .map(|group| {
            let name = group["group"].as_str().unwrap().to_owned();
            (name, group["secrets"].as_u64().unwrap())
        })
        .collect()
}

#[tokio::test]
async fn a_group_whose_secrets_are_broken_is_listed_and_purged() {
    let harness = Harness::start();
    for name in ["broken", "sound"] {
        let set = Call::secret(Method::PUT, &group(name), "password");
        harness.answered(set, "value").await;
    }
    // What its secrets are listed in.
    tamper(&harness, "broken", Keyspace::Secret, "m").await;
    let list = Call::secrets(Method::GET, &group("broken"));
    let refused = harness.refused(list, "").await;
    assert_eq!(refused, (500, "secrets_broken".to_owned()));

    let both = [("broken".to_owned(), 1), ("sound".to_owned(), 1)];
    assert_eq!(secrets_by_group(&harness).await, both);
    let show = Call::group(Method::GET, &group("broken"));
    assert_eq!(harness.answered(show, "").await["secrets"], 1);

    harness.client.probe().await.unwrap();
    let purged = harness.client.purge(&group("broken")).await.unwrap();
    assert_eq!((purged.kv, purged.blobs, purged.secrets), (0, 0, 1));
    assert_eq!(secrets_by_group(&harness).await, both[1..]);
    harness.end().await;
}

#[tokio::test]
async fn a_blob_that_is_broken_hides_no_other_and_is_purged() {
    let harness = Harness::start();
    for key in ["broken", "sound"] {
        let call = Call::blob(Method::POST, &group("g"), key);
        let body = Full::new(Bytes::from("value"));
        harness.client.call(call, body).await.unwrap();
    }
    tamper(&harness, "g", Keyspace::Blob, "broken").await;
    let list = Call::blob(Method::GET, &group("g"), "").query("details", "true");
    let listed = harness.answered(list, "").await;
    let is_known = |n: usize| listed["blobs"][n]["sha256"].is_string();
    assert_eq!(listed["blobs"][0]["key"], "broken");
    assert_eq!((is_known(0), is_known(1)), (false, true), "{listed}");
    let purged = harness.client.purge(&group("g")).await.unwrap();
    assert_eq!(purged.blobs, 2);
    assert!(secrets_by_group(&harness).await.is_empty());
    harness.end().await;
}

#[tokio::test]
async fn a_probe_says_whether_the_engines_are_there() {
    let harness = Harness::start();
    harness.client.probe().await.unwrap();
    std::fs::remove_dir_all(harness.objects_dir()).unwrap();
    let error = harness.client.probe().await.unwrap_err();
    let refused = error.refused_with();
    assert_eq!(refused, Some(StatusCode::SERVICE_UNAVAILABLE), "{error}");
    harness.end().await;
}

//! Listing keys in order.

use bismuth_store::records::Keyspace;

use crate::test_engines::{TestEngines, WriteExt, all, delete, made, names, put, put_for, query};

pub async fn keys_come_in_the_order_of_their_bytes(engines: &mut dyn TestEngines) {
    let records = engines.records();
    let mut keys = vec![
        "b",
        "a",
        "B",
        "ä",
        "a/",
        "a/b",
        "a-b",
        "z",
        "~",
        "ｆ",
        "\u{10ffff}",
        "aa",
        "1",
        "10",
        "2",
    ];
    for key in &keys {
        made(&records, put(key, "")).await;
    }
    keys.sort_unstable_by_key(|key| key.as_bytes());
    let page = records.list(&query("", None, 100)).await.unwrap();
    assert_eq!(names(&page), keys);
    assert!(!page.more);
}

pub async fn pages_lead_to_the_end_without_a_gap(engines: &mut dyn TestEngines) {
    let records = engines.records();
    let keys: Vec<String> = (0..57).map(|n| format!("key-{n:03}")).collect();
    let batch = keys.iter().map(|key| put(key, "value")).collect();
    records.write(batch).await.unwrap();
    made(&records, put_for("key-0005", "", 0)).await;
    for page_size in [1, 7, 19, 57, 58] {
        let listed = all(&records, page_size).await;
        let listed: Vec<_> = listed.into_iter().map(|(key, _)| key).collect();
        assert_eq!(listed, keys, "in pages of {page_size}");
    }
    // The page after a key that is gone begins with the one after it.
    made(&records, delete("key-010")).await;
    for (after, expected, more) in [
        ("key-010", vec!["key-011"], true),
        ("key-056", vec![], false),
        ("key-055", vec!["key-056"], false),
    ] {
        let page = records.list(&query("", Some(after), 1)).await.unwrap();
        assert_eq!((names(&page), page.more), (expected, more), "{after}");
    }
}

pub async fn a_prefix_selects_what_begins_with_it(engines: &mut dyn TestEngines) {
    let records = engines.records();
    for key in ["a", "a/", "a/1", "a/2", "a0", "ab", "b", "\u{10ffff}1"] {
        made(&records, put(key, "value")).await;
    }
    made(&records, put("a/3", "").of("other", Keyspace::Kv)).await;
    made(&records, put("a/4", "").of("group", Keyspace::Blob)).await;
    for (prefix, after, expected) in [
        ("a/", None, vec!["a/", "a/1", "a/2"]),
        ("a/", Some("a/"), vec!["a/1", "a/2"]),
        ("a/", Some("a"), vec!["a/", "a/1", "a/2"]),
        ("a/", Some("a/2"), vec![]),
        ("a/", Some("b"), vec![]),
        ("a", Some("a/2"), vec!["a0", "ab"]),
        ("\u{10ffff}", None, vec!["\u{10ffff}1"]),
        ("c", None, vec![]),
    ] {
        let page = records.list(&query(prefix, after, 10)).await.unwrap();
        assert_eq!(names(&page), expected, "{prefix:?} after {after:?}");
        assert!(!page.more);
    }
    let page = records.list(&query("a/", None, 3)).await.unwrap();
    assert!(!page.more, "what comes after the prefix is not more");
    let meta = &page.entries[1].1;
    assert_eq!(meta.charge, 8);
}

pub async fn groups_that_have_something_are_named(engines: &mut dyn TestEngines) {
    let records = engines.records();
    let groups = async || records.groups(Keyspace::Secret).await.unwrap();
    assert_eq!(groups().await, [""; 0]);
    for group in ["b", "aa", "c", "a"] {
        made(&records, put("key", "").of(group, Keyspace::Secret)).await;
    }
    made(&records, put("key", "").of("d", Keyspace::Kv)).await;
    made(&records, delete("key").of("c", Keyspace::Secret)).await;
    assert_eq!(groups().await, ["a", "aa", "b"]);
}

//! Conformance: reads and changes without faults.

use bismuth_coord::{CreateMode, Error, MAX_DATA_BYTES, Tree, Version};
use bytes::Bytes;

use crate::harness::{TreeHarness, at, check, create, node, refused};

pub async fn a_created_node_is_read_back(harness: &dyn TreeHarness) {
    let tree = harness.tree();
    let path = at(harness, "a");
    let before = tree.get(harness.base()).await.unwrap().created_ms;
    assert_eq!(
        tree.create(&path, b"\0binary\xff", CreateMode::Persistent)
            .await
            .unwrap(),
        Version(0)
    );
    let read = tree.get(&path).await.unwrap();
    assert_eq!(&read.data[..], b"\0binary\xff");
    assert_eq!(read.version, Version(0));
    assert!(!read.ephemeral && !read.mine);
    assert!(read.created_ms >= before && read.modified_ms == read.created_ms);
    assert_eq!(harness.observer().get(&path).await.unwrap().data, read.data);
}

pub async fn an_empty_node_is_read_back_as_empty(harness: &dyn TreeHarness) {
    let path = node(harness, "empty", "").await;
    assert!(harness.tree().get(&path).await.unwrap().data.is_empty());
}

pub async fn a_create_needs_a_parent_and_a_free_path(harness: &dyn TreeHarness) {
    let tree = harness.tree();
    let orphan = at(harness, "missing/child");
    refused!(
        tree.create(&orphan, b"", CreateMode::Persistent),
        Error::NotFound { path, .. } if path == orphan
    );
    let path = node(harness, "taken", "first").await;
    refused!(
        tree.create(&path, b"second", CreateMode::Persistent),
        Error::AlreadyExists { path: named } if named == path
    );
    assert_eq!(&tree.get(&path).await.unwrap().data[..], b"first");
}

pub async fn versions_count_the_changes_of_a_node(harness: &dyn TreeHarness) {
    let tree = harness.tree();
    let path = node(harness, "counted", "0").await;
    assert_eq!(
        tree.set(&path, b"1", Some(Version(0))).await.unwrap(),
        Version(1)
    );
    assert_eq!(tree.set(&path, b"2", None).await.unwrap(), Version(2));
    refused!(
        tree.set(&path, b"stale", Some(Version(1))),
        Error::BadVersion { path: named, .. } if named == path
    );
    let read = tree.get(&path).await.unwrap();
    assert_eq!((&read.data[..], read.version), (&b"2"[..], Version(2)));
    assert!(read.modified_ms >= read.created_ms);
    assert_eq!(tree.exists(&path).await.unwrap(), Some(Version(2)));

    tree.delete(&path, None).await.unwrap();
    assert_eq!(
        tree.create(&path, b"again", CreateMode::Persistent)
            .await
            .unwrap(),
        Version(0)
    );
}

pub async fn a_missing_node_is_not_found(harness: &dyn TreeHarness) {
    let tree = harness.tree();
    let path = at(harness, "missing");
    assert_eq!(tree.exists(&path).await.unwrap(), None);
    let answers = [
        tree.get(&path).await.err(),
        tree.children(&path).await.err(),
        tree.set(&path, b"", None).await.err(),
        tree.delete(&path, None).await.err(),
    ];
    for answer in answers {
        assert!(
            matches!(&answer, Some(Error::NotFound { path: named, .. }) if *named == path),
            "{answer:?}"
        );
    }
}

pub async fn only_a_leaf_of_the_right_version_is_deleted(harness: &dyn TreeHarness) {
    let tree = harness.tree();
    let parent = node(harness, "parent", "").await;
    let child = node(harness, "parent/child", "").await;
    refused!(
        tree.delete(&parent, None),
        Error::NotEmpty { path } if path == parent
    );
    refused!(
        tree.delete(&child, Some(Version(7))),
        Error::BadVersion { path, .. } if path == child
    );
    tree.delete(&child, Some(Version(0))).await.unwrap();
    tree.delete(&parent, None).await.unwrap();
    assert_eq!(tree.exists(&parent).await.unwrap(), None);
}

pub async fn children_are_sorted_names_of_one_level(harness: &dyn TreeHarness) {
    let tree = harness.tree();
    for name in ["b", "a", "a/deep", "a-sibling", "a0"] {
        node(harness, name, "").await;
    }
    assert_eq!(
        tree.children(harness.base()).await.unwrap(),
        ["a", "a-sibling", "a0", "b"]
    );
    assert_eq!(tree.children(&at(harness, "a")).await.unwrap(), ["deep"]);
    assert!(tree.children(&at(harness, "b")).await.unwrap().is_empty());
    let top = tree.children("/").await.unwrap();
    assert!(top.iter().all(|name| !name.contains('/')));
}

pub async fn many_nodes_are_read_in_the_order_asked_for(harness: &dyn TreeHarness) {
    let tree = harness.tree();
    let mut paths = Vec::new();
    for n in 0..600 {
        paths.push(node(harness, &format!("n{n}"), &n.to_string()).await);
    }
    paths.push(at(harness, "missing"));
    paths.push("not a path".to_owned());
    paths.reverse();
    let results = tree.get_many(&paths).await;
    assert_eq!(results.len(), paths.len());
    assert!(matches!(&results[0], Err(Error::InvalidPath { .. })));
    assert!(matches!(&results[1], Err(Error::NotFound { path, .. }) if *path == paths[1]));
    for (n, result) in results[2..].iter().rev().enumerate() {
        assert_eq!(result.as_ref().unwrap().data, Bytes::from(n.to_string()));
    }
    assert!(tree.get_many(&[]).await.is_empty());
}

pub async fn missing_parents_are_created_and_those_there_are_kept(harness: &dyn TreeHarness) {
    let tree = harness.tree();
    let kept = node(harness, "x", "kept").await;
    let leaf = at(harness, "x/y/z");
    tree.create_parents(&leaf).await.unwrap();
    assert_eq!(tree.exists(&leaf).await.unwrap(), None);
    tree.ensure(&leaf).await.unwrap();
    tree.ensure(&leaf).await.unwrap();
    assert_eq!(tree.exists(&leaf).await.unwrap(), Some(Version(0)));
    assert_eq!(&tree.get(&kept).await.unwrap().data[..], b"kept");
    tree.ensure("/").await.unwrap();
}

pub async fn data_above_the_limit_is_refused_by_name(harness: &dyn TreeHarness) {
    let tree = harness.tree();
    let path = at(harness, "big");
    let (fits, too_big) = (vec![7; MAX_DATA_BYTES], vec![7; MAX_DATA_BYTES + 1]);
    let op = create(&path, &"x".repeat(MAX_DATA_BYTES + 1));
    tree.create(&path, &fits, CreateMode::Persistent)
        .await
        .unwrap();
    assert_eq!(tree.get(&path).await.unwrap().data.len(), MAX_DATA_BYTES);
    let answers = [
        tree.create(&path, &too_big, CreateMode::Persistent)
            .await
            .err(),
        tree.set(&path, &too_big, None).await.err(),
        tree.commit(vec![op]).await.err(),
    ];
    for answer in answers {
        let named = matches!(&answer, Some(Error::TooLarge { path: named, bytes, .. })
            if *named == path && *bytes == MAX_DATA_BYTES + 1);
        assert!(named, "{answer:?}");
    }
    assert_eq!(tree.exists(&path).await.unwrap(), Some(Version(0)));
}

pub async fn malformed_paths_are_refused(harness: &dyn TreeHarness) {
    let tree = harness.tree();
    for path in ["", "relative", "/trailing/", "/a//b", "/a/../b", "/nul\0"] {
        let answers = [
            tree.get(path).await.err(),
            tree.exists(path).await.err(),
            tree.children(path).await.err(),
            tree.create(path, b"", CreateMode::Persistent).await.err(),
            tree.set(path, b"", None).await.err(),
            tree.delete(path, None).await.err(),
            tree.watch(path).await.err(),
            tree.ensure(path).await.err(),
            tree.commit(vec![check(path, 0)]).await.err(),
        ];
        for answer in answers {
            assert!(
                matches!(&answer, Some(Error::InvalidPath { path: named, .. }) if named == path),
                "{answer:?}"
            );
        }
    }
}

pub async fn the_root_is_always_there(harness: &dyn TreeHarness) {
    let tree = harness.tree();
    assert!(tree.exists("/").await.unwrap().is_some());
    refused!(
        tree.create("/", b"", CreateMode::Persistent),
        Error::AlreadyExists { .. }
    );
    refused!(tree.delete("/", None), Error::InvalidPath { .. });
}

pub async fn an_ephemeral_node_has_no_children_and_knows_its_owner(harness: &dyn TreeHarness) {
    let tree = harness.tree();
    let path = at(harness, "ephemeral");
    tree.create(&path, b"me", CreateMode::Ephemeral)
        .await
        .unwrap();
    let (mine, theirs) = (
        tree.get(&path).await.unwrap(),
        harness.observer().get(&path).await.unwrap(),
    );
    assert!(mine.ephemeral && mine.mine);
    assert!(theirs.ephemeral && !theirs.mine);
    let child = at(harness, "ephemeral/child");
    refused!(
        tree.create(&child, b"", CreateMode::Persistent),
        Error::EphemeralParent { path } if path == child
    );
    harness.observer().delete(&path, None).await.unwrap();
    assert_eq!(tree.exists(&path).await.unwrap(), None);
}

pub async fn of_two_writers_at_one_version_one_succeeds(harness: &dyn TreeHarness) {
    let counter = node(harness, "counter", "0").await;
    let increment = |tree: std::sync::Arc<dyn Tree>, path: String| async move {
        for _ in 0..25 {
            loop {
                let read = tree.get(&path).await.unwrap();
                let number: u32 = str::from_utf8(&read.data).unwrap().parse().unwrap();
                let next = (number + 1).to_string();
                let set = tree.set(&path, next.as_bytes(), Some(read.version));
                match set.await {
                    Ok(_) => break,
                    Err(error) if error.is_conflict() => {}
                    Err(error) => panic!("{error}"),
                }
            }
        }
    };
    tokio::join!(
        increment(harness.tree(), counter.clone()),
        increment(harness.observer(), counter.clone())
    );
    assert_eq!(&harness.tree().get(&counter).await.unwrap().data[..], b"50");
}

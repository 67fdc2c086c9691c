//! Conformance: transactions.

use bismuth_coord::{CreateMode, Error, MAX_DATA_BYTES, Op, Version};

use crate::harness::{
    TreeHarness, at, changed, check, create, created, delete, deleted, next, node, set,
};

pub async fn a_transaction_makes_all_its_changes_in_order(harness: &dyn TreeHarness) {
    let tree = harness.tree();
    let (guard, old, kept) = (
        node(harness, "guard", "").await,
        node(harness, "old", "").await,
        node(harness, "kept", "").await,
    );
    let (parent, child) = (at(harness, "parent"), at(harness, "parent/child"));
    let ops = vec![
        check(&guard, 0),
        create(&parent, "p"),
        create(&child, "c"),
        set(&parent, "p2", Some(0)),
        check(&parent, 1),
        delete(&old, Some(0)),
        set(&kept, "k2", None),
        Op::Create {
            path: at(harness, "ephemeral"),
            data: "e".into(),
            mode: CreateMode::Ephemeral,
        },
    ];
    tree.commit(ops).await.unwrap();
    let read = tree.get(&parent).await.unwrap();
    assert_eq!((&read.data[..], read.version), (&b"p2"[..], Version(1)));
    assert_eq!(&tree.get(&child).await.unwrap().data[..], b"c");
    assert_eq!(tree.exists(&old).await.unwrap(), None);
    assert_eq!(&tree.get(&kept).await.unwrap().data[..], b"k2");
    assert!(tree.get(&at(harness, "ephemeral")).await.unwrap().mine);
}

pub async fn a_transaction_with_a_failing_step_changes_nothing_and_names_it(
    harness: &dyn TreeHarness,
) {
    let tree = harness.tree();
    let (there, parent) = (
        node(harness, "there", "0").await,
        node(harness, "parent", "").await,
    );
    node(harness, "parent/child", "").await;
    let (new, missing) = (at(harness, "new"), at(harness, "missing"));
    type Is = fn(&Error) -> bool;
    let failing: [(Op, Is, &str); 8] = [
        (
            create(&there, ""),
            |error| matches!(error, Error::AlreadyExists { .. }),
            &there,
        ),
        (
            create(&at(harness, "missing/x"), ""),
            |error| error.is_not_found(),
            &at(harness, "missing/x"),
        ),
        (
            set(&there, "", Some(9)),
            |error| matches!(error, Error::BadVersion { .. }),
            &there,
        ),
        (
            set(&missing, "", None),
            |error| error.is_not_found(),
            &missing,
        ),
        (
            delete(&parent, None),
            |error| matches!(error, Error::NotEmpty { .. }),
            &parent,
        ),
        (
            delete(&missing, None),
            |error| error.is_not_found(),
            &missing,
        ),
        (
            check(&there, 9),
            |error| matches!(error, Error::BadVersion { .. }),
            &there,
        ),
        (check(&missing, 0), |error| error.is_not_found(), &missing),
    ];
    for (step, is_expected, path) in failing {
        let ops = vec![
            create(&new, ""),
            set(&parent, "touched", None),
            step.clone(),
            delete(&there, None),
        ];
        let error = tree.commit(ops).await.unwrap_err();
        assert!(
            is_expected(&error) && error.path() == Some(path),
            "{step:?}: {error}"
        );
        assert_eq!(tree.exists(&new).await.unwrap(), None, "{step:?}");
        assert_eq!(
            tree.exists(&parent).await.unwrap(),
            Some(Version(0)),
            "{step:?}"
        );
        assert_eq!(
            tree.exists(&there).await.unwrap(),
            Some(Version(0)),
            "{step:?}"
        );
    }
}

pub async fn a_failed_transaction_is_not_seen_by_watches(harness: &dyn TreeHarness) {
    let tree = harness.tree();
    let mut watch = tree.watch(harness.base()).await.unwrap();
    let (a, b) = (at(harness, "a"), at(harness, "b"));
    tree.commit(vec![create(&a, ""), check(&b, 0)])
        .await
        .unwrap_err();
    tree.commit(vec![
        create(&a, ""),
        create(&b, ""),
        set(&a, "x", None),
        delete(&b, None),
    ])
    .await
    .unwrap();
    for event in [created(&a), created(&b), changed(&a), deleted(&b)] {
        assert_eq!(next(&mut watch).await, event);
    }
}

pub async fn an_empty_transaction_does_nothing(harness: &dyn TreeHarness) {
    harness.tree().commit(Vec::new()).await.unwrap();
}

pub async fn a_transaction_above_the_size_limit_is_refused_and_one_at_it_is_committed(
    harness: &dyn TreeHarness,
) {
    let tree = harness.tree();
    let full = "x".repeat(MAX_DATA_BYTES);
    let paths: Vec<String> = (0..16).map(|n| at(harness, &format!("n{n}"))).collect();
    let ops = |count: usize| {
        paths[..count]
            .iter()
            .map(|path| create(path, &full))
            .collect::<Vec<_>>()
    };
    let error = tree.commit(ops(16)).await.unwrap_err();
    assert!(
        matches!(error, Error::TransactionTooLarge { operations: 16, .. }),
        "{error}"
    );
    assert!(tree.children(harness.base()).await.unwrap().is_empty());
    tree.commit(ops(15)).await.unwrap();
    assert_eq!(tree.children(harness.base()).await.unwrap().len(), 15);
}

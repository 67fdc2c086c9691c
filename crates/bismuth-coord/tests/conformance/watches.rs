//! What a watch sees while nothing goes wrong.

use bismuth_coord::CreateMode;

use crate::world::{World, at, changed, created, deleted, next, node};

pub async fn a_watch_sees_what_happens_at_and_below_its_path(world: &dyn World) {
    let other = world.observer();
    let top = node(world, "top", "").await;
    let mut watch = world.tree().watch(&top).await.unwrap();
    let (child, deep) = (at(world, "top/child"), at(world, "top/child/deep"));
    node(world, "topmost", "a sibling whose name begins alike").await;
    other.set(&top, b"x", None).await.unwrap();
    other
        .create(&child, b"", CreateMode::Persistent)
        .await
        .unwrap();
    other
        .create(&deep, b"", CreateMode::Ephemeral)
        .await
        .unwrap();
    other.set(&deep, b"x", None).await.unwrap();
    other.delete(&deep, None).await.unwrap();
    other.delete(&child, None).await.unwrap();
    other.delete(&top, None).await.unwrap();
    let expected = [
        changed(&top),
        created(&child),
        created(&deep),
        changed(&deep),
        deleted(&deep),
        deleted(&child),
        deleted(&top),
    ];
    for event in expected {
        assert_eq!(next(&mut watch).await, event);
    }
}

pub async fn a_watch_on_a_missing_node_sees_it_come_go_and_come_again(world: &dyn World) {
    let path = at(world, "later");
    let mut watch = world.tree().watch(&path).await.unwrap();
    for _ in 0..3 {
        world
            .observer()
            .create(&path, b"", CreateMode::Persistent)
            .await
            .unwrap();
        world.observer().delete(&path, None).await.unwrap();
        assert_eq!(next(&mut watch).await, created(&path));
        assert_eq!(next(&mut watch).await, deleted(&path));
    }
}

pub async fn overlapping_watches_each_see_every_event(world: &dyn World) {
    let tree = world.tree();
    let inner_path = node(world, "inner", "").await;
    let mut outer = tree.watch(world.base()).await.unwrap();
    let mut inner = tree.watch(&inner_path).await.unwrap();
    let mut twin = tree.watch(&inner_path).await.unwrap();
    let dropped = tree.watch(&inner_path).await.unwrap();
    drop(dropped);
    let path = node(world, "inner/x", "").await;
    for watch in [&mut outer, &mut inner, &mut twin] {
        assert_eq!(next(watch).await, created(&path));
    }
}

pub async fn a_watch_can_be_set_again_after_it_was_dropped(world: &dyn World) {
    let tree = world.tree();
    for n in 0..5 {
        let mut watch = tree.watch(world.base()).await.unwrap();
        let path = node(world, &format!("n{n}"), "").await;
        assert_eq!(next(&mut watch).await, created(&path));
    }
}

pub async fn what_was_done_before_the_watch_is_not_told(world: &dyn World) {
    node(world, "before", "").await;
    let mut watch = world.tree().watch(world.base()).await.unwrap();
    let after = node(world, "after", "").await;
    assert_eq!(next(&mut watch).await, created(&after));
}

//! The functions that use a service group.

use bismuth_model::{FunctionId, ServiceGroup};
use bismuth_registry::GroupUsers;

use crate::fixture::{Fixture, definition};

#[tokio::test]
async fn the_users_of_a_group_are_the_functions_that_name_it_or_whose_id_it_is() {
    let f = Fixture::new().await;
    let shop: ServiceGroup = "shop".parse().unwrap();
    let mut in_shop = definition(&[]);
    in_shop.svc_group_id = Some("shop".to_owned());
    let mut members = [
        f.function(&in_shop, &[]).await,
        f.function(&in_shop, &[]).await,
    ];
    members.sort_unstable();
    let alone = f.function(&definition(&[]), &[]).await;
    let users = async |group: ServiceGroup| f.registry.group_users(&group).await.unwrap();
    assert_eq!(users(shop.clone()).await.functions, members);
    assert_eq!(users(ServiceGroup::from(alone)).await.functions, [alone]);
    assert!(users(ServiceGroup::from(members[0])).await.is_empty());

    // What cannot be read may be anybody's.
    let unknown = FunctionId::new_random();
    f.put(&f.registry.layout().function(unknown), b"\xff").await;
    let found = users(ServiceGroup::from(FunctionId::new_random())).await;
    assert_eq!(
        found,
        GroupUsers {
            functions: Vec::new(),
            unreadable: vec![unknown]
        }
    );
    assert!(!found.is_empty());
}

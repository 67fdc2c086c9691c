//! Blobs: whole or not at all, both ways.

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use bismuth_operator::fake::Misbehaviour;
use serde_json::json;

use crate::provider::Provider;

/// More than any buffer on the way.
fn large() -> Vec<u8> {
    (0..8 << 20).map(|n: u32| (n >> 7) as u8).collect()
}

fn names(directory: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(directory).unwrap();
    let mut names: Vec<String> = entries
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

#[tokio::test]
async fn a_blob_is_put_whether_it_is_there_or_not_and_got_into_a_file() {
    let provider = Provider::start().await;
    let (content, out) = (large(), provider.0.scratch().join("out"));
    let source = format!("@{}", provider.file("source", &content));
    let put = ["blob", "put", "a/b c", &source, "-g", "shop"];
    provider
        .piped(&["blob", "put", "a/b c", "-g", "shop"], b"old")
        .await
        .ok();
    let typed = [&put[..], &["--content-type", "image/png"]].concat();
    let etag = provider.ctl(&typed).await.ok().to_owned();
    let out_name = out.to_str().unwrap();
    let get = ["blob", "get", "a/b c", "-g", "shop", "-f", out_name];
    let got = provider
        .ctl(&[&get[..], &["-o", "json"]].concat())
        .await
        .json();
    assert_eq!(
        (&got["size"], &got["etag"], &got["content_type"]),
        (&json!(content.len()), &json!(etag), &json!("image/png"))
    );
    assert!(std::fs::read(&out).unwrap() == content);
    // A file that is there keeps its permissions; a link leads to it.
    std::fs::set_permissions(&out, std::fs::Permissions::from_mode(0o640)).unwrap();
    let link = provider.0.scratch().join("link");
    std::os::unix::fs::symlink(&out, &link).unwrap();
    provider
        .piped(&["blob", "put", "a/b c", "-", "-g", "shop"], b"new")
        .await
        .ok();
    let get = [
        "blob",
        "get",
        "a/b c",
        "-g",
        "shop",
        "-f",
        link.to_str().unwrap(),
    ];
    provider.ctl(&get).await.ok();
    assert_eq!(std::fs::read(&out).unwrap(), b"new");
    let mode = std::fs::metadata(&out).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o640);
    assert!(std::fs::symlink_metadata(&link).unwrap().is_symlink());
    // What is no file is written to and not replaced.
    provider
        .ctl(&["blob", "get", "a/b c", "-g", "shop", "-f", "/dev/null"])
        .await
        .ok();
    assert_eq!(
        provider
            .ctl(&["blob", "get", "a/b c", "-g", "shop"])
            .await
            .stdout,
        "new"
    );
    provider
        .ctl(&["blob", "delete", "a/b c", "-g", "shop"])
        .await
        .ok();
    for act in ["get", "delete"] {
        let again = ["blob", act, "a/b c", "-g", "shop"];
        provider.ctl(&again).await.failed(3, &[]);
    }
}

#[tokio::test]
async fn a_blob_that_breaks_off_or_is_wrong_leaves_no_file() {
    let provider = Provider::start().await;
    provider
        .piped(&["blob", "put", "b", "-g", "shop"], &large())
        .await
        .ok();
    let directory = provider.0.scratch().join("into");
    std::fs::create_dir(&directory).unwrap();
    let (old, new) = (directory.join("old"), directory.join("new"));
    std::fs::write(&old, "old").unwrap();
    for (misbehaviour, word) in [
        (Misbehaviour::Cut, "exchange with svcprovider"),
        (Misbehaviour::Corrupt, "SHA-256"),
    ] {
        provider.0.state().misbehaviour = misbehaviour;
        for file in [&old, &new] {
            let get = [
                "blob",
                "get",
                "b",
                "-g",
                "shop",
                "-f",
                file.to_str().unwrap(),
            ];
            provider.ctl(&get).await.failed(1, &[word]);
        }
        assert_eq!(names(&directory), ["old"]);
        assert_eq!(std::fs::read(&old).unwrap(), b"old");
    }
    // Onto standard output it comes as it comes; the end says that it was wrong.
    provider.0.state().misbehaviour = Misbehaviour::None;
    provider
        .piped(&["blob", "put", "text", "-g", "shop"], b"abc")
        .await
        .ok();
    provider.0.state().misbehaviour = Misbehaviour::Corrupt;
    let ran = provider.ctl(&["blob", "get", "text", "-g", "shop"]).await;
    assert_eq!((ran.code, ran.stdout.len()), (1, 3));
    let nowhere = ["blob", "get", "text", "-g", "shop", "-f", "/nothing/there"];
    provider
        .ctl(&nowhere)
        .await
        .failed(1, &["write /nothing/there"]);
}

#[tokio::test]
async fn whoever_is_overtaken_tries_the_other_way() {
    let provider = Provider::start().await;
    let source = format!("@{}", provider.file("source", b"mine"));
    let put = ["blob", "put", "b", &source, "-g", "shop"];
    let created = |state: &mut bismuth_operator::fake::State| {
        let entry = state.entry("theirs");
        state.group("shop").blobs.insert("b".to_owned(), entry);
    };
    let deleted = |state: &mut bismuth_operator::fake::State| {
        state.group("shop").blobs.remove("b");
    };
    for overtake in [created as fn(&mut _), deleted] {
        provider.0.state().after_head = Some(overtake);
        provider.ctl(&put).await.ok();
        let state = provider.0.state();
        assert!(state.after_head.is_none());
        assert_eq!(state.groups["shop"].blobs["b"].value, "mine");
    }
    // A pipe is used up.
    provider.0.state().after_head = Some(deleted);
    provider
        .piped(&["blob", "put", "b", "-g", "shop"], b"mine")
        .await
        .failed(1, &["blob b", "try again"]);
    assert!(provider.0.state().groups.is_empty());
}

#[tokio::test]
async fn what_cannot_be_read_is_not_stored() {
    let provider = Provider::start().await;
    let put = async |source: &str| {
        let args = ["blob", "put", "b", source, "-g", "shop"];
        provider.ctl(&args).await
    };
    put("@/nothing/there")
        .await
        .failed(1, &["read /nothing/there"]);
    put("bare").await.failed_usage();
    // A directory opens, and breaks off when it is read.
    put("@/").await.failed(1, &[]);
    assert!(provider.0.state().groups.is_empty());
}

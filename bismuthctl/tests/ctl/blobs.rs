//! `blob`: uploads and downloads are complete or fail.

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bismuth_testkit::http::{Body, full};
use bismuth_testkit::{Stub, stub};
use bytes::Bytes;
use futures_util::stream;
use http::{Method, Request};
use http_body_util::{BodyExt as _, StreamBody};
use hyper::body::Frame;
use serde_json::{Value, json};

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
    let (content, out) = (large(), provider.scratch().join("out"));
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
    let link = provider.scratch().join("link");
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
async fn blobs_are_listed_with_their_digests() {
    let provider = Provider::start().await;
    for (key, content) in [("image", &b"xyz"[..]), ("text", b"abc")] {
        let put = ["blob", "put", key, "-g", "shop"];
        provider.piped(&put, content).await.ok();
    }
    let typed = [
        "blob",
        "put",
        "page",
        "-g",
        "shop",
        "--content-type",
        "text/html",
    ];
    let put = provider.piped(&typed, b"<p>").await;
    let list = ["blob", "list", "-g", "shop", "-o", "json"];
    let listed: Value = provider.ctl(&list).await.json();
    assert_eq!(listed.as_array().unwrap().len(), 3);
    assert_eq!(listed[1]["etag"], put.ok().trim());
    assert_eq!(listed[1]["content_type"], "text/html");
    let abc = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
    assert_eq!(
        (&listed[2]["key"], &listed[2]["sha256"]),
        (&json!("text"), &json!(abc))
    );
    let table = ["blob", "list", "-g", "shop", "--prefix", "te"];
    let table = provider.ctl(&table).await.ok().to_owned();
    assert!(table.contains(abc) && table.lines().count() == 2, "{table}");
}

/// Svcprovider behind a proxy that alters its answers.
async fn provider_with_altered_answers(provider: &Provider, spoil: fn(Bytes) -> Body) -> Stub {
    let url = provider.services.url();
    let stub = Stub::start(move |request| {
        let url = url.clone();
        async move {
            stub::forward_request(&url, request)
                .await
                .unwrap()
                .map(spoil)
        }
    });
    stub.await.unwrap()
}

fn cut(whole: Bytes) -> Body {
    let half = whole.slice(..whole.len() / 2);
    let broken = std::io::Error::other("broken off by the test");
    let frames = [Ok(Frame::data(half)), Err(broken)];
    StreamBody::new(stream::iter(frames)).boxed_unsync()
}

fn corrupt(whole: Bytes) -> Body {
    let mut bytes = whole.to_vec();
    if let Some(last) = bytes.last_mut() {
        *last ^= 1;
    }
    full(bytes)
}

#[tokio::test]
async fn a_truncated_or_corrupt_blob_leaves_no_file() {
    let provider = Provider::start().await;
    provider
        .piped(&["blob", "put", "b", "-g", "shop"], &large())
        .await
        .ok();
    let directory = provider.scratch().join("into");
    std::fs::create_dir(&directory).unwrap();
    let (old, new) = (directory.join("old"), directory.join("new"));
    std::fs::write(&old, "old").unwrap();
    let cuts = provider_with_altered_answers(&provider, cut).await;
    let corrupts = provider_with_altered_answers(&provider, corrupt).await;
    for (stub, word) in [(&cuts, "exchange with svcprovider"), (&corrupts, "SHA-256")] {
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
            provider.ctl_at(&stub.url(), &get).await.failed(1, &[word]);
        }
        assert_eq!(names(&directory), ["old"]);
        assert_eq!(std::fs::read(&old).unwrap(), b"old");
    }
    // Onto standard output it comes as it comes; the end says that it was wrong.
    provider
        .piped(&["blob", "put", "text", "-g", "shop"], b"abc")
        .await
        .ok();
    let get = ["blob", "get", "text", "-g", "shop"];
    let output = provider.ctl_at(&corrupts.url(), &get).await;
    assert_eq!((output.code, output.stdout.len()), (1, 3));
    let nowhere = ["blob", "get", "text", "-g", "shop", "-f", "/nothing/there"];
    provider
        .ctl(&nowhere)
        .await
        .failed(1, &["write /nothing/there"]);
}

/// Svcprovider, asked by somebody else with `theirs` once it has said whether a blob is there.
async fn provider_with_a_concurrent_writer(provider: &Arc<Provider>, theirs: &[&str]) -> Stub {
    let theirs: Vec<String> = theirs.iter().map(|&arg| arg.to_owned()).collect();
    let once = Arc::new(AtomicBool::new(true));
    let provider = Arc::clone(provider);
    let stub = Stub::start(move |request: Request<Bytes>| {
        let (provider, theirs) = (Arc::clone(&provider), theirs.clone());
        let overtakes = request.method() == Method::HEAD && once.swap(false, Ordering::Relaxed);
        async move {
            let answer = stub::forward_request(&provider.services.url(), request).await;
            if overtakes {
                let theirs: Vec<&str> = theirs.iter().map(String::as_str).collect();
                provider.ctl(&theirs).await.ok();
            }
            answer.unwrap().map(full)
        }
    });
    stub.await.unwrap()
}

#[tokio::test]
async fn a_put_that_races_with_a_create_or_delete_is_retried() {
    let provider = Arc::new(Provider::start().await);
    let mine = format!("@{}", provider.file("source", b"mine"));
    let theirs = format!("@{}", provider.file("other", b"theirs"));
    let put = ["blob", "put", "b", &mine, "-g", "shop"];
    let create = ["blob", "put", "b", &theirs, "-g", "shop"];
    let delete = ["blob", "delete", "b", "-g", "shop"];
    for overtake in [&create[..], &delete] {
        let stub = provider_with_a_concurrent_writer(&provider, overtake).await;
        provider.ctl_at(&stub.url(), &put).await.ok();
        let get = ["blob", "get", "b", "-g", "shop"];
        assert_eq!(provider.ctl(&get).await.stdout, "mine");
    }
    // A pipe is used up.
    let stub = provider_with_a_concurrent_writer(&provider, &delete).await;
    provider
        .piped_at(&stub.url(), &["blob", "put", "b", "-g", "shop"], b"mine")
        .await
        .failed(1, &["blob b", "try again"]);
    assert!(provider.groups().await.is_empty());
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
    assert!(provider.groups().await.is_empty());
}

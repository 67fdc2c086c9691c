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

use crate::harness::Ctl;
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
    let source = provider.file("source", &content);
    let (put, get) = ("blob put 'a/b c' -g shop", "blob get 'a/b c' -g shop");
    provider.piped(put, b"old").await.ok();
    let typed = format!("{put} @{source} --content-type image/png");
    let etag = provider.ok(&typed).await;
    let got = provider.json(&format!("{get} -f {}", out.display())).await;
    assert_eq!(got["size"], content.len());
    assert_eq!(got["etag"], etag);
    assert_eq!(got["content_type"], "image/png");
    assert!(std::fs::read(&out).unwrap() == content);
    // A file that is there keeps its permissions; a link leads to it.
    std::fs::set_permissions(&out, std::fs::Permissions::from_mode(0o640)).unwrap();
    let link = provider.scratch().join("link");
    std::os::unix::fs::symlink(&out, &link).unwrap();
    provider.piped(&format!("{put} -"), b"new").await.ok();
    provider.ok(&format!("{get} -f {}", link.display())).await;
    assert_eq!(std::fs::read(&out).unwrap(), b"new");
    let mode = std::fs::metadata(&out).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o640);
    assert!(std::fs::symlink_metadata(&link).unwrap().is_symlink());
    // What is no file is written to and not replaced.
    provider.ok(&format!("{get} -f /dev/null")).await;
    assert_eq!(provider.run(get).await.stdout, "new");
    let delete = "blob delete 'a/b c' -g shop";
    provider.ok(delete).await;
    for again in [get, delete] {
        provider.fails(again, 3, &[]).await;
    }
}

#[tokio::test]
async fn blobs_are_listed_with_their_digests() {
    let provider = Provider::start().await;
    for (key, content) in [("image", &b"xyz"[..]), ("text", b"abc")] {
        let put = format!("blob put {key} -g shop");
        provider.piped(&put, content).await.ok();
    }
    let typed = "blob put page -g shop --content-type text/html";
    let put = provider.piped(typed, b"<p>").await;
    let listed: Value = provider.json("blob list -g shop").await;
    assert_eq!(listed.as_array().unwrap().len(), 3);
    assert_eq!(listed[1]["etag"], put.ok().trim());
    assert_eq!(listed[1]["content_type"], "text/html");
    let abc = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
    assert_eq!(
        (&listed[2]["key"], &listed[2]["sha256"]),
        (&json!("text"), &json!(abc))
    );
    let table = provider.ok("blob list -g shop --prefix te").await;
    assert!(table.contains(abc) && table.lines().count() == 2, "{table}");
}

/// Svcprovider behind a proxy that alters its answers.
async fn provider_with_altered_answers(provider: &Provider, spoil: fn(Bytes) -> Body) -> Stub {
    let url = provider.services.url();
    let stub = Stub::start(move |request| {
        let url = url.clone();
        async move {
            let answer = stub::forward_request(&url, request).await;
            answer.unwrap().map(spoil)
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
    provider.piped("blob put b -g shop", &large()).await.ok();
    let directory = provider.scratch().join("into");
    std::fs::create_dir(&directory).unwrap();
    let (old, new) = (directory.join("old"), directory.join("new"));
    std::fs::write(&old, "old").unwrap();
    let cuts = provider_with_altered_answers(&provider, cut).await;
    let corrupts = provider_with_altered_answers(&provider, corrupt).await;
    for (stub, word) in [(&cuts, "exchange with svcprovider"), (&corrupts, "SHA-256")] {
        for file in [&old, &new] {
            let get = format!("blob get b -g shop -f {}", file.display());
            provider.at(stub.url()).fails(&get, 1, &[word]).await;
        }
        assert_eq!(names(&directory), ["old"]);
        assert_eq!(std::fs::read(&old).unwrap(), b"old");
    }
    // Onto standard output it comes as it comes; the end says that it was wrong.
    provider.piped("blob put text -g shop", b"abc").await.ok();
    let get = "blob get text -g shop";
    let output = provider.at(corrupts.url()).run(get).await;
    assert_eq!((output.code, output.stdout.len()), (1, 3));
    let nowhere = format!("{get} -f /nothing/there");
    provider.fails(&nowhere, 1, &["write /nothing/there"]).await;
}

/// Svcprovider, asked by somebody else with `theirs` once it has said whether a blob is there.
async fn provider_with_a_concurrent_writer(provider: &Provider, theirs: String) -> Stub {
    let once = Arc::new(AtomicBool::new(true));
    let (url, others) = (provider.services.url(), Ctl::clone(provider));
    let stub = Stub::start(move |request: Request<Bytes>| {
        let (url, others, theirs) = (url.clone(), others.clone(), theirs.clone());
        let overtakes = request.method() == Method::HEAD && once.swap(false, Ordering::Relaxed);
        async move {
            let answer = stub::forward_request(&url, request).await;
            if overtakes {
                others.ok(&theirs).await;
            }
            answer.unwrap().map(full)
        }
    });
    stub.await.unwrap()
}

#[tokio::test]
async fn a_put_that_races_with_a_create_or_delete_is_retried() {
    let provider = Provider::start().await;
    let mine = provider.file("source", b"mine");
    let theirs = provider.file("other", b"theirs");
    let put = "blob put b -g shop";
    let create = format!("{put} @{theirs}");
    let delete = "blob delete b -g shop".to_owned();
    for overtake in [create, delete.clone()] {
        let stub = provider_with_a_concurrent_writer(&provider, overtake).await;
        let ctl = provider.at(stub.url());
        ctl.ok(&format!("{put} @{mine}")).await;
        let get = "blob get b -g shop";
        assert_eq!(provider.run(get).await.stdout, "mine");
    }
    // A pipe is used up.
    let stub = provider_with_a_concurrent_writer(&provider, delete).await;
    let lost = provider.at(stub.url()).piped(put, b"mine").await;
    lost.failed(1, &["blob b", "try again"]);
    assert!(provider.groups().await.is_empty());
}

#[tokio::test]
async fn what_cannot_be_read_is_not_stored() {
    let provider = Provider::start().await;
    let put = async |source: &str| {
        let line = format!("blob put b {source} -g shop");
        provider.run(&line).await
    };
    let missing = put("@/nothing/there").await;
    missing.failed(1, &["read /nothing/there"]);
    put("bare").await.failed_usage();
    // A directory opens, and breaks off when it is read.
    put("@/").await.failed(1, &[]);
    assert!(provider.groups().await.is_empty());
}

//! What the twin says, by which clients are tested, is what svcprovider says.

use bismuth_model::ServiceGroup;
use bismuth_operator::fake::Svcprovider;
use bismuth_operator::{Call, CallError, Surface};
use bytes::Bytes;
use http::header::{CONTENT_TYPE, ETAG, IF_MATCH, IF_NONE_MATCH};
use http::{HeaderValue, Method};
use http_body_util::{BodyExt as _, Full};
use serde_json::{Value, json};

use crate::rig::{Rig, SOON};

/// A conversation, and all that was said in it.
struct Talk<'a> {
    surface: &'a Surface,
    said: Vec<String>,
}

impl Talk<'_> {
    /// Asks, writes down the answer, and returns its ETag.
    async fn ask(&mut self, call: Call, body: impl Into<Bytes>) -> HeaderValue {
        let asked = format!("{call:?}");
        // The tags in its fields are different ones.
        let asked = asked.split(", headers").next().unwrap().to_owned();
        let answer = match self.surface.call(call, Full::new(body.into())).await {
            Ok(answer) => answer,
            Err(CallError::Refused(no)) => {
                let said = format!(
                    "{} {} {} {:?}",
                    no.status, no.code, no.detail, no.retry_after
                );
                self.said.push(format!("{asked}\n  {said}"));
                return HeaderValue::from_static("");
            }
            Err(error) => panic!("{asked}: {error}"),
        };
        let (head, body) = answer.into_parts();
        let body = body.collect().await.unwrap().to_bytes();
        let field = |name: &str| head.headers.get(name).cloned();
        let (content_type, digest) = (field("content-type"), field("repr-digest"));
        let tells = ["etag", "link"].map(|name| field(name).is_some());
        // Without a digest it is no blob, of which the twin has one more field than it needs.
        let digest = digest.filter(|_| asked.contains("/blob/"));
        let status = head.status;
        self.said.push(format!(
            "{asked}\n  {status} {content_type:?} {digest:?} {tells:?} {}",
            shown(&body)
        ));
        head.headers
            .get(ETAG)
            .cloned()
            .unwrap_or(HeaderValue::from_static(""))
    }

    async fn get(&mut self, call: Call) {
        self.ask(call, "").await;
    }
}

/// A body without what differs from one time to another.
fn shown(body: &Bytes) -> String {
    match serde_json::from_slice::<Value>(body) {
        Ok(mut document) => {
            forget(&mut document);
            document.to_string()
        }
        Err(_) => format!("{body:?}"),
    }
}

fn forget(document: &mut Value) {
    match document {
        Value::Object(members) => {
            for (name, value) in members {
                match name.as_str() {
                    "etag" | "modified_ms" | "expires_ms" | "master_key" => *value = json!("…"),
                    _ => forget(value),
                }
            }
        }
        Value::Array(values) => values.iter_mut().for_each(forget),
        _ => {}
    }
}

fn group() -> ServiceGroup {
    "shop".parse().unwrap()
}

async fn about_keys(talk: &mut Talk<'_>) {
    let kv = |method: Method, key: &str| Call::kv(method, &group(), key);
    let any = || HeaderValue::from_static("*");
    talk.get(kv(Method::GET, "cart/1 ü?")).await;
    talk.get(kv(Method::DELETE, "cart/1 ü?")).await;
    let first = talk.ask(kv(Method::PUT, "cart/1 ü?"), "three").await;
    let second = talk.ask(kv(Method::PUT, "cart/1 ü?"), "four").await;
    talk.get(kv(Method::GET, "cart/1 ü?")).await;
    for (name, tag) in [
        (IF_NONE_MATCH, any()),
        (IF_MATCH, first),
        (IF_MATCH, second),
    ] {
        let put = kv(Method::PUT, "cart/1 ü?").header(name, tag);
        let put = put.header(CONTENT_TYPE, HeaderValue::from_static("image/png"));
        talk.ask(put.query("ttl", "600"), "five").await;
    }
    talk.get(kv(Method::GET, "cart/1 ü?")).await;
    talk.get(kv(Method::POST, "cart/1 ü?").then("incr")).await;
    talk.get(kv(Method::POST, "hits").then("incr")).await;
    let by = kv(Method::POST, "hits").then("incr").query("by", "-5");
    talk.get(by).await;
    talk.get(kv(Method::GET, "hits")).await;
    let list = || kv(Method::GET, "").query("prefix", "");
    talk.get(list()).await;
    talk.get(list().query("limit", "1")).await;
    let rest = list().query("limit", "1").query("after", "cart/1 ü?");
    talk.get(rest).await;
    talk.get(kv(Method::GET, "").query("prefix", "none")).await;
    talk.get(kv(Method::PATCH, "hits")).await;
    talk.get(kv(Method::PUT, "")).await;
    talk.get(kv(Method::DELETE, "hits")).await;
}

async fn about_blobs(talk: &mut Talk<'_>) {
    let blob = |method: Method, key: &str| Call::blob(method, &group(), key);
    for method in [Method::GET, Method::PUT, Method::DELETE] {
        talk.get(blob(method, "a/b c")).await;
    }
    talk.get(blob(Method::GET, "")).await;
    talk.ask(blob(Method::POST, "a/b c"), "one").await;
    talk.ask(blob(Method::POST, "a/b c"), "two").await;
    let png = HeaderValue::from_static("image/png");
    let put = blob(Method::PUT, "a/b c").header(CONTENT_TYPE, png);
    talk.ask(put, "three").await;
    talk.get(blob(Method::GET, "a/b c")).await;
    talk.get(blob(Method::HEAD, "a/b c")).await;
    talk.ask(blob(Method::POST, "b"), "").await;
    let list = || blob(Method::GET, "");
    talk.get(list()).await;
    talk.get(list().query("limit", "1")).await;
    talk.get(list().query("prefix", "none")).await;
    let described = || list().query("details", "true");
    talk.get(described()).await;
    talk.get(described().query("limit", "1")).await;
    let rest = described().query("limit", "1").query("after", "a/b c");
    talk.get(rest).await;
    talk.get(described().query("prefix", "none")).await;
    talk.get(blob(Method::PATCH, "b")).await;
    talk.get(blob(Method::POST, "")).await;
    talk.get(blob(Method::DELETE, "b")).await;
}

async fn about_secrets(talk: &mut Talk<'_>) {
    let secret = |method: Method, name: &str| Call::secret(method, &group(), name);
    talk.get(Call::secrets(Method::GET, &group())).await;
    talk.ask(Call::rotate(&group(), "a b/c"), "value").await;
    talk.get(secret(Method::DELETE, "a b/c")).await;
    talk.ask(secret(Method::PUT, "a b/c"), "one").await;
    talk.ask(secret(Method::PUT, "a b/c"), "two").await;
    talk.ask(Call::rotate(&group(), "a b/c"), "three").await;
    talk.ask(secret(Method::PUT, "a b/c"), "").await;
    let large = vec![b'x'; 64 * 1024 + 1];
    talk.ask(secret(Method::PUT, "a b/c"), large).await;
    talk.get(secret(Method::GET, "a b/c")).await;
    talk.get(Call::secrets(Method::PUT, &group())).await;
    talk.get(Call::secrets(Method::GET, &group())).await;
    talk.get(Call::rewrap()).await;
    talk.get(secret(Method::DELETE, "a b/c")).await;
    talk.ask(secret(Method::PUT, "d"), "one").await;
}

async fn about_groups(talk: &mut Talk<'_>) {
    let show = || Call::group(Method::GET, &group());
    talk.get(show()).await;
    talk.get(Call::new(Method::GET, "/group")).await;
    let limited = Call::new(Method::GET, "/group").query("limit", "1");
    talk.get(limited).await;
    talk.get(Call::purge(&group())).await;
    talk.get(Call::purge(&group())).await;
    talk.get(show()).await;
    talk.get(Call::new(Method::GET, "/group")).await;
    talk.get(Call::new(Method::GET, "/elsewhere")).await;
    talk.get(Call::new(Method::GET, "/")).await;
}

async fn all(surface: &Surface) -> Vec<String> {
    let said = Vec::new();
    let mut talk = Talk { surface, said };
    about_keys(&mut talk).await;
    about_blobs(&mut talk).await;
    about_secrets(&mut talk).await;
    let other = Call::kv(Method::PUT, &"another".parse().unwrap(), "k");
    talk.ask(other, "v").await;
    about_groups(&mut talk).await;
    talk.said
}

#[tokio::test]
async fn the_twin_says_what_svcprovider_says() {
    let (rig, twin) = (Rig::start(), Svcprovider::start().await.unwrap());
    let url = twin.url().parse().unwrap();
    let surface = Surface::new(&url, twin.token_file(), SOON).unwrap();
    let (real, played) = (all(&rig.surface).await, all(&surface).await);
    for (real, played) in real.iter().zip(&played) {
        assert_eq!(real, played);
    }
    assert_eq!(real.len(), played.len());
    rig.end().await;
}

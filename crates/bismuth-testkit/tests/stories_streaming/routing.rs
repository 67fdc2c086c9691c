//! Routing by host name and path, and the headers that are added on the way.

use anyhow::{Context, Result, ensure};
use bismuth_testkit::http as client;
use bismuth_testkit::{Cluster, eventually};
use serde_json::{Value, json};

use crate::common::{
    Deployed, RawConnection, SOON, echo_server, get_with, header, ok, problem, problem_with, text,
    with,
};

/// What the function says about the request it got.
struct EchoedRequest {
    target: String,
    headers: Vec<(String, String)>,
}

impl EchoedRequest {
    fn of(body: &[u8]) -> Result<Self> {
        let echoed: Value = serde_json::from_slice(body)?;
        Ok(Self {
            target: echoed["target"].as_str().context("no target")?.to_owned(),
            headers: serde_json::from_value(echoed["headers"].clone())?,
        })
    }

    fn all(&self, name: &str) -> Vec<&str> {
        let named = self.headers.iter().filter(|(header, _)| header == name);
        named.map(|(_, value)| value.as_str()).collect()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_name_leads_to_its_function_which_learns_who_asked() -> Result<()> {
    let cluster = Cluster::start().await?;
    let routed = with(
        echo_server(),
        &json!({ "routes": [{ "hostname": "shop.example.com" }] }),
    );
    let id = cluster.deploy(&routed).await?;

    let url = cluster.frontend_url("/headers?a=b");
    let headers = [
        ("host", "Shop.Example.COM.:8000"),
        ("connection", "x-secret"),
        ("x-secret", "1"),
    ];
    let answer = eventually("the route is known", SOON, async || {
        let answer = get_with(&url, &headers).await?;
        ok(&answer).map(|_| answer)
    })
    .await;
    let echoed = EchoedRequest::of(answer.body())?;
    ensure!(echoed.target == "/headers?a=b", "{}", echoed.target);
    for (name, value) in [
        ("host", "Shop.Example.COM.:8000"),
        ("x-forwarded-for", "127.0.0.1"),
        ("x-forwarded-proto", "http"),
        ("x-forwarded-host", "Shop.Example.COM.:8000"),
    ] {
        ensure!(echoed.all(name) == [value], "{name}: {:?}", echoed.headers);
    }
    // A hop-by-hop header does not go on, and nothing was taken off the path.
    for name in ["x-secret", "x-forwarded-prefix"] {
        ensure!(echoed.all(name).is_empty(), "{name}: {:?}", echoed.headers);
    }

    // By its id it is reachable all the same, and told what was taken off its path. A client's own
    // claims about who asked are not passed on as ours.
    let url = cluster.frontend_url(&format!("/invoke/{id}/headers?a=b"));
    let claims = [
        ("x-forwarded-proto", "https"),
        ("x-bismuth-container-id", "mine"),
    ];
    let answer = get_with(&url, &claims).await?;
    let echoed = EchoedRequest::of(answer.body())?;
    ensure!(echoed.target == "/headers?a=b", "{}", echoed.target);
    let forwarded = echoed.all("x-forwarded-prefix") == [format!("/invoke/{id}")]
        && echoed.all("x-forwarded-proto") == ["http"]
        && echoed.all("x-bismuth-container-id") != ["mine"];
    ensure!(forwarded, "{:?}", echoed.headers);

    cluster.delete_function(&id).await?;
    let url = cluster.frontend_url("/headers");
    eventually("the route is gone", SOON, async || {
        let answer = get_with(&url, &[("host", "shop.example.com")]).await?;
        problem(&answer, 404, "no_route")
    })
    .await;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_says_which_container_gave_it_and_where_the_time_went() -> Result<()> {
    let deployed = Deployed::start(&echo_server()).await?;
    let Deployed { cluster, id } = &deployed;
    let container = cluster.function(id).await?["backends"][0]["backend"]["container_id"].clone();

    let trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    let named = [("x-request-id", "kept-as-it-is"), ("traceparent", trace)];
    let answer = get_with(&deployed.url("/"), &named).await?;
    ok(&answer)?;
    ensure!(
        header(&answer, "x-bismuth-container-id") == container
            && header(&answer, "x-request-id") == "kept-as-it-is"
            && header(&answer, "traceparent").contains("0af7651916cd43dd8448eb211c80319c"),
        "{answer:?}"
    );
    let timing = header(&answer, "server-timing");
    for mark in ["warm", "queue;dur=", "start;dur=", "run;dur="] {
        ensure!(timing.contains(mark), "no {mark} in {timing:?}");
    }
    let first = cluster.invoke(id).await?;
    let second = cluster.invoke(id).await?;
    let ids = [
        header(&first, "x-request-id"),
        header(&second, "x-request-id"),
    ];
    ensure!(!ids[0].is_empty() && ids[0] != ids[1], "{ids:?}");

    // After its death it is started again by a request, which says so.
    let died = client::get(&deployed.url("/exit?code=3")).await?;
    problem_with(&died, 502, "program_ended", "exit code 3")?;
    let answer = eventually("a request starts it again", SOON, async || {
        let answer = cluster.invoke(id).await?;
        ok(&answer).map(|_| answer)
    })
    .await;
    ensure!(
        header(&answer, "server-timing").contains("cold")
            && header(&answer, "x-bismuth-container-id") == container,
        "{answer:?}"
    );
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn when_container_and_queue_are_full_the_next_request_is_told_when_to_come_back() -> Result<()>
{
    let cluster = Cluster::builder()
        .bismuthd_args(&["--queue", "1"])
        .start()
        .await?;
    let id = cluster
        .deploy(&with(echo_server(), &json!({ "concurrency": 1 })))
        .await?;
    let url = |rest: &str| cluster.frontend_url(&format!("/invoke/{id}{rest}"));

    // One inside, for as long as its answer is not read to the end.
    let mut inside = RawConnection::connect(&url("/")).await?;
    inside
        .send(format!(
            "GET /invoke/{id}/bytes?n=1&stall=1 HTTP/1.1\r\nhost: a\r\n\r\n"
        ))
        .await?;
    let head = inside.head().await?;
    ensure!(head.starts_with("http/1.1 200 "), "{head}");
    // Two more: one finds room in the queue, whichever comes first, and the other does not.
    let (mut one, mut other) = (Box::pin(cluster.invoke(&id)), Box::pin(cluster.invoke(&id)));
    let (refused, waiting) = tokio::select! {
        answer = &mut one => (answer?, other),
        answer = &mut other => (answer?, one),
    };
    let words = problem(&refused, 429, "queue_full")?;
    ensure!(
        words["retryable"] == true && words["component"] == "bismuthd",
        "{words}"
    );
    ensure!(
        header(&refused, "retry-after").parse::<u32>().is_ok(),
        "{refused:?}"
    );

    inside.reset()?;
    let answer = waiting.await?;
    ensure!(ok(&answer)? == "hello\n", "{}", text(&answer));
    ensure!(
        header(&answer, "server-timing").contains("queue;dur="),
        "{answer:?}"
    );
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_head_that_the_frontend_takes_reaches_the_function() -> Result<()> {
    let cluster = Cluster::builder()
        .frontend_args(&["--max-head-bytes", "98304"])
        .start()
        .await?;
    let id = cluster.deploy(&echo_server()).await?;
    let url = cluster.frontend_url(&format!("/invoke/{id}/headers"));
    // With Host these are as many fields as the frontend takes, and nearly as many bytes.
    let cookie = "c".repeat(90 * 1024);
    let names: Vec<String> = (0..92).map(|n| format!("x-field-{n}")).collect();
    let mut fields: Vec<(&str, &str)> = names.iter().map(|name| (name.as_str(), "v")).collect();
    fields.push(("cookie", &cookie));
    let answer = get_with(&url, &fields).await?;
    ok(&answer)?;
    let echoed = EchoedRequest::of(answer.body())?;
    ensure!(
        echoed.all("cookie") == [cookie.as_str()],
        "the cookie is another"
    );
    ensure!(
        names.iter().all(|name| echoed.all(name) == ["v"]),
        "{:?}",
        echoed.headers
    );
    Ok(())
}

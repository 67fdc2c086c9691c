//! `invoke` and `logs` against fake daemons.

use std::process::Stdio;

use bismuth_testkit::Stub;
use bismuth_testkit::http::full;
use bytes::Bytes;
use http::{Request, Response, StatusCode};
use tokio::process::Command;

use crate::harness::{Ctl, ctl, run};

const ID: &str = "67e55044-10b1-426f-9247-bb680e5fe0c8";

async fn daemon(answer: fn(Request<Bytes>) -> Response<String>) -> Stub {
    let stub = Stub::start(move |request| std::future::ready(answer(request).map(full)));
    stub.await.unwrap()
}

/// A refusal by one of our programs.
fn problem(status: u16, code: &str, component: &str, detail: &str) -> Response<String> {
    let problem = serde_json::json!({"component": component, "detail": detail, "code": code});
    Response::builder()
        .status(status)
        .header("x-bismuth-error", code)
        .body(problem.to_string())
        .unwrap()
}

/// Tells what it was asked, or fails as the path says.
fn frontend(request: Request<Bytes>) -> Response<String> {
    let (head, body) = request.into_parts();
    if head.uri.path().ends_with("/fail") {
        let answer = Response::builder().status(StatusCode::IM_A_TEAPOT);
        return answer.body("the function's own words".to_owned()).unwrap();
    }
    if !head.uri.path().contains(ID) {
        let detail = "there is no such function";
        return problem(404, "unknown_function", "bismuthfe", detail);
    }
    let colour = head.headers.get("colour");
    let colour = colour.map_or("", |value| value.to_str().unwrap());
    let body = String::from_utf8_lossy(&body);
    Response::new(format!("{} {} {colour} [{body}]", head.method, head.uri))
}

#[tokio::test]
async fn a_function_is_invoked_and_its_answer_printed_as_it_is() {
    let frontend = daemon(frontend).await;
    let invoke = format!("invoke {ID} --frontend {}", frontend.url());
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("body");
    std::fs::write(&file, "from a file").unwrap();
    let from_file = format!("-d @{}", file.display());
    let whole = "-X PUT -H 'Colour: red' --path a/b?c=d -d ''";
    for (flags, method, rest) in [
        ("", "GET", "  []"),
        ("-d hello", "POST", "  [hello]"),
        (whole, "PUT", "/a/b?c=d red []"),
        (&from_file, "POST", "  [from a file]"),
    ] {
        let answer = ctl(&format!("{invoke} {flags}")).await;
        assert_eq!(answer.ok(), format!("{method} /invoke/{ID}{rest}"));
    }
    let missing = ctl(&format!("{invoke} -d @/nothing/there")).await;
    missing.failed(1, &["read /nothing/there"]);

    let piped = format!("{invoke} -d -");
    let output = Ctl::default().piped(&piped, b"from a pipe").await;
    assert_eq!(output.ok(), format!("POST /invoke/{ID}  [from a pipe]"));
}

#[tokio::test]
async fn an_error_of_bismuth_is_distinguished_from_the_functions_own() {
    let frontend = daemon(frontend).await;
    let url = frontend.url();
    let other = "00000000-10b1-426f-9247-bb680e5fe0c8";
    let unknown = ctl(&format!("invoke {other} --frontend {url}")).await;
    unknown.failed(3, &["bismuthfe: there is no such function"]);
    let own = ctl(&format!("invoke {ID} --path /fail --frontend {url}")).await;
    assert_eq!((own.code, &*own.stdout), (1, "the function's own words"));
    assert_eq!(
        own.stderr,
        "bismuthctl: error: the function answered 418 I'm a teapot\n"
    );
    let free = bismuth_testkit::ports::reserve().unwrap();
    let nobody = format!("http://127.0.0.1:{free}");
    for (url, words) in [
        (&*nobody, &["connect to 127.0.0.1", "refused"][..]),
        ("https://127.0.0.1", &["is not an http URL"]),
    ] {
        let refused = ctl(&format!("invoke {ID} --frontend {url}")).await;
        refused.failed(1, words);
    }
}

const TIME: &str = "2026-01-02T03:04:05.678901234Z";

fn api(request: Request<Bytes>) -> Response<String> {
    let query = request.uri().query().unwrap_or_default();
    if query.contains("follow=true") {
        let event = |line: &str| {
            format!(
                "id: {TIME}\ndata: {{\"time\":\"{TIME}\",\"ip\":\"127.0.0.1\",\"container_id\":\"c\",\"stream\":\"stdout\",\"full\":true,\"line\":\"{line}\"}}\n\n"
            )
        };
        let end = if query.contains("tail") {
            ""
        } else {
            "event: end\ndata: the function was deleted\n\n"
        };
        return Response::new(format!(":\n\n{}{}{end}", event("one"), event("two")));
    }
    if query.contains("since=1%20h") {
        return problem(400, "query_malformed", "bismuth-api", "since: no");
    }
    let answer = Response::builder().header("x-bismuth-incomplete", "127.0.0.2/x: away");
    answer
        .body(format!("{TIME} c stdout P one \n{TIME} c stdout F two\n"))
        .unwrap()
}

#[tokio::test]
async fn logs_are_printed_and_followed() {
    let api = daemon(api).await;
    let logs = async |more: &str| ctl(&format!("logs {ID} --api {} {more}", api.url())).await;
    let plain = logs("").await;
    assert_eq!(plain.ok(), "one two");
    assert_eq!(plain.stderr, "some logs are missing: 127.0.0.2/x: away\n");
    let timed = logs("-t -p").await;
    assert_eq!(timed.ok(), format!("{TIME} c stdout one two"));
    let followed = logs("-f").await;
    assert_eq!(followed.ok(), "one\ntwo");
    assert_eq!(followed.stderr, "the log ends: the function was deleted\n");
    let broken = logs("-f --tail 5").await;
    assert_eq!((broken.code, &*broken.stdout), (1, "one\ntwo\n"));
    let said = broken.stderr;
    assert!(said.contains("the log broke off"), "{said}");
    let refused = logs("--since '1 h'").await;
    refused.failed(1, &["bismuth-api: since: no"]);
}

const HOSTILE: &str = "\u{1b}]0;owned\u{7}red \u{1b}[31m \u{9b}2J";

/// A log that would retitle the window and hide a line.
fn hostile(request: Request<Bytes>) -> Response<String> {
    if request.uri().path().starts_with("/invoke") {
        return problem(503, "x", "bismuthfe", HOSTILE);
    }
    Response::new(format!("{TIME} c stdout F {HOSTILE}\n"))
}

/// What a terminal is sent when it runs the program.
async fn on_a_terminal(line: &str) -> String {
    // No argument of these has a meaning to the shell.
    let line = format!("{} {line}", env!("CARGO_BIN_EXE_bismuthctl"));
    let mut script = Command::new("script");
    script.args(["--quiet", "--return", "--command", &line, "/dev/null"]);
    let output = run(script.stdin(Stdio::null())).await;
    output.stdout.replace("\r\n", "\n")
}

#[tokio::test]
async fn control_characters_of_a_function_are_escaped_on_a_terminal_and_raw_in_a_pipe() {
    let api = daemon(hostile).await;
    let raw = format!("{HOSTILE}\n");
    let escaped = "\\u{1b}]0;owned\\u{7}red \\u{1b}[31m \\u{9b}2J\n";
    let logs = format!("logs {ID} --api {}", api.url());
    assert_eq!(on_a_terminal(&logs).await, escaped);
    assert_eq!(on_a_terminal(&format!("{logs} --raw")).await, raw);
    assert_eq!(ctl(&logs).await.stdout, raw);
}

#[tokio::test]
async fn control_characters_in_an_error_detail_are_escaped() {
    let frontend = daemon(hostile).await;
    let refused = ctl(&format!("invoke {ID} --frontend {}", frontend.url())).await;
    refused.failed(1, &["bismuthfe: \\u{1b}]0;owned\\u{7}red"]);
}

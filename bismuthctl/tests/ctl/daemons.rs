//! `invoke` and `logs` against fake daemons.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::process::Stdio;

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpListener;
use tokio::process::Command;

use crate::harness::{command, ctl, run};

const ID: &str = "67e55044-10b1-426f-9247-bb680e5fe0c8";

async fn daemon<F>(answer: fn(Request<Incoming>) -> F) -> String
where
    F: Future<Output = Response<String>> + Send + 'static,
{
    let listener = TcpListener::bind(SocketAddr::from(([127, 0, 0, 1], 0)))
        .await
        .unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let service = service_fn(move |request| {
                let answer = answer(request);
                async { Ok::<_, Infallible>(answer.await.map(|text| Full::new(Bytes::from(text)))) }
            });
            tokio::spawn(
                hyper::server::conn::http1::Builder::new()
                    .serve_connection(TokioIo::new(stream), service),
            );
        }
    });
    format!("http://{address}")
}

/// Tells what it was asked, or fails as the path says.
async fn frontend(request: Request<Incoming>) -> Response<String> {
    let (head, body) = request.into_parts();
    let body = body.collect().await.unwrap().to_bytes();
    if head.uri.path().ends_with("/fail") {
        let answer = Response::builder().status(StatusCode::IM_A_TEAPOT);
        return answer.body("the function's own words".to_owned()).unwrap();
    }
    if !head.uri.path().contains(ID) {
        let problem = r#"{"component":"bismuthfe","detail":"there is no such function","code":"unknown_function"}"#;
        let answer = Response::builder()
            .status(404)
            .header("x-bismuth-error", "unknown_function");
        return answer.body(problem.to_owned()).unwrap();
    }
    let colour = head
        .headers
        .get("colour")
        .map_or("", |value| value.to_str().unwrap());
    let body = String::from_utf8_lossy(&body);
    Response::new(format!("{} {} {colour} [{body}]", head.method, head.uri))
}

#[tokio::test]
async fn a_function_is_invoked_and_its_answer_printed_as_it_is() {
    let frontend = daemon(frontend).await;
    let invoke =
        |more: &[&str]| command(&[&["invoke", ID, "--frontend", &frontend], more].concat());
    assert_eq!(
        run(&mut invoke(&[])).await.ok(),
        format!("GET /invoke/{ID}  []")
    );
    assert_eq!(
        run(&mut invoke(&["-d", "hello"])).await.ok(),
        format!("POST /invoke/{ID}  [hello]")
    );
    let full = [
        "-X",
        "PUT",
        "-H",
        "Colour: red",
        "--path",
        "a/b?c=d",
        "-d",
        "",
    ];
    assert_eq!(
        run(&mut invoke(&full)).await.ok(),
        format!("PUT /invoke/{ID}/a/b?c=d red []")
    );

    let file = std::env::temp_dir().join(format!("bismuthctl-body-{}", std::process::id()));
    std::fs::write(&file, "from a file").unwrap();
    let output = run(&mut invoke(&["-d", &format!("@{}", file.display())])).await;
    std::fs::remove_file(&file).unwrap();
    assert_eq!(output.ok(), format!("POST /invoke/{ID}  [from a file]"));
    run(&mut invoke(&["-d", "@/nothing/there"]))
        .await
        .failed(1, &["read /nothing/there"]);

    let mut child = invoke(&["-d", "-"]).stdin(Stdio::piped()).spawn().unwrap();
    child
        .stdin
        .take()
        .unwrap()
        .write_all(b"from a pipe")
        .await
        .unwrap();
    let output = child.wait_with_output().await.unwrap();
    assert_eq!(
        String::from_utf8(output.stdout).unwrap(),
        format!("POST /invoke/{ID}  [from a pipe]")
    );
}

#[tokio::test]
async fn an_error_of_bismuth_is_distinguished_from_the_functions_own() {
    let frontend = daemon(frontend).await;
    let other = "00000000-10b1-426f-9247-bb680e5fe0c8";
    ctl(&["invoke", other, "--frontend", &frontend])
        .await
        .failed(3, &["bismuthfe: there is no such function"]);
    let own = ctl(&["invoke", ID, "--path", "/fail", "--frontend", &frontend]).await;
    assert_eq!(
        (own.code, own.stdout.as_str()),
        (1, "the function's own words")
    );
    assert_eq!(
        own.stderr,
        "bismuthctl: error: the function answered 418 I'm a teapot\n"
    );
    let free = bismuth_testkit::ports::reserve().unwrap();
    let nobody = format!("http://127.0.0.1:{free}");
    ctl(&["invoke", ID, "--frontend", &nobody])
        .await
        .failed(1, &["connect to 127.0.0.1", "refused"]);
    ctl(&["invoke", ID, "--frontend", "https://127.0.0.1"])
        .await
        .failed(1, &["is not an http URL"]);
}

const TIME: &str = "2026-01-02T03:04:05.678901234Z";

async fn api(request: Request<Incoming>) -> Response<String> {
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
        let problem =
            r#"{"component":"bismuth-api","detail":"since: no","code":"query_malformed"}"#;
        return Response::builder()
            .status(400)
            .header("x-bismuth-error", "query_malformed")
            .body(problem.to_owned())
            .unwrap();
    }
    let answer = Response::builder().header("x-bismuth-incomplete", "127.0.0.2/x: away");
    answer
        .body(format!("{TIME} c stdout P one \n{TIME} c stdout F two\n"))
        .unwrap()
}

#[tokio::test]
async fn logs_are_printed_and_followed() {
    let api = daemon(api).await;
    let logs = async |more: &[&str]| ctl(&[&["logs", ID, "--api", &api], more].concat()).await;
    let plain = logs(&[]).await;
    assert_eq!(plain.ok(), "one two");
    assert_eq!(plain.stderr, "some logs are missing: 127.0.0.2/x: away\n");
    assert_eq!(
        logs(&["-t", "-p"]).await.ok(),
        format!("{TIME} c stdout one two")
    );
    let followed = logs(&["-f"]).await;
    assert_eq!(followed.ok(), "one\ntwo");
    assert_eq!(followed.stderr, "the log ends: the function was deleted\n");
    let broken = logs(&["-f", "--tail", "5"]).await;
    assert_eq!((broken.code, broken.stdout.as_str()), (1, "one\ntwo\n"));
    assert!(
        broken.stderr.contains("the log broke off"),
        "{}",
        broken.stderr
    );
    logs(&["--since", "1 h"])
        .await
        .failed(1, &["bismuth-api: since: no"]);
}

/// A log that would retitle the window and hide a line.
async fn hostile(request: Request<Incoming>) -> Response<String> {
    let line = "\u{1b}]0;owned\u{7}red \u{1b}[31m \u{9b}2J";
    if request.uri().path().starts_with("/invoke") {
        let problem = serde_json::json!({"component": "bismuthfe", "detail": line}).to_string();
        let answer = Response::builder()
            .status(503)
            .header("x-bismuth-error", "x");
        return answer.body(problem).unwrap();
    }
    Response::new(format!("{TIME} c stdout F {line}\n"))
}

/// What a terminal is sent when it runs the program.
async fn on_a_terminal(args: &[&str]) -> String {
    // No argument of these has a meaning to the shell.
    let line = [&[env!("CARGO_BIN_EXE_bismuthctl")], args]
        .concat()
        .join(" ");
    let mut script = Command::new("script");
    script.args(["--quiet", "--return", "--command", &line, "/dev/null"]);
    let output = run(script.stdin(Stdio::null())).await;
    output.stdout.replace("\r\n", "\n")
}

#[tokio::test]
async fn control_characters_of_a_function_are_escaped_on_a_terminal_and_raw_in_a_pipe() {
    let api = daemon(hostile).await;
    let raw = "\u{1b}]0;owned\u{7}red \u{1b}[31m \u{9b}2J\n";
    let escaped = "\\u{1b}]0;owned\\u{7}red \\u{1b}[31m \\u{9b}2J\n";
    let logs = ["logs", ID, "--api", &api];
    assert_eq!(on_a_terminal(&logs).await, escaped);
    assert_eq!(on_a_terminal(&[&logs[..], &["--raw"]].concat()).await, raw);
    assert_eq!(ctl(&logs).await.stdout, raw);
}

#[tokio::test]
async fn control_characters_in_an_error_detail_are_escaped() {
    let frontend = daemon(hostile).await;
    ctl(&["invoke", ID, "--frontend", &frontend])
        .await
        .failed(1, &["bismuthfe: \\u{1b}]0;owned\\u{7}red"]);
}

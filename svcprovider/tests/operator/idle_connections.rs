//! Idle connections do not keep others from the operator API.

use std::time::{Duration, Instant};

use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;

use crate::harness::Harness;

#[tokio::test]
async fn an_operator_is_answered_beside_500_idle_connections() {
    let harness = Harness::start();
    let address = harness.url.strip_prefix("http://").unwrap();
    let mut silent = Vec::new();
    for number in 0..500 {
        let mut stream = TcpStream::connect(address).await.unwrap();
        if number % 2 == 0 {
            // Without its end, it is no request.
            stream.write_all(b"GET /group HTTP/1.1\r\n").await.unwrap();
        }
        silent.push(stream);
    }
    let began = Instant::now();
    harness.client.probe().await.unwrap();
    let took = began.elapsed();
    assert!(took < Duration::from_secs(5), "it took {took:?}");
    drop(silent);
    harness.end().await;
}

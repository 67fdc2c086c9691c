//! An S3 server for tests: `s3s-fs`, objects as files below a directory.
//!
//! `s3-server PORT DIR KEY_ID SECRET_KEY` serves on loopback; a bucket is a directory in DIR. It is never shipped.

mod conforming;

use std::net::Ipv4Addr;
use std::path::Path;

use anyhow::{Context, Result, bail};
use hyper_util::rt::TokioIo;
use s3s::auth::SimpleAuth;
use s3s::service::S3ServiceBuilder;
use tokio::net::TcpListener;

use self::conforming::ConformingS3;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [port, dir, key_id, secret_key] = args.as_slice() else {
        bail!("usage: s3-server PORT DIR KEY_ID SECRET_KEY");
    };
    let port: u16 = port.parse().context("PORT is not a number")?;
    let mut service = S3ServiceBuilder::new(ConformingS3::open(Path::new(dir))?);
    service.set_auth(SimpleAuth::from_single(
        key_id.as_str(),
        secret_key.as_str(),
    ));
    let service = service.build();
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port))
        .await
        .with_context(|| format!("listen on port {port}"))?;
    loop {
        let (socket, _) = listener.accept().await.context("accept a connection")?;
        let service = service.clone();
        tokio::spawn(async move {
            let connection = hyper::server::conn::http1::Builder::new()
                .serve_connection(TokioIo::new(socket), service);
            // A client that is gone.
            if let Err(error) = connection.await {
                eprintln!("s3-server: connection: {error}");
            }
        });
    }
}

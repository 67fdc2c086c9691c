//! Test harness: the operator API of a svcprovider, and a client of it.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bismuth_daemon::{Shutdown, listen};
use bismuth_model::ServiceGroup;
use bismuth_operator::{Call, CallError, OperatorClient, json};
use bismuth_store::blobs::{Blobs, Settings};
use bismuth_store::objects::files::Files;
use bismuth_store::records::Records;
use bismuth_store::records::embedded::Embedded;
use bismuth_store::secrets::{Keyring, Secrets};
use bytes::Bytes;
use http_body_util::Full;
use prometheus_client::registry::Registry;
use serde_json::Value;
use svcprovider::http::{AppState, MemoryBudget};
use svcprovider::metrics::Metrics;
use svcprovider::operator::{self, OperatorApi, OperatorError, OperatorToken};
use tempfile::TempDir;
use tokio::task::JoinHandle;

pub fn group(name: &str) -> ServiceGroup {
    name.parse().unwrap()
}

/// More than anything takes on a busy machine.
pub const SOON: Duration = Duration::from_secs(30);

pub struct Harness {
    pub client: OperatorClient,
    pub records: Arc<dyn Records>,
    dir: TempDir,
    shutdown: Shutdown,
    pub url: String,
    running: JoinHandle<Result<(), OperatorError>>,
}

impl Harness {
    pub fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name);
        let records: Arc<dyn Records> = Arc::new(Embedded::open(&path("records")).unwrap());
        let objects = Arc::new(Files::open(&path("objects")).unwrap());
        let keyring = Keyring::load_or_create(&path("master.keys")).unwrap();
        let secrets = Arc::new(Secrets::new(Arc::clone(&records), keyring));
        let token_file = path("operator.token");
        let operator = OperatorApi {
            app: AppState {
                records: Arc::clone(&records),
                blobs: Blobs::new(Arc::clone(&records), objects, Settings::default()),
                secrets: Arc::clone(&secrets) as Arc<_>,
                has_other_nodes: false,
                memory: MemoryBudget::of_the_process(),
                metrics: Metrics::new(&mut Registry::default()),
            },
            secrets,
            token: OperatorToken::load_or_make(&token_file).unwrap(),
        };
        let listener = listen::bind_per_core("127.0.0.1:0".parse().unwrap(), 1);
        let listener = listener.unwrap().remove(0);
        let url = format!("http://{}", listener.local_addr().unwrap());
        let shutdown = Shutdown::new();
        let running = operator::run(listener, operator, SOON, shutdown.clone());
        Self {
            client: OperatorClient::new(&url.parse().unwrap(), token_file, SOON).unwrap(),
            records,
            url,
            running: tokio::spawn(running),
            shutdown,
            dir,
        }
    }

    /// The answer to a call that is not refused.
    pub async fn answered(&self, call: Call, body: impl Into<Bytes>) -> Value {
        let answer = self.client.call(call, Full::new(body.into())).await;
        json(&self.client, answer.unwrap()).await.unwrap()
    }

    /// The status and the code of a refusal.
    pub async fn refused(&self, call: Call, body: impl Into<Bytes>) -> (u16, String) {
        match self.client.call(call, Full::new(body.into())).await {
            Err(CallError::Refused(no)) => (no.status.as_u16(), no.code),
            other => panic!("it is not refused: {other:?}"),
        }
    }

    /// Where the bytes of blobs are.
    pub fn objects_dir(&self) -> PathBuf {
        self.dir.path().join("objects")
    }

    /// Ends it in good order.
    pub async fn end(self) {
        self.shutdown.trigger();
        self.running.await.unwrap().unwrap();
    }
}

//! A registry behind TLS whose certificate a private authority has signed.

use std::path::{Path, PathBuf};
use std::process::Command;

use bismuth_containerd::images::{EndpointConfig, ImageError};
use bismuth_testkit::process::{Process, Program};
use bismuth_testkit::{Certificate, eventually, ports};

use crate::harness::{BOUND, Harness, ensure, store};
use crate::pull::layered;

fn run(program: &str, arguments: &[&str]) {
    let output = Command::new(program).args(arguments).output().unwrap();
    assert!(
        output.status.success(),
        "{program} {arguments:?}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
}

/// Starts a registry with a self-signed certificate for 127.0.0.1; returns its port and the certificate.
async fn secure_registry(dir: &Path) -> (Process, u16, PathBuf) {
    let Certificate { certificate, key } = Certificate::make(dir).unwrap();
    let port = ports::reserve().unwrap();
    let storage = dir.join("storage");
    let config = format!(
        "version: 0.1\nstorage:\n  filesystem:\n    rootdirectory: {}\nhttp:\n  addr: 127.0.0.1:{port}\n  tls:\n    certificate: {}\n    key: {}\n",
        storage.display(),
        certificate.display(),
        key.display(),
    );
    let path = dir.join("registry.yml");
    std::fs::write(&path, config).unwrap();
    let registry = Program::new("registry", "docker-registry", dir)
        .arg("serve")
        .arg(&path);
    let registry = registry
        .env("OTEL_TRACES_EXPORTER", "none")
        .spawn()
        .unwrap();
    eventually("the registry listens", BOUND, async || {
        tokio::net::TcpStream::connect(("127.0.0.1", port))
            .await
            .map(drop)
    })
    .await;
    (registry, port, certificate)
}

#[tokio::test]
async fn a_private_authority_is_trusted_when_configured_and_only_then() {
    let harness = Harness::start().await;
    let dir = harness.server.scratch("tls").unwrap();
    let (_registry, port, certificate) = secure_registry(&dir).await;
    let layout = dir.join("layout");
    layered().write_layout(&layout, "source").unwrap();
    let target = format!("docker://127.0.0.1:{port}/demo/x:1");
    run(
        "skopeo",
        &[
            "--insecure-policy",
            "copy",
            "--quiet",
            "--dest-tls-verify=false",
            &format!("oci:{}", layout.display()),
            &target,
        ],
    );

    for trusted in [None, Some(certificate)] {
        let endpoint = EndpointConfig {
            url: format!("https://127.0.0.1:{port}"),
            plain_http: false,
            ca_file: trusted.clone(),
        };
        let store = store(&harness.containerd, |config| {
            config
                .registries
                .hosts
                .insert("secure.example".to_owned(), vec![endpoint]);
        });
        let ensured = ensure(&store, "secure.example/demo/x:1", Default::default()).await;
        match trusted {
            Some(_) => assert_eq!(ensured.unwrap().lower_dirs.len(), 3),
            None => {
                let error = ensured.unwrap_err();
                assert!(matches!(error, ImageError::Refused { .. }), "{error}");
                assert!(error.to_string().contains("certificate"), "{error}");
            }
        }
    }
}

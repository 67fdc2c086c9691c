//! A registry behind TLS whose certificate a private authority has signed.

use std::path::{Path, PathBuf};
use std::process::Command;

use bismuth_containerd::images::ImageError;
use bismuth_testkit::process::{Process, Program};
use bismuth_testkit::{Certificate, eventually, ports};

use crate::harness::{BOUND, Harness, skopeo};
use crate::pull::layered;

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

const IMAGE: &str = "secure.example/demo/x:1";

async fn harness(registry: &str) -> Harness {
    let mirror = format!("secure.example={registry}").parse().unwrap();
    Harness::start_with(|config| config.registries.add_mirrors([mirror])).await
}

#[tokio::test]
async fn a_private_authority_is_trusted_when_the_system_trusts_it_and_only_then() {
    let dir = tempfile::tempdir().unwrap();
    let (_registry, port, certificate) = secure_registry(dir.path()).await;
    let layout = dir.path().join("layout");
    layered().write_layout(&layout, "source").unwrap();
    skopeo(&[
        "--dest-tls-verify=false",
        &format!("oci:{}", layout.display()),
        &format!("docker://127.0.0.1:{port}/demo/x:1"),
    ]);
    let registry = format!("https://127.0.0.1:{port}");

    let error = harness(&registry).await.ensure(IMAGE).await.unwrap_err();
    assert!(matches!(error, ImageError::Refused { .. }), "{error}");
    assert!(error.to_string().contains("certificate"), "{error}");

    let trusting = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "tls::pull_in_a_trusting_process", "--ignored"])
        .env("SSL_CERT_FILE", certificate)
        .env("REGISTRY", registry)
        .output()
        .unwrap();
    let ran = String::from_utf8_lossy(&trusting.stdout);
    assert!(
        trusting.status.success() && ran.contains("1 passed"),
        "{ran}"
    );
}

/// Not a test of its own: what the test above starts as a process whose authorities are others.
#[tokio::test]
#[ignore = "run by another test in a process of its own"]
async fn pull_in_a_trusting_process() {
    let registry = std::env::var("REGISTRY").unwrap();
    let image = harness(&registry).await.ensure(IMAGE).await.unwrap();
    assert_eq!(image.lower_dirs.len(), 3);
}

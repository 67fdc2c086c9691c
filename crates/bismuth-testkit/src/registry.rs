//! A real OCI registry, from Debian's `docker-registry` package, over plain HTTP on loopback.

use std::fs;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use http::{Method, Request, StatusCode, header};

use crate::http::{self as client, full};
use crate::image::{Blob, Image};
use crate::process::Program;
use crate::server::{Kind, Server};

/// A registry with its own storage.
pub type Registry = Server<RegistryKind>;

/// See [`Registry`].
#[derive(Debug)]
pub struct RegistryKind;

impl Kind for RegistryKind {
    const NAME: &'static str = "registry";
    // It listens within tens of milliseconds; a loaded machine may take longer.
    const START_BOUND: Duration = Duration::from_secs(30);

    fn program(server: &Registry) -> Result<Program> {
        Ok(Program::new("registry", "docker-registry", server.dir())
            .arg("serve")
            .arg(server.dir().join("config.yml"))
            .env("OTEL_TRACES_EXPORTER", "none"))
    }

    async fn probe(server: &Registry) -> Result<()> {
        let answer = client::get(&format!("{}/v2/", server.url())).await?;
        ensure!(answer.status() == StatusCode::OK, "{}", answer.status());
        Ok(())
    }
}

impl Registry {
    /// Starts an empty registry and waits until it answers. Fails when `docker-registry` is not installed.
    pub async fn start() -> Result<Self> {
        let registry = Self::new(RegistryKind)?;
        let config = format!(
            "version: 0.1\nlog:\n  level: warn\nstorage:\n  filesystem:\n    rootdirectory: {}\n  delete:\n    \
             enabled: true\nhttp:\n  addr: {}\n",
            registry.dir().join("storage").display(),
            registry.address(),
        );
        let path = registry.dir().join("config.yml");
        fs::write(&path, config).with_context(|| format!("write {}", path.display()))?;
        registry.started().await
    }

    /// `http://127.0.0.1:PORT`: a mirror for `--registry-mirror docker.io=…`.
    pub fn url(&self) -> String {
        format!("http://{}", self.address())
    }

    /// A reference to `name` (as in `library/busybox:latest`) in this registry.
    pub fn reference(&self, name: &str) -> String {
        format!("{}/{name}", self.address())
    }

    /// Uploads `image` as `name`, which is `REPOSITORY:TAG`; returns the manifest's digest.
    /// Fails when the registry refuses something, with its words.
    pub async fn push(&self, name: &str, image: &Image) -> Result<String> {
        let (repository, tag) = name
            .rsplit_once(':')
            .with_context(|| format!("{name:?} is not REPOSITORY:TAG"))?;
        for blob in image.blobs() {
            self.push_blob(repository, blob)
                .await
                .with_context(|| format!("push {} of {name}", blob.digest()))?;
        }
        for manifest in image.manifests() {
            let reference = if manifest.digest() == image.digest() {
                tag
            } else {
                manifest.digest()
            };
            let request = Request::builder()
                .method(Method::PUT)
                .uri(format!(
                    "{}/v2/{repository}/manifests/{reference}",
                    self.url()
                ))
                .header(header::CONTENT_TYPE, manifest.media_type())
                .body(full(manifest.read()?))?;
            expect(StatusCode::CREATED, request)
                .await
                .with_context(|| format!("push the manifest of {name}"))?;
        }
        Ok(image.digest().to_owned())
    }

    /// Deletes a blob's data from storage, so that pulling it fails.
    /// Fails when the registry does not hold it.
    pub fn damage_blob(&self, digest: &str, replacement: &[u8]) -> Result<()> {
        let hex = digest
            .strip_prefix("sha256:")
            .with_context(|| format!("{digest:?} is not sha256"))?;
        let prefix = hex
            .get(..2)
            .with_context(|| format!("{digest:?} is too short"))?;
        let path = self.dir().join(format!(
            "storage/docker/registry/v2/blobs/sha256/{prefix}/{hex}/data"
        ));
        ensure!(path.is_file(), "the registry holds no {digest}");
        fs::write(&path, replacement).with_context(|| format!("write {}", path.display()))
    }

    async fn push_blob(&self, repository: &str, blob: &Blob) -> Result<()> {
        let begin = Request::builder()
            .method(Method::POST)
            .uri(format!("{}/v2/{repository}/blobs/uploads/", self.url()))
            .body(full(Bytes::new()))?;
        let session = expect(StatusCode::ACCEPTED, begin).await?;
        let location = session
            .headers()
            .get(header::LOCATION)
            .context("an upload without a location")?;
        let location = location.to_str().context("the upload's location")?;
        let location = if location.starts_with('/') {
            format!("{}{location}", self.url())
        } else {
            location.into()
        };
        let separator = if location.contains('?') { '&' } else { '?' };
        let upload = Request::builder()
            .method(Method::PUT)
            .uri(format!("{location}{separator}digest={}", blob.digest()))
            .header(header::CONTENT_TYPE, "application/octet-stream")
            .body(full(blob.read()?))?;
        expect(StatusCode::CREATED, upload).await.map(drop)
    }
}

async fn expect(
    status: StatusCode,
    request: Request<client::Body>,
) -> Result<http::Response<Bytes>> {
    let act = format!("{} {}", request.method(), request.uri());
    let answer = client::send_whole(request)
        .await
        .with_context(|| act.clone())?;
    ensure!(
        answer.status() == status,
        "{act}: {} {}",
        answer.status(),
        String::from_utf8_lossy(answer.body()),
    );
    Ok(answer)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_pushed_image_can_be_fetched_by_tag_and_survives_a_restart() {
        let mut registry = Registry::start().await.unwrap();
        let image = Image::builder()
            .file("hello", 0o644, b"hello")
            .build()
            .unwrap();
        let digest = registry.push("library/hello:1", &image).await.unwrap();

        registry.restart().await.unwrap();
        let request = Request::builder()
            .uri(format!("{}/v2/library/hello/manifests/1", registry.url()))
            .header(header::ACCEPT, "application/vnd.oci.image.manifest.v1+json")
            .body(full(Bytes::new()))
            .unwrap();
        let manifest = client::send_whole(request).await.unwrap();
        assert_eq!(manifest.status(), StatusCode::OK);
        assert_eq!(manifest.headers()["docker-content-digest"], digest.as_str());
    }
}

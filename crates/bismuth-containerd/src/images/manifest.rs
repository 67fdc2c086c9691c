//! Parses the documents of an image: index, manifest and configuration. Pure.
//!
//! ```text
//!   index ──► manifest (one per platform) ──► configuration (environment, command, diff ids)
//!                                        └──► layers, lowest first
//! ```
//!
//! Docker's schema 2 and the OCI image specification share this shape; only the media types differ. We read what both
//! promise and ignore the rest, because real registries hold documents that no single schema accepts.

use std::collections::{BTreeMap, HashMap};

use serde::{Deserialize, Serialize};

use super::digest::Digest;
use super::error::{ImageError, Result};
use super::platform::Platform;

/// Docker's manifest list.
pub const DOCKER_MANIFEST_LIST: &str = "application/vnd.docker.distribution.manifest.list.v2+json";
/// Docker's image manifest, version 2 schema 2.
pub const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";
/// Docker's image configuration.
pub const DOCKER_CONFIG: &str = "application/vnd.docker.container.image.v1+json";
/// Docker's name for a layer that is a plain tar.
pub const DOCKER_LAYER_TAR: &str = "application/vnd.docker.image.rootfs.diff.tar";
/// The OCI image index.
pub const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";
/// The OCI image manifest.
pub const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";

/// What we ask a registry for, in the order of preference.
pub const ACCEPTED: &[&str] = &[
    OCI_INDEX,
    DOCKER_MANIFEST_LIST,
    OCI_MANIFEST,
    DOCKER_MANIFEST,
];

/// Registries refuse manifests above 4 MiB (distribution specification, "Pushing Manifests"); so do we.
pub const MANIFEST_MAX_BYTES: u64 = 4 << 20;
/// Real configurations have some kilobytes; containerd's own limit for what it parses is 8 MiB.
pub const CONFIG_MAX_BYTES: u64 = 8 << 20;
/// overlayfs and the `mount(2)` page-sized option string end near 500 layers; Docker itself stops at 128.
const LAYERS_MAX: usize = 256;

/// A reference to a blob, with what is promised about it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Descriptor {
    /// The blob's format.
    pub media_type: String,
    /// The blob's name.
    pub digest: Digest,
    /// The blob's length in bytes.
    pub size: u64,
    /// What the image behind it runs on (in an index).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub platform: Option<Platform>,
    /// Free-form notes; in an OCI layout they carry the image's name.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
}

/// One image for one platform.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Manifest {
    /// The configuration blob.
    pub config: Descriptor,
    /// The layers, lowest first.
    pub layers: Vec<Descriptor>,
}

/// What a manifest request can answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Document {
    /// A choice of images.
    Index(Vec<Descriptor>),
    /// An image.
    Image(Manifest),
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct RawDocument {
    schema_version: u32,
    media_type: Option<String>,
    config: Option<Descriptor>,
    layers: Option<Vec<Descriptor>>,
    manifests: Option<Vec<Descriptor>>,
}

impl Document {
    /// Reads a manifest or an index, whichever it is, and says its media type.
    ///
    /// # Errors
    /// It is neither, both (CVE-2021-41190), of schema 1, or absurdly large.
    pub fn parse(digest: &Digest, data: &[u8]) -> Result<(Self, String)> {
        let malformed = |reason: String| ImageError::Malformed {
            what: "manifest",
            object: digest.to_string(),
            reason,
        };
        let raw: RawDocument =
            serde_json::from_slice(data).map_err(|e| malformed(e.to_string()))?;
        if raw.schema_version != 2 {
            return Err(ImageError::Unsupported {
                object: digest.to_string(),
                what: format!("manifest schema version {}", raw.schema_version),
            });
        }
        match (raw.manifests, raw.config, raw.layers) {
            (Some(manifests), None, None) => {
                let media_type = raw.media_type.unwrap_or_else(|| OCI_INDEX.to_owned());
                Ok((Self::Index(manifests), media_type))
            }
            (None, Some(config), Some(layers)) if layers.len() <= LAYERS_MAX => {
                let media_type = raw.media_type.unwrap_or_else(|| OCI_MANIFEST.to_owned());
                Ok((Self::Image(Manifest { config, layers }), media_type))
            }
            (None, Some(_), Some(layers)) => Err(malformed(format!(
                "{} layers; at most {LAYERS_MAX} can be mounted",
                layers.len()
            ))),
            _ => Err(malformed(
                "neither an image manifest nor an index".to_owned(),
            )),
        }
    }

    /// The labels by which containerd's garbage collector finds what this document refers to (containerd
    /// `images/handlers.go`, `ChildGCLabels`).
    pub fn gc_labels(&self) -> HashMap<String, String> {
        let label = |kind: String, child: &Descriptor| {
            let key = format!("containerd.io/gc.ref.content.{kind}");
            (key, child.digest.to_string())
        };
        match self {
            Self::Index(manifests) => {
                let children = manifests.iter().enumerate();
                children
                    .map(|(i, child)| label(format!("m.{i}"), child))
                    .collect()
            }
            Self::Image(manifest) => {
                let layers = manifest.layers.iter().enumerate();
                let config = label("config".to_owned(), &manifest.config);
                let layers = layers.map(|(i, layer)| label(format!("l.{i}"), layer));
                std::iter::once(config).chain(layers).collect()
            }
        }
    }
}

/// Picks the image of an index for `platform`. An index whose single entry names no platform offers that entry.
///
/// # Errors
/// None fits; the error lists what there is.
pub fn choose<'a>(
    object: &str,
    manifests: &'a [Descriptor],
    platform: &Platform,
) -> Result<&'a Descriptor> {
    if let [only] = manifests
        && only.platform.is_none()
    {
        return Ok(only);
    }
    let named: Vec<_> = manifests
        .iter()
        .filter_map(|m| m.platform.as_ref().map(|p| (p, m)))
        .collect();
    match platform.choose(named.iter().map(|(platform, _)| *platform)) {
        Some(position) => Ok(named[position].1),
        None => Err(ImageError::NoPlatform {
            object: object.to_owned(),
            wanted: platform.to_string(),
            offered: named
                .iter()
                .map(|(platform, _)| platform.to_string())
                .collect(),
        }),
    }
}

/// What an image asks for at run time, and what its layers unpack to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigFile {
    /// What to run and how.
    pub run: ImageConfig,
    /// The digest of every layer's uncompressed tar, lowest first.
    pub diff_ids: Vec<Digest>,
}

/// How an image wants its program to be started.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ImageConfig {
    /// `KEY=value` lines.
    pub env: Vec<String>,
    /// The program and its first arguments.
    pub entrypoint: Vec<String>,
    /// Further arguments, or the program if there is no entry point.
    pub cmd: Vec<String>,
    /// The directory to start in; empty for `/`.
    pub working_dir: String,
    /// `user[:group]`, by name or number; empty if the image does not say.
    pub user: String,
    /// The signal that asks the program to end; empty for `SIGTERM`.
    pub stop_signal: String,
}

#[derive(Deserialize)]
struct RawConfig {
    config: Option<RawRun>,
    rootfs: RawRootfs,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "PascalCase", default)]
struct RawRun {
    env: Option<Vec<String>>,
    entrypoint: Option<Vec<String>>,
    cmd: Option<Vec<String>>,
    working_dir: Option<String>,
    user: Option<String>,
    stop_signal: Option<String>,
}

#[derive(Deserialize)]
struct RawRootfs {
    #[serde(default)]
    diff_ids: Vec<Digest>,
}

impl ConfigFile {
    /// Reads an image's configuration.
    ///
    /// # Errors
    /// It is no image configuration, or its diff ids do not match the manifest's layers.
    pub fn parse(manifest: &Manifest, data: &[u8]) -> Result<Self> {
        let malformed = |reason: String| ImageError::Malformed {
            what: "image configuration",
            object: manifest.config.digest.to_string(),
            reason,
        };
        let raw: RawConfig = serde_json::from_slice(data).map_err(|e| malformed(e.to_string()))?;
        let diff_ids = raw.rootfs.diff_ids;
        if diff_ids.len() != manifest.layers.len() {
            let (ids, layers) = (diff_ids.len(), manifest.layers.len());
            return Err(malformed(format!("{ids} diff ids for {layers} layers")));
        }
        let run = raw.config.unwrap_or_default();
        Ok(Self {
            run: ImageConfig {
                env: run.env.unwrap_or_default(),
                entrypoint: run.entrypoint.unwrap_or_default(),
                cmd: run.cmd.unwrap_or_default(),
                working_dir: run.working_dir.unwrap_or_default(),
                user: run.user.unwrap_or_default(),
                stop_signal: run.stop_signal.unwrap_or_default(),
            },
            diff_ids,
        })
    }

    /// The names of the snapshots that the layers become, lowest first: each is the hash of everything below and itself
    /// (OCI image specification, `config.md`, "Layer ChainID"). containerd's own clients use the same names, so what they
    /// unpacked is found.
    pub fn chain_ids(&self) -> Vec<Digest> {
        let mut chain: Vec<Digest> = Vec::with_capacity(self.diff_ids.len());
        for diff_id in &self.diff_ids {
            let next = match chain.last() {
                None => diff_id.clone(),
                Some(below) => Digest::of(format!("{below} {diff_id}").as_bytes()),
            };
            chain.push(next);
        }
        chain
    }
}

/// The media type by which containerd's diff service recognises a layer's compression.
///
/// For Docker's media types it looks at the first bytes; of the OCI ones it believes the suffix. `tar.zstd` under Docker's
/// prefix (BuildKit with `oci-mediatypes=false`) is unknown to containerd 1.6, so it is passed as its OCI equal.
///
/// # Errors
/// Not a layer that a Linux container can be made of: encrypted, foreign (Windows), or no tar at all.
pub fn layer_media_type(layer: &Descriptor) -> Result<&str> {
    match layer.media_type.as_str() {
        DOCKER_LAYER_TAR
        | "application/vnd.docker.image.rootfs.diff.tar.gzip"
        | "application/vnd.oci.image.layer.v1.tar"
        | "application/vnd.oci.image.layer.v1.tar+gzip"
        | "application/vnd.oci.image.layer.v1.tar+zstd"
        | "application/vnd.oci.image.layer.nondistributable.v1.tar"
        | "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip"
        | "application/vnd.oci.image.layer.nondistributable.v1.tar+zstd" => Ok(&layer.media_type),
        "application/vnd.docker.image.rootfs.diff.tar.zstd" => {
            Ok("application/vnd.oci.image.layer.v1.tar+zstd")
        }
        other => Err(ImageError::Unsupported {
            object: layer.digest.to_string(),
            what: format!("layer media type {other}"),
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn descriptor(media_type: &str, seed: &str) -> serde_json::Value {
        serde_json::json!({"mediaType": media_type, "digest": Digest::of(seed.as_bytes()), "size": seed.len()})
    }

    fn parse(document: &serde_json::Value) -> Result<(Document, String)> {
        Document::parse(&Digest::of(b"x"), document.to_string().as_bytes())
    }

    #[test]
    fn a_manifest_and_an_index_are_told_apart_by_shape() {
        let manifest = serde_json::json!({"schemaVersion": 2, "config": descriptor("c", "c"), "layers": [descriptor("l", "l")]});
        let (document, media_type) = parse(&manifest).expect("manifest");
        assert_eq!(media_type, OCI_MANIFEST);
        let label = |kind: &str, of: &[u8]| {
            let key = format!("containerd.io/gc.ref.content.{kind}");
            (key, Digest::of(of).to_string())
        };
        let labels = HashMap::from([label("config", b"c"), label("l.0", b"l")]);
        assert_eq!(document.gc_labels(), labels);

        let index = serde_json::json!({"schemaVersion": 2, "mediaType": DOCKER_MANIFEST_LIST, "manifests": [descriptor("m", "m")]});
        let (document, media_type) = parse(&index).expect("index");
        assert_eq!(media_type, DOCKER_MANIFEST_LIST);
        assert_eq!(document.gc_labels(), HashMap::from([label("m.0", b"m")]));
    }

    #[test]
    fn a_document_that_is_both_or_neither_or_old_is_refused() {
        let both = serde_json::json!({"schemaVersion": 2, "config": descriptor("c", "c"), "layers": [], "manifests": []});
        assert!(matches!(parse(&both), Err(ImageError::Malformed { .. })));
        assert!(matches!(
            parse(&serde_json::json!({"schemaVersion": 2})),
            Err(ImageError::Malformed { .. })
        ));
        let old = serde_json::json!({"schemaVersion": 1, "fsLayers": []});
        assert!(matches!(parse(&old), Err(ImageError::Unsupported { .. })));
    }

    #[test]
    fn an_index_without_our_platform_says_what_it_has() {
        let text = serde_json::json!([{"mediaType": "m", "digest": Digest::of(b"a"), "size": 1, "platform": {"os": "linux", "architecture": "s390x"}}]);
        let manifests: Vec<Descriptor> = serde_json::from_value(text).expect("descriptors");
        let platform = Platform {
            os: "linux".into(),
            architecture: "amd64".into(),
            variant: None,
        };
        let error = choose("some/image", &manifests, &platform).expect_err("no platform");
        assert_eq!(
            error.to_string(),
            "some/image has no image for linux/amd64; it has: linux/s390x"
        );
    }

    #[test]
    fn chain_ids_are_those_of_the_specification() {
        let ids = [Digest::of(b"1"), Digest::of(b"2")];
        let config = ConfigFile {
            run: ImageConfig::default(),
            diff_ids: ids.to_vec(),
        };
        let expected = Digest::of(format!("{} {}", ids[0], ids[1]).as_bytes());
        assert_eq!(config.chain_ids(), [ids[0].clone(), expected]);
    }

    #[test]
    fn a_configuration_with_nulls_is_read_and_one_with_too_few_diff_ids_is_not() {
        let manifest = |layers: usize| {
            let layer: Descriptor = serde_json::from_value(descriptor("l", "l")).expect("layer");
            Manifest {
                config: layer.clone(),
                layers: vec![layer; layers],
            }
        };
        let text = br#"{"architecture":"amd64","config":{"Env":null,"Cmd":["sh"],"User":"7"},"rootfs":{"type":"layers","diff_ids":[]}}"#;
        let config = ConfigFile::parse(&manifest(0), text).expect("configuration");
        assert_eq!(
            (config.run.cmd.as_slice(), config.run.user.as_str()),
            (["sh".to_owned()].as_slice(), "7")
        );
        assert!(ConfigFile::parse(&manifest(1), text).is_err());
    }

    #[test]
    fn layers_that_cannot_become_a_root_filesystem_are_refused() {
        let layer = |media_type: &str| {
            serde_json::from_value::<Descriptor>(descriptor(media_type, "l")).expect("layer")
        };
        let zstd = layer("application/vnd.docker.image.rootfs.diff.tar.zstd");
        assert!(matches!(layer_media_type(&zstd), Ok(t) if t.ends_with("v1.tar+zstd")));
        for other in [
            "application/vnd.oci.image.layer.v1.tar+gzip+encrypted",
            "application/vnd.wasm.content.layer.v1+wasm",
        ] {
            assert!(layer_media_type(&layer(other)).is_err(), "{other}");
        }
    }
}

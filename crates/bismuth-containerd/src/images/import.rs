//! Imports images from files: OCI layouts and docker archives.
//!
//! ```text
//!   OCI layout     index.json ─► manifests with names ─► blobs/sha256/…
//!   docker save    manifest.json ─► configuration, layer tars, names ─► a manifest is made for them
//!        └──► documents and blobs into the content store (digest and size checked) ─► unpack ─► keep
//! ```
//!
//! Formats: OCI image layout specification; moby `image/spec/spec.md` ("Combined Image JSON + Filesystem Changeset Format").

use std::collections::{BTreeMap, HashMap};
use std::path::Path;

use oci_spec::distribution::{ParseError, Reference};
use serde::Deserialize;
use tokio::io::{AsyncRead, AsyncReadExt as _};

use super::PreparedImage;
use super::archive::Archive;
use super::content::{CHUNK, ContentStore, Opened};
use super::digest::{Digest, Hasher};
use super::error::Result;
use super::inner::{StoreInner, image_lock};
use super::manifest::{
    CONFIG_MAX_BYTES, ConfigFile, DOCKER_CONFIG, DOCKER_LAYER_TAR, DOCKER_MANIFEST, Descriptor,
    Document, MANIFEST_MAX_BYTES, Manifest, choose,
};
use super::prepare::{ImageDocuments, image_manifest, root_descriptor};

/// Where Docker and containerd put an image's full name in an OCI layout.
const FULL_NAME: &str = "io.containerd.image.name";
/// Where the specification puts the name, which most tools fill with the tag alone.
const REF_NAME: &str = "org.opencontainers.image.ref.name";

/// One image of an archive, with its documents at hand.
struct Importable {
    name: Reference,
    root: Descriptor,
    /// The index and the manifest, or the manifest alone.
    documents: Vec<(Digest, Vec<u8>)>,
    manifest_digest: Digest,
    manifest: Manifest,
    /// The archive's entries for blobs that are not where an OCI layout has them.
    entries: HashMap<Digest, String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct SavedImage {
    config: String,
    #[serde(default)]
    repo_tags: Option<Vec<String>>,
    #[serde(default)]
    layers: Vec<String>,
}

impl StoreInner {
    pub(super) async fn import(
        &self,
        path: &Path,
        name: Option<&Reference>,
    ) -> Result<Vec<PreparedImage>> {
        self.containerd.ensure_namespace().await?;
        let archive = Archive::open(path).await?;
        let images = if let Some(index) = archive.read("index.json", MANIFEST_MAX_BYTES).await? {
            self.read_layout(&archive, &index, name).await?
        } else if let Some(saved) = archive.read("manifest.json", MANIFEST_MAX_BYTES).await? {
            read_saved(&archive, &saved, name).await?
        } else {
            return Err(archive
                .error("neither an OCI layout (index.json) nor a docker archive (manifest.json)"));
        };
        let mut prepared = Vec::with_capacity(images.len());
        for image in images {
            prepared.push(self.import_image(&archive, image).await?);
        }
        Ok(prepared)
    }

    async fn read_layout(
        &self,
        archive: &Archive,
        index: &[u8],
        name: Option<&Reference>,
    ) -> Result<Vec<Importable>> {
        let Document::Index(manifests) = Document::parse(&Digest::of(index), index)?.0 else {
            return Err(archive.error("index.json is not an index"));
        };
        let named = names(archive, &manifests, name)?;
        let mut images = Vec::with_capacity(named.len());
        for (name, root) in named {
            images.push(self.read_layout_image(archive, name, root).await?);
        }
        Ok(images)
    }

    async fn read_layout_image(
        &self,
        archive: &Archive,
        name: Reference,
        root: &Descriptor,
    ) -> Result<Importable> {
        let data = read_document(archive, &root.digest).await?;
        let (document, media_type) = Document::parse(&root.digest, &data)?;
        let root = root_descriptor(&root.digest, media_type, &data);
        let mut documents = vec![(root.digest.clone(), data)];
        let (manifest_digest, manifest) = match document {
            Document::Image(manifest) => (root.digest.clone(), manifest),
            Document::Index(manifests) => {
                let chosen = choose(&name.whole(), &manifests, &self.config.platform)?;
                let data = read_document(archive, &chosen.digest).await?;
                let manifest = image_manifest(&chosen.digest, &data)?;
                documents.push((chosen.digest.clone(), data));
                (chosen.digest.clone(), manifest)
            }
        };
        Ok(Importable {
            name,
            root,
            documents,
            manifest_digest,
            manifest,
            entries: HashMap::new(),
        })
    }

    async fn import_image(&self, archive: &Archive, image: Importable) -> Result<PreparedImage> {
        let digest = image.root.digest.clone();
        let _lock = self.locks.lock(&image_lock(&digest)).await;
        let lease = self
            .leases
            .create_for_pull(&digest, self.pull_lease_life())
            .await?;
        let imported = self.import_under(&lease, archive, image).await;
        // What an import left unfinished is not worth keeping: the file is still there.
        let released = self.leases.delete_pulls(&digest, imported.is_err()).await;
        let prepared = imported?;
        released?;
        tracing::info!(image = %prepared.reference, %digest, "imported");
        Ok(prepared)
    }

    async fn import_under(
        &self,
        lease: &str,
        archive: &Archive,
        image: Importable,
    ) -> Result<PreparedImage> {
        let content = ContentStore::new(self.containerd.with_lease(lease)?);
        for (digest, data) in &image.documents {
            let labels = Document::parse(digest, data)?.0.gc_labels();
            content.put(digest, data, labels).await?;
        }
        let blobs = std::iter::once(&image.manifest.config).chain(&image.manifest.layers);
        for blob in blobs {
            let _lock = self.locks.lock(&format!("blob {}", blob.digest)).await;
            self.leases.add_content(lease, &blob.digest).await?;
            if content.info(&blob.digest).await?.is_none() {
                import_blob(archive, &content, blob, image.entries.get(&blob.digest)).await?;
            }
        }
        let config = content
            .read(&image.manifest.config.digest, CONFIG_MAX_BYTES)
            .await?;
        let config = ConfigFile::parse(
            &image.manifest,
            &config.ok_or_else(|| archive.error("its configuration is gone"))?,
        )?;
        let documents = ImageDocuments {
            root: image.root,
            manifest_digest: image.manifest_digest,
            manifest: image.manifest,
            config,
        };
        let chain = documents.config.chain_ids();
        for position in 0..chain.len() {
            self.unpack_layer(lease, &documents, &chain, position)
                .await?;
        }
        self.retain(&image.name, &documents).await
    }
}

/// Which of a layout's manifests are to be imported under which names.
fn names<'a>(
    archive: &Archive,
    manifests: &'a [Descriptor],
    name: Option<&Reference>,
) -> Result<Vec<(Reference, &'a Descriptor)>> {
    if let Some(name) = name {
        return match manifests {
            [only] => Ok(vec![(name.clone(), only)]),
            _ => Err(archive.error(format!(
                "a name was given, but it holds {} images",
                manifests.len()
            ))),
        };
    }
    let named = manifests.iter().map(|manifest| {
        let full = manifest.annotations.get(FULL_NAME);
        // A tag alone names no image; a name with a path or a tag does.
        let short = manifest
            .annotations
            .get(REF_NAME)
            .filter(|text| text.contains(['/', ':']));
        let text = full
            .or(short)
            .ok_or_else(|| archive.error("it does not say its image's name; give one"))?;
        Ok((parse_name(archive, text)?, manifest))
    });
    named.collect()
}

fn parse_name(archive: &Archive, text: &str) -> Result<Reference> {
    let refused = |error: ParseError| archive.error(format!("{text:?} is no image name: {error}"));
    let name: Reference = text.parse().map_err(refused)?;
    // What is no name any more with Docker's defaults, such as `Upper/a`, nobody could ask for.
    name.whole().parse::<Reference>().map_err(refused)?;
    Ok(name)
}

fn blob_entry(digest: &Digest) -> String {
    format!("blobs/{}", digest.as_str().replacen(':', "/", 1))
}

async fn read_document(archive: &Archive, digest: &Digest) -> Result<Vec<u8>> {
    let entry = blob_entry(digest);
    let data = archive.read(&entry, MANIFEST_MAX_BYTES).await?;
    let data = data.ok_or_else(|| archive.error(format!("{entry} is missing")))?;
    digest.check(&archive.name(), digest.same_of(&data))?;
    Ok(data)
}

async fn import_blob(
    archive: &Archive,
    content: &ContentStore,
    blob: &Descriptor,
    entry: Option<&String>,
) -> Result<()> {
    let entry = entry.cloned().unwrap_or_else(|| blob_entry(&blob.digest));
    let Some((mut reader, size)) = archive.entry(&entry).await? else {
        return Err(archive.error(format!("{entry} is missing")));
    };
    if size != blob.size {
        return Err(archive.error(format!(
            "{entry} has {size} bytes where its descriptor says {}",
            blob.size
        )));
    }
    let Opened::Ingest(mut ingest) = content.open(&blob.digest, size).await? else {
        return Ok(());
    };
    ingest.restart();
    let mut hasher = Hasher::like(&blob.digest);
    while let Some(chunk) = next_chunk(archive, &mut reader).await? {
        hasher.update(&chunk);
        ingest.write(chunk).await?;
    }
    if let Err(mismatch) = blob.digest.check(&archive.name(), hasher.finish()) {
        ingest.discard().await?;
        return Err(mismatch);
    }
    ingest.commit(HashMap::new()).await?;
    Ok(())
}

/// The next mebibyte, or less at the end; `None` after it.
async fn next_chunk(
    archive: &Archive,
    reader: &mut (impl AsyncRead + Unpin),
) -> Result<Option<Vec<u8>>> {
    let mut chunk = Vec::with_capacity(CHUNK);
    let read = reader.take(CHUNK as u64).read_to_end(&mut chunk).await;
    read.map_err(|error| archive.read_failed(error))?;
    Ok(Some(chunk).filter(|chunk| !chunk.is_empty()))
}

/// Reads what `docker save` (or `skopeo copy docker-archive:`) wrote: it has no manifest in the registry's sense, so one is
/// made, as a push of the image would make it for uncompressed layers.
async fn read_saved(
    archive: &Archive,
    saved: &[u8],
    name: Option<&Reference>,
) -> Result<Vec<Importable>> {
    let saved: Vec<SavedImage> = serde_json::from_slice(saved)
        .map_err(|error| archive.error(format!("manifest.json: {error}")))?;
    if name.is_some() && saved.len() != 1 {
        return Err(archive.error(format!(
            "a name was given, but it holds {} images",
            saved.len()
        )));
    }
    let mut images = Vec::new();
    for image in saved {
        let names = match name {
            Some(name) => vec![name.clone()],
            None => {
                let tags = image.repo_tags.clone().unwrap_or_default();
                tags.iter()
                    .map(|tag| parse_name(archive, tag))
                    .collect::<Result<Vec<_>>>()?
            }
        };
        if names.is_empty() {
            return Err(archive.error("it does not say its image's name; give one"));
        }
        for name in names {
            images.push(read_saved_image(archive, &image, name).await?);
        }
    }
    Ok(images)
}

async fn read_saved_image(
    archive: &Archive,
    image: &SavedImage,
    name: Reference,
) -> Result<Importable> {
    let mut entries = HashMap::new();
    let mut descriptor_of = async |entry: &String, media_type: &str| {
        let Some((mut reader, size)) = archive.entry(entry).await? else {
            return Err(archive.error(format!("{entry} is missing")));
        };
        let mut hasher = Hasher::sha256();
        while let Some(chunk) = next_chunk(archive, &mut reader).await? {
            hasher.update(&chunk);
        }
        let digest = hasher.finish();
        entries.insert(digest.clone(), entry.clone());
        Ok(Descriptor {
            media_type: media_type.to_owned(),
            digest,
            size,
            platform: None,
            annotations: BTreeMap::new(),
        })
    };
    let config = descriptor_of(&image.config, DOCKER_CONFIG).await?;
    let mut layers = Vec::with_capacity(image.layers.len());
    for layer in &image.layers {
        layers.push(descriptor_of(layer, DOCKER_LAYER_TAR).await?);
    }
    let document = serde_json::json!({"schemaVersion": 2, "mediaType": DOCKER_MANIFEST, "config": &config, "layers": &layers});
    let data = document.to_string().into_bytes();
    let digest = Digest::of(&data);
    Ok(Importable {
        name,
        root: root_descriptor(&digest, DOCKER_MANIFEST.to_owned(), &data),
        documents: vec![(digest.clone(), data)],
        manifest_digest: digest,
        manifest: Manifest { config, layers },
        entries,
    })
}

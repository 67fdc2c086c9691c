//! containerd's image records, which map names to digests: what `ctr images ls` shows.

use std::collections::HashMap;
use std::time::SystemTime;

use containerd_client::services::v1::images_client::ImagesClient;
use containerd_client::services::v1::{
    CreateImageRequest, DeleteImageRequest, GetImageRequest, Image, ListImagesRequest,
    UpdateImageRequest,
};
use containerd_client::types;

use super::digest::Digest;
use super::error::Result;
use super::leases::created;
use super::manifest::Descriptor;
use crate::client::CallClass::Quick;
use crate::client::Containerd;
use crate::error::{unless_exists, unless_missing};

/// A name and what it stands for.
#[derive(Debug, Clone)]
pub(crate) struct Record {
    pub name: String,
    pub digest: Digest,
    pub created: Option<SystemTime>,
}

/// The image records of one containerd namespace.
#[derive(Clone)]
pub(crate) struct Records {
    containerd: Containerd,
}

impl Records {
    pub fn new(containerd: Containerd) -> Self {
        Self { containerd }
    }

    fn client(&self) -> ImagesClient<crate::client::NamespacedChannel> {
        ImagesClient::new(self.containerd.channel())
            .max_decoding_message_size(crate::client::MAX_MESSAGE)
    }

    /// What `name` stands for, or `None`.
    pub async fn get(&self, name: &str) -> Result<Option<Digest>> {
        let mut client = self.client();
        let request = GetImageRequest {
            name: name.to_owned(),
        };
        let get = self
            .containerd
            .call(Quick, "look up image", name, client.get(request));
        let image = unless_missing(get.await)?.and_then(|answer| answer.image);
        Ok(image.and_then(record).map(|record| record.digest))
    }

    /// Makes `name` stand for `target`, whatever it stood for before.
    pub async fn put(&self, name: &str, target: &Descriptor) -> Result<()> {
        let image = Image {
            name: name.to_owned(),
            target: Some(types::Descriptor {
                media_type: target.media_type.clone(),
                digest: target.digest.to_string(),
                size: target.size as i64,
                annotations: HashMap::new(),
            }),
            ..Image::default()
        };
        let mut client = self.client();
        let create = CreateImageRequest {
            image: Some(image.clone()),
            ..CreateImageRequest::default()
        };
        let create = self
            .containerd
            .call(Quick, "create image", name, client.create(create));
        if unless_exists(create.await)?.is_some() {
            return Ok(());
        }
        let update = UpdateImageRequest {
            image: Some(image),
            update_mask: Some(prost_types::FieldMask {
                paths: vec!["target".to_owned()],
            }),
            ..UpdateImageRequest::default()
        };
        self.containerd
            .call(Quick, "update image", name, client.update(update))
            .await?;
        Ok(())
    }

    /// Deletes a name; one that is gone is fine. Its content goes with the next collection, unless something else keeps it.
    pub async fn delete(&self, name: &str) -> Result<()> {
        let mut client = self.client();
        let request = DeleteImageRequest {
            name: name.to_owned(),
            ..DeleteImageRequest::default()
        };
        let delete = self
            .containerd
            .call(Quick, "delete image", name, client.delete(request));
        unless_missing(delete.await)?;
        Ok(())
    }

    /// Every record.
    pub async fn list(&self) -> Result<Vec<Record>> {
        let mut client = self.client();
        let list = client.list(ListImagesRequest::default());
        let namespace = self.containerd.namespace();
        let list = self
            .containerd
            .call(Quick, "list images of", namespace, list);
        let answer = list.await?;
        Ok(answer.images.into_iter().filter_map(record).collect())
    }
}

/// A record without a readable target is one that nothing can be made of.
fn record(image: Image) -> Option<Record> {
    Some(Record {
        digest: Digest::parse(&image.target?.digest).ok()?,
        created: created(image.created_at),
        name: image.name,
    })
}

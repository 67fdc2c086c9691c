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
use super::manifest::Descriptor;
use crate::client::{CallClass, Containerd};

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
        match self
            .containerd
            .call(CallClass::Quick, "look up image", name, client.get(request))
            .await
        {
            Ok(answer) => Ok(answer.image.and_then(record).map(|record| record.digest)),
            Err(error) if error.is_not_found() => Ok(None),
            Err(error) => Err(error.into()),
        }
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
        match self
            .containerd
            .call(
                CallClass::Quick,
                "create image",
                name,
                client.create(create),
            )
            .await
        {
            Ok(_) => return Ok(()),
            Err(error) if error.is_already_exists() => {}
            Err(error) => return Err(error.into()),
        }
        let update = UpdateImageRequest {
            image: Some(image),
            update_mask: Some(prost_types::FieldMask {
                paths: vec!["target".to_owned()],
            }),
            ..UpdateImageRequest::default()
        };
        self.containerd
            .call(
                CallClass::Quick,
                "update image",
                name,
                client.update(update),
            )
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
        match self
            .containerd
            .call(
                CallClass::Quick,
                "delete image",
                name,
                client.delete(request),
            )
            .await
        {
            Ok(()) => Ok(()),
            Err(error) if error.is_not_found() => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// Every record.
    pub async fn list(&self) -> Result<Vec<Record>> {
        let mut client = self.client();
        let list = client.list(ListImagesRequest::default());
        let answer = self
            .containerd
            .call(
                CallClass::Quick,
                "list images of",
                self.containerd.namespace(),
                list,
            )
            .await?;
        Ok(answer.images.into_iter().filter_map(record).collect())
    }
}

/// A record without a readable target is one that nothing can be made of.
fn record(image: Image) -> Option<Record> {
    Some(Record {
        digest: Digest::parse(&image.target?.digest).ok()?,
        created: image
            .created_at
            .and_then(|at| SystemTime::try_from(at).ok()),
        name: image.name,
    })
}

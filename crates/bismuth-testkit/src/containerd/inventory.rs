//! Lists what a containerd has, in every namespace.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, Result};
use containerd_client::services::v1 as api;
use containerd_client::services::v1::snapshots as snapshot_api;
use containerd_client::tonic::metadata::MetadataValue;
use containerd_client::tonic::transport::Channel;
use containerd_client::tonic::{Code, Request, Status, Streaming};
use containerd_client::types::v1::Status as TaskStatus;

use super::Containerd;

/// The snapshotter that bismuthd uses.
const SNAPSHOTTER: &str = "overlayfs";

/// Kind of thing → `namespace/name` of each.
pub type Inventory = BTreeMap<&'static str, BTreeSet<String>>;

impl Containerd {
    /// Lists containers, tasks, snapshots, leases, images and content of every namespace.
    ///
    /// # Errors
    ///
    /// When containerd is down or refuses.
    pub async fn inventory(&self) -> Result<Inventory> {
        let channel = self.connect().await?;
        let mut client = api::namespaces_client::NamespacesClient::new(channel.clone());
        let namespaces = client
            .list(api::ListNamespacesRequest::default())
            .await
            .context("list namespaces")?;
        let mut inventory = Inventory::new();
        for namespace in namespaces.into_inner().namespaces {
            let names = Lister {
                channel: channel.clone(),
                namespace: namespace.name,
            };
            for (kind, name) in names.everything().await? {
                inventory
                    .entry(kind)
                    .or_default()
                    .insert(format!("{}/{name}", names.namespace));
            }
        }
        Ok(inventory)
    }
}

impl Containerd {
    /// The running tasks of a namespace: container id → process id on this machine.
    ///
    /// # Errors
    ///
    /// When containerd is down or refuses.
    pub async fn tasks(&self, namespace: &str) -> Result<BTreeMap<String, u32>> {
        let lister = Lister {
            channel: self.connect().await?,
            namespace: namespace.to_owned(),
        };
        let mut client = api::tasks_client::TasksClient::new(lister.channel.clone());
        let request = lister.request(api::ListTasksRequest::default())?;
        let tasks = client.list(request).await.context("list tasks")?;
        let running = tasks.into_inner().tasks.into_iter();
        Ok(running
            .filter(|task| task.status() == TaskStatus::Running)
            .map(|task| (task.id, task.pid))
            .collect())
    }
}

struct Lister {
    channel: Channel,
    namespace: String,
}

impl Lister {
    async fn everything(&self) -> Result<Vec<(&'static str, String)>> {
        let kinds = [
            (
                "container",
                self.containers().await.context("list containers")?,
            ),
            ("task", self.tasks().await.context("list tasks")?),
            (
                "snapshot",
                self.snapshots().await.context("list snapshots")?,
            ),
            ("lease", self.leases().await.context("list leases")?),
            ("image", self.images().await.context("list images")?),
            ("content", self.content().await.context("list content")?),
        ];
        Ok(kinds
            .into_iter()
            .flat_map(|(kind, names)| names.into_iter().map(move |name| (kind, name)))
            .collect())
    }

    async fn containers(&self) -> Result<Vec<String>> {
        let mut client = api::containers_client::ContainersClient::new(self.channel.clone());
        let answer = client
            .list(self.request(api::ListContainersRequest::default())?)
            .await?;
        Ok(answer
            .into_inner()
            .containers
            .into_iter()
            .map(|container| container.id)
            .collect())
    }

    async fn tasks(&self) -> Result<Vec<String>> {
        let mut client = api::tasks_client::TasksClient::new(self.channel.clone());
        let answer = client
            .list(self.request(api::ListTasksRequest::default())?)
            .await?;
        Ok(answer
            .into_inner()
            .tasks
            .into_iter()
            .map(|task| task.id)
            .collect())
    }

    async fn snapshots(&self) -> Result<Vec<String>> {
        let mut client = snapshot_api::snapshots_client::SnapshotsClient::new(self.channel.clone());
        let request = snapshot_api::ListSnapshotsRequest {
            snapshotter: SNAPSHOTTER.into(),
            filters: Vec::new(),
        };
        let pages = all(client.list(self.request(request)?).await?.into_inner()).await?;
        Ok(pages
            .into_iter()
            .flat_map(|page| page.info)
            .map(|snapshot| snapshot.name)
            .collect())
    }

    async fn leases(&self) -> Result<Vec<String>> {
        let mut client = api::leases_client::LeasesClient::new(self.channel.clone());
        let answer = client
            .list(self.request(api::ListRequest::default())?)
            .await?;
        Ok(answer
            .into_inner()
            .leases
            .into_iter()
            .map(|lease| lease.id)
            .collect())
    }

    async fn images(&self) -> Result<Vec<String>> {
        let mut client = api::images_client::ImagesClient::new(self.channel.clone());
        let answer = client
            .list(self.request(api::ListImagesRequest::default())?)
            .await?;
        Ok(answer
            .into_inner()
            .images
            .into_iter()
            .map(|image| image.name)
            .collect())
    }

    async fn content(&self) -> Result<Vec<String>> {
        let mut client = api::content_client::ContentClient::new(self.channel.clone());
        let pages = all(client
            .list(self.request(api::ListContentRequest::default())?)
            .await?
            .into_inner())
        .await?;
        Ok(pages
            .into_iter()
            .flat_map(|page| page.info)
            .map(|blob| blob.digest)
            .collect())
    }

    /// containerd reads the namespace of a call from this header.
    fn request<T>(&self, message: T) -> Result<Request<T>> {
        let mut request = Request::new(message);
        let namespace = MetadataValue::try_from(&self.namespace).context("a namespace's name")?;
        request
            .metadata_mut()
            .insert("containerd-namespace", namespace);
        Ok(request)
    }
}

async fn all<T>(mut stream: Streaming<T>) -> Result<Vec<T>> {
    let mut messages = Vec::new();
    loop {
        match stream.message().await {
            Ok(Some(message)) => messages.push(message),
            Ok(None) => return Ok(messages),
            // The namespace's metadata is made with its first object.
            Err(status) if is_empty_namespace(&status) => return Ok(messages),
            Err(status) => return Err(status.into()),
        }
    }
}

fn is_empty_namespace(status: &Status) -> bool {
    status.code() == Code::NotFound
}

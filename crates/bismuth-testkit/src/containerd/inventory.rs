//! Lists what a containerd has, in every namespace.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, Result};
use containerd_client::services::v1 as api;
use containerd_client::services::v1::snapshots as snapshot_api;
use containerd_client::tonic::metadata::MetadataValue;
use containerd_client::tonic::transport::Channel;
use containerd_client::tonic::{Code, Request, Response, Status, Streaming};
use containerd_client::types::v1::{Process, Status as TaskStatus};

use super::Containerd;

/// The snapshotter that bismuthd uses.
const SNAPSHOTTER: &str = "overlayfs";

/// Kind of thing → `namespace/name` of each.
pub type Inventory = BTreeMap<&'static str, BTreeSet<String>>;

impl Containerd {
    /// Lists containers, tasks, snapshots, leases, images and content of every namespace.
    /// Fails when containerd is down or refuses.
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
    pub async fn tasks(&self, namespace: &str) -> Result<BTreeMap<String, u32>> {
        let lister = Lister {
            channel: self.connect().await?,
            namespace: namespace.to_owned(),
        };
        let tasks = lister.tasks().await.context("list tasks")?.into_iter();
        let running = tasks.filter(|task| task.status() == TaskStatus::Running);
        Ok(running.map(|task| (task.id, task.pid)).collect())
    }
}

struct Lister {
    channel: Channel,
    namespace: String,
}

impl Lister {
    /// Kind and name of each thing.
    async fn everything(&self) -> Result<Vec<(&'static str, String)>> {
        use api::containers_client::ContainersClient;
        use api::content_client::ContentClient;
        use api::images_client::ImagesClient;
        use api::leases_client::LeasesClient;
        use snapshot_api::snapshots_client::SnapshotsClient;

        let mut all = Vec::new();
        let request = self.request(api::ListContainersRequest::default())?;
        let mut client = ContainersClient::new(self.channel.clone());
        let listed = client.list(request).await;
        let listed = listed.context("list containers")?.into_inner();
        all.extend(listed.containers.into_iter().map(|it| ("container", it.id)));

        let listed = self.tasks().await.context("list tasks")?;
        all.extend(listed.into_iter().map(|it| ("task", it.id)));

        let request = self.request(snapshot_api::ListSnapshotsRequest {
            snapshotter: SNAPSHOTTER.into(),
            filters: Vec::new(),
        })?;
        let mut client = SnapshotsClient::new(self.channel.clone());
        let listed = client.list(request).await;
        let pages = all_pages(listed).await.context("list snapshots")?;
        let snapshots = pages.into_iter().flat_map(|page| page.info);
        all.extend(snapshots.map(|it| ("snapshot", it.name)));

        let request = self.request(api::ListRequest::default())?;
        let mut client = LeasesClient::new(self.channel.clone());
        let listed = client.list(request).await;
        let listed = listed.context("list leases")?.into_inner();
        all.extend(listed.leases.into_iter().map(|it| ("lease", it.id)));

        let request = self.request(api::ListImagesRequest::default())?;
        let mut client = ImagesClient::new(self.channel.clone());
        let listed = client.list(request).await;
        let listed = listed.context("list images")?.into_inner();
        all.extend(listed.images.into_iter().map(|it| ("image", it.name)));

        let request = self.request(api::ListContentRequest::default())?;
        let mut client = ContentClient::new(self.channel.clone());
        let listed = client.list(request).await;
        let pages = all_pages(listed).await.context("list content")?;
        let content = pages.into_iter().flat_map(|page| page.info);
        all.extend(content.map(|it| ("content", it.digest)));
        Ok(all)
    }

    async fn tasks(&self) -> Result<Vec<Process>> {
        let request = self.request(api::ListTasksRequest::default())?;
        let mut client = api::tasks_client::TasksClient::new(self.channel.clone());
        Ok(client.list(request).await?.into_inner().tasks)
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

/// All messages of an answer.
async fn all_pages<T>(answer: Result<Response<Streaming<T>>, Status>) -> Result<Vec<T>> {
    let mut stream = answer?.into_inner();
    let mut messages = Vec::new();
    loop {
        match stream.message().await {
            Ok(Some(message)) => messages.push(message),
            Ok(None) => return Ok(messages),
            // The namespace's metadata is made with its first object.
            Err(status) if status.code() == Code::NotFound => return Ok(messages),
            Err(status) => return Err(status.into()),
        }
    }
}

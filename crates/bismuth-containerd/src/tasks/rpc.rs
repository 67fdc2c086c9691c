//! Implements [`Tasks`] with containerd's containers and tasks services.

use std::path::Path;

use async_trait::async_trait;
use containerd_client::services::v1::container::Runtime;
use containerd_client::services::v1::containers_client::ContainersClient;
use containerd_client::services::v1::tasks_client::TasksClient;
use containerd_client::services::v1::{
    Container, CreateContainerRequest, CreateTaskRequest, DeleteContainerRequest,
    DeleteTaskRequest, KillRequest, ListContainersRequest, ListTasksRequest, StartRequest,
    WaitRequest,
};
use containerd_client::types::v1::{Process, Status as WireStatus};
use prost_types::{Any, Timestamp};

use super::runtime::{RUNTIME, options};
use super::{
    ContainerInfo, Exit, NewContainer, Stdio, TaskInfo, TaskStatus, Tasks, TeardownError,
    shim_socket, teardown,
};
use crate::client::CallClass::{Create, Quick};
use crate::client::{Containerd, MAX_MESSAGE, NamespacedChannel, ServerProcess};
use crate::error::{Error, Result};
use crate::events::{TaskEvents, system_time};

/// The type URL under which containerd knows runtime specs (containerd `oci/spec.go`, registered with `typeurl`).
const SPEC_TYPE_URL: &str = "types.containerd.io/opencontainers/runtime-spec/1/Spec";

impl Containerd {
    fn containers(&self) -> ContainersClient<NamespacedChannel> {
        ContainersClient::new(self.channel()).max_decoding_message_size(MAX_MESSAGE)
    }

    fn tasks(&self) -> TasksClient<NamespacedChannel> {
        TasksClient::new(self.channel()).max_decoding_message_size(MAX_MESSAGE)
    }
}

#[async_trait]
impl Tasks for Containerd {
    async fn create_container(&self, container: NewContainer) -> Result<()> {
        self.ensure_namespace().await?;
        let id = container.id.clone();
        let request = CreateContainerRequest {
            container: Some(record(container)?),
        };
        let mut client = self.containers();
        let create = client.create(request);
        self.call(Quick, "create container", &id, create).await?;
        Ok(())
    }

    async fn create_task(&self, id: &str, stdio: Stdio) -> Result<u32> {
        let request = CreateTaskRequest {
            container_id: id.to_owned(),
            stdout: stdio.stdout.as_deref().map(text).unwrap_or_default(),
            stderr: stdio.stderr.as_deref().map(text).unwrap_or_default(),
            ..CreateTaskRequest::default()
        };
        let mut client = self.tasks();
        let created = self
            .call(Create, "create task", id, client.create(request))
            .await?;
        Ok(created.pid)
    }

    async fn start(&self, id: &str) -> Result<()> {
        let request = StartRequest {
            container_id: id.to_owned(),
            ..StartRequest::default()
        };
        let mut client = self.tasks();
        self.call(Create, "start task", id, client.start(request))
            .await?;
        Ok(())
    }

    async fn kill(&self, id: &str, signal: u32, all: bool) -> Result<()> {
        let request = KillRequest {
            container_id: id.to_owned(),
            signal,
            all,
            ..KillRequest::default()
        };
        let mut client = self.tasks();
        // Runs the OCI runtime, hence not quick.
        self.call(Create, "kill task", id, client.kill(request))
            .await?;
        Ok(())
    }

    async fn wait(&self, id: &str) -> Result<Exit> {
        let request = WaitRequest {
            container_id: id.to_owned(),
            ..WaitRequest::default()
        };
        let mut client = self.tasks();
        let waited = self
            .call(Create, "wait for task", id, client.wait(request))
            .await?;
        Ok(exit(waited.exit_status, waited.exited_at))
    }

    async fn delete_task(&self, id: &str) -> Result<Exit> {
        let request = DeleteTaskRequest {
            container_id: id.to_owned(),
        };
        let mut client = self.tasks();
        let deleted = self
            .call(Create, "delete task", id, client.delete(request))
            .await?;
        Ok(exit(deleted.exit_status, deleted.exited_at))
    }

    async fn delete_container(&self, id: &str) -> Result<()> {
        let request = DeleteContainerRequest { id: id.to_owned() };
        let mut client = self.containers();
        let delete = client.delete(request);
        self.call(Quick, "delete container", id, delete).await?;
        Ok(())
    }

    async fn list_containers(&self) -> Result<Vec<ContainerInfo>> {
        // Streamed: the records carry their specs, and some hundreds of them would not fit into one message.
        let mut client = self.containers();
        let read = async {
            let request = ListContainersRequest::default();
            let mut stream = client.list_stream(request).await?.into_inner();
            let mut containers = Vec::new();
            while let Some(message) = stream.message().await? {
                containers.extend(message.container.map(container_info));
            }
            Ok(containers)
        };
        self.exchange(Create, "list containers of", self.namespace(), read)
            .await
    }

    async fn list_tasks(&self) -> Result<Vec<TaskInfo>> {
        let mut client = self.tasks();
        let list = client.list(ListTasksRequest::default());
        // Asks every shim, and gives each that hangs two seconds: not quick.
        let listed = self
            .call(Create, "list tasks of", self.namespace(), list)
            .await?;
        Ok(listed.tasks.into_iter().map(task_info).collect())
    }

    async fn server_process(&self) -> Result<ServerProcess> {
        Containerd::server_process(self).await
    }

    fn events(&self) -> TaskEvents {
        self.task_events()
    }

    async fn teardown(&self, id: &str) -> Result<(), TeardownError> {
        teardown::run(self, id).await?;
        shim_socket::remove(self, id).await;
        Ok(())
    }
}

fn record(new: NewContainer) -> Result<Container> {
    let NewContainer {
        id,
        spec,
        image,
        labels,
        runtime,
    } = new;
    let spec = serde_json::to_vec(&spec).map_err(|source| Error::EncodeSpec {
        container: id.clone(),
        source,
    })?;
    Ok(Container {
        id,
        labels,
        image: image.unwrap_or_default(),
        runtime: Some(Runtime {
            name: RUNTIME.to_owned(),
            options: Some(options(runtime)),
        }),
        spec: Some(Any {
            type_url: SPEC_TYPE_URL.to_owned(),
            value: spec,
        }),
        ..Container::default()
    })
}

fn exit(status: u32, at: Option<Timestamp>) -> Exit {
    let at = system_time(at);
    Exit { status, at }
}

fn text(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}

fn container_info(container: Container) -> ContainerInfo {
    ContainerInfo {
        id: container.id,
        labels: container.labels,
    }
}

fn task_info(process: Process) -> TaskInfo {
    let status = match process.status() {
        WireStatus::Unknown => TaskStatus::Unknown,
        WireStatus::Created => TaskStatus::Created,
        WireStatus::Running => TaskStatus::Running,
        WireStatus::Stopped => TaskStatus::Stopped(exit(process.exit_status, process.exited_at)),
        WireStatus::Paused => TaskStatus::Paused,
        WireStatus::Pausing => TaskStatus::Pausing,
    };
    // `container_id` is empty in lists; `id` is the container's, as the tasks listed are first processes.
    TaskInfo {
        id: process.id,
        pid: process.pid,
        status,
    }
}

//! Subscribes to the task events of containerd: exits and out-of-memory kills.
//!
//! ```text
//!            ┌────────────── probe until something arrives ─────────────┐
//!  Closed ───┴─► Subscribing ──► Live ── first item: `Lost` ──► Exit, Oom, Exit … ──► stream breaks ──┐
//!    ▲                                                                                                 │
//!    └───────────────────────────── backoff 10 ms … 1 s ◄──────────────────────────────────────────────┘
//! ```
//!
//! The happy path: the reader polls; the first item is [`TaskEvent::Lost`], which asks it to list; everything that happens
//! after that list began arrives here. Whenever the stream broke and was made again the reader is told `Lost` once more.
//!
//! A gRPC stream says nothing until its first message, so "subscribed" cannot be seen from outside; listing too early would
//! miss an exit between the list and the subscription. Hence the probe: we publish an event under a topic of our own
//! until the stream delivers something, which proves that it is live.
//!
//! Nothing is spawned and nothing buffered here: a reader that does not poll leaves the events with containerd, whose
//! queue per subscriber is unbounded and ordered (containerd `events/exchange/exchange.go`).

use std::time::{Duration, SystemTime};

use bismuth_base::{Backoff, Delays};
use containerd_client::events::{TaskExit, TaskOom};
use containerd_client::services::v1::events_client::EventsClient;
use containerd_client::services::v1::{PublishRequest, SubscribeRequest};
use containerd_client::types::Envelope;
use futures_util::stream::{self, BoxStream, StreamExt};
use prost::Message;
use prost_types::{Any, Timestamp};
use tokio::time::{MissedTickBehavior, interval, sleep};
use tonic::Streaming;

use crate::client::{CallClass, Containerd};
use crate::error::{Error, Result};

/// Topics as the shims publish them (containerd `runtime/events.go`).
const TOPIC_EXIT: &str = "/tasks/exit";
const TOPIC_OOM: &str = "/tasks/oom";
/// Our own topic, which proves that a subscription is live.
const TOPIC_PROBE: &str = "/bismuth/subscribed";
/// What is being done until a subscription is live, for errors.
const SUBSCRIBE: &str = "subscribe to events of";
/// A subscription is usually live before the first probe; when it is not, it is a few milliseconds later.
const PROBE_EVERY: Duration = Duration::from_millis(10);
/// The first attempt after a break comes quickly, because containerd is back in a fraction of a second when it is restarted; the
/// last ones are rare enough not to fill the log of a node whose containerd is gone.
const BACKOFF: Backoff = Backoff::new(Duration::from_millis(10), Duration::from_secs(1));

/// The events of one reader, without end. See the module's text.
pub type TaskEvents = BoxStream<'static, TaskEvent>;

/// Something that happened to a task.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TaskEvent {
    /// The init process of a task ended.
    Exit {
        /// The container's id.
        id: String,
        /// Host pid of the process that ended.
        pid: u32,
        /// Exit code, or 128 plus the signal that killed it.
        status: u32,
        /// When the shim saw it.
        at: SystemTime,
    },
    /// The kernel killed a process of the task because its memory limit was reached.
    Oom {
        /// The container's id.
        id: String,
    },
    /// Events may have been missed up to now, and the stream is live again: list containers and tasks. Always the first item.
    Lost,
}

impl Containerd {
    /// The exits and out-of-memory kills of this namespace's tasks. Reconnects for ever, with backoff.
    pub fn task_events(&self) -> TaskEvents {
        let subscriber = Subscriber {
            containerd: self.clone(),
            state: State::Closed,
            delays: BACKOFF.delays(),
        };
        stream::unfold(subscriber, |mut subscriber| async {
            let event = subscriber.next().await;
            Some((event, subscriber))
        })
        .boxed()
    }
}

struct Subscriber {
    containerd: Containerd,
    state: State,
    delays: Delays,
}

enum State {
    Closed,
    Live(Box<Streaming<Envelope>>),
}

impl Subscriber {
    /// The next event. Safe to cancel: an event is taken from the stream and returned without an await in between, and
    /// a subscription that is dropped half made is made anew and reported as `Lost`.
    async fn next(&mut self) -> TaskEvent {
        loop {
            let State::Live(stream) = &mut self.state else {
                self.reopen().await;
                return TaskEvent::Lost;
            };
            match stream.message().await {
                Ok(Some(envelope)) => {
                    if let Some(event) = decode(envelope) {
                        return event;
                    }
                }
                Ok(None) => self.close("containerd closed the event stream"),
                Err(status) => self.close(&status.to_string()),
            }
        }
    }

    fn close(&mut self, why: &str) {
        tracing::warn!(why, "containerd's event stream broke; subscribing again");
        self.state = State::Closed;
    }

    async fn reopen(&mut self) {
        loop {
            match open(&self.containerd).await {
                Ok(stream) => {
                    self.state = State::Live(Box::new(stream));
                    self.delays.reset();
                    return;
                }
                Err(error) => {
                    let wait = self.delays.next_delay();
                    tracing::debug!(%error, ?wait, "not subscribed to containerd's events yet");
                    sleep(wait).await;
                }
            }
        }
    }
}

/// Subscribes, and returns once the subscription is proven to be live.
async fn open(containerd: &Containerd) -> Result<Streaming<Envelope>> {
    let namespace = containerd.namespace();
    let filter = |topic: &str| format!("namespace==\"{namespace}\",topic==\"{topic}\"");
    let request = SubscribeRequest {
        filters: [TOPIC_EXIT, TOPIC_OOM, TOPIC_PROBE].map(filter).to_vec(),
    };
    let mut client = EventsClient::new(containerd.channel());
    let subscribed = async {
        let mut subscribe = std::pin::pin!(client.subscribe(request));
        let mut probe = interval(PROBE_EVERY);
        probe.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            // Biased: the request to subscribe is on its way before the first probe.
            tokio::select! {
                biased;
                stream = &mut subscribe => {
                    return stream
                        .map(tonic::Response::into_inner)
                        .map_err(|status| Error::from_status(SUBSCRIBE, namespace, status));
                }
                _ = probe.tick() => publish_probe(containerd).await?,
            }
        }
    };
    containerd
        .in_time(CallClass::Quick, SUBSCRIBE, namespace, subscribed)
        .await?
}

async fn publish_probe(containerd: &Containerd) -> Result<()> {
    let request = PublishRequest {
        topic: TOPIC_PROBE.to_owned(),
        // Any registered type would do; containerd 1.6 insists on one.
        event: Some(Any {
            type_url: "containerd.events.TaskOOM".to_owned(),
            value: Vec::new(),
        }),
    };
    let mut client = EventsClient::new(containerd.channel());
    let publish = client.publish(request);
    containerd
        .call(CallClass::Quick, "publish event", TOPIC_PROBE, publish)
        .await?;
    Ok(())
}

/// What an envelope means to us; nothing, if it is our probe or about a process that is not a task's first.
fn decode(envelope: Envelope) -> Option<TaskEvent> {
    let value = envelope.event.map(|event| event.value).unwrap_or_default();
    let decoded = match envelope.topic.as_str() {
        TOPIC_EXIT => TaskExit::decode(value.as_slice()).map(exit),
        TOPIC_OOM => TaskOom::decode(value.as_slice()).map(|oom| {
            Some(TaskEvent::Oom {
                id: oom.container_id,
            })
        }),
        _ => Ok(None),
    };
    decoded.unwrap_or_else(|error| {
        // An event that we cannot read is an event that we missed.
        tracing::error!(topic = envelope.topic, %error, "undecodable event from containerd");
        Some(TaskEvent::Lost)
    })
}

fn exit(exit: TaskExit) -> Option<TaskEvent> {
    // `id` is the exec's id for processes that were added to the task.
    (exit.id == exit.container_id).then(|| TaskEvent::Exit {
        at: system_time(exit.exited_at),
        id: exit.container_id,
        pid: exit.pid,
        status: exit.exit_status,
    })
}

/// A protobuf timestamp as system time; now, if containerd left it out or it is not one.
pub(crate) fn system_time(timestamp: Option<Timestamp>) -> SystemTime {
    timestamp
        .and_then(|timestamp| SystemTime::try_from(timestamp).ok())
        .filter(|at| *at > SystemTime::UNIX_EPOCH)
        .unwrap_or_else(SystemTime::now)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn envelope(topic: &str, event: &impl Message) -> Envelope {
        Envelope {
            topic: topic.to_owned(),
            event: Some(Any {
                type_url: String::new(),
                value: event.encode_to_vec(),
            }),
            ..Envelope::default()
        }
    }

    fn task_exit(id: &str) -> TaskExit {
        TaskExit {
            container_id: "c".to_owned(),
            id: id.to_owned(),
            pid: 7,
            exit_status: 137,
            exited_at: Some(Timestamp {
                seconds: 5,
                nanos: 0,
            }),
        }
    }

    #[test]
    fn the_exit_of_the_first_process_is_an_event_and_that_of_an_exec_is_not() {
        let exit = decode(envelope(TOPIC_EXIT, &task_exit("c")));
        assert_eq!(
            exit,
            Some(TaskEvent::Exit {
                id: "c".to_owned(),
                pid: 7,
                status: 137,
                at: SystemTime::UNIX_EPOCH + Duration::from_secs(5),
            })
        );
        assert_eq!(decode(envelope(TOPIC_EXIT, &task_exit("exec-1"))), None);
    }

    #[test]
    fn an_event_that_cannot_be_read_counts_as_missed() {
        let mut broken = envelope(TOPIC_EXIT, &task_exit("c"));
        broken.event = Some(Any {
            type_url: String::new(),
            value: vec![0xff],
        });
        assert_eq!(decode(broken), Some(TaskEvent::Lost));
        assert_eq!(decode(envelope(TOPIC_PROBE, &TaskOom::default())), None);
    }
}

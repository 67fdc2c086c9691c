//! Signal handling: the first SIGTERM or SIGINT begins the shutdown, the second one ends the process at once.

use tokio::{
    runtime::Builder,
    signal::unix::{Signal, SignalKind, signal},
};

use crate::{Shutdown, exit};

/// Why signals are not listened to.
#[derive(Debug, thiserror::Error)]
pub enum SignalsError {
    /// The kernel refused a handler, or the runtime under it.
    #[error("listen to SIGTERM and SIGINT")]
    Listen(#[source] std::io::Error),
    /// No thread for it.
    #[error("start the thread that listens to signals")]
    Thread(#[source] std::io::Error),
}

/// Triggers `shutdown` at the first SIGTERM or SIGINT and ends the process at the second, with
/// exit code 128 + its number.
///
/// It listens on a thread of its own, because the second signal is for the case in which the
/// other threads hang. Handlers are in place when this returns. The thread lives as long as the
/// process.
///
/// # Errors
/// When the kernel refuses the handlers or the thread.
pub fn signals(shutdown: &Shutdown) -> Result<(), SignalsError> {
    let runtime = Builder::new_current_thread()
        .enable_io()
        .build()
        .map_err(SignalsError::Listen)?;
    let mut listener = {
        let _inside = runtime.enter();
        Listener::new().map_err(SignalsError::Listen)?
    };
    let shutdown = shutdown.clone();
    std::thread::Builder::new()
        .name("signals".to_owned())
        .spawn(move || runtime.block_on(listener.run(&shutdown)))
        .map_err(SignalsError::Thread)?;
    Ok(())
}

struct Listener {
    terminate: Signal,
    interrupt: Signal,
}

impl Listener {
    fn new() -> std::io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
        })
    }

    async fn run(&mut self, shutdown: &Shutdown) {
        let (name, _) = self.next().await;
        tracing::info!(signal = name, "ending; a second signal ends at once");
        shutdown.trigger();
        let (name, kind) = self.next().await;
        tracing::warn!(signal = name, "second signal: ending at once");
        std::process::exit(exit::SIGNAL_BASE + kind.as_raw_value());
    }

    /// Both arms are safe to cancel: a signal that was not received stays pending.
    async fn next(&mut self) -> (&'static str, SignalKind) {
        tokio::select! {
            _ = self.terminate.recv() => ("SIGTERM", SignalKind::terminate()),
            _ = self.interrupt.recv() => ("SIGINT", SignalKind::interrupt()),
        }
    }
}

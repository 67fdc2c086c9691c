//! Progress of a pull: phase, layers and bytes, over a watch channel.

use tokio::sync::watch;

use super::manifest::Descriptor;

/// What is being done for an image.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Phase {
    /// Asking what the name stands for.
    #[default]
    Resolving,
    /// Getting blobs; layers that are complete are unpacked meanwhile.
    Pulling,
    /// All blobs are there, the last layers are being unpacked.
    Unpacking,
    /// The image is ready.
    Ready,
}

/// How far a pull is. `bytes_done` can go back: a transfer may have to begin again.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PullProgress {
    /// What is being done.
    pub phase: Phase,
    /// Layers of the image; 0 until known.
    pub layers: u32,
    /// Layers that are unpacked.
    pub layers_done: u32,
    /// Bytes of compressed layers that are there.
    pub bytes_done: u64,
    /// Bytes of compressed layers in all; 0 until known.
    pub bytes_total: u64,
    /// What is being retried, if something is.
    pub problem: Option<String>,
}

/// The sender of [`PullProgress`]. Nobody needs to listen.
#[derive(Clone)]
pub(crate) struct ProgressReporter {
    sender: watch::Sender<PullProgress>,
}

impl ProgressReporter {
    pub fn new(sender: watch::Sender<PullProgress>) -> Self {
        Self { sender }
    }

    pub fn phase(&self, phase: Phase) {
        self.sender.send_modify(|progress| progress.phase = phase);
    }

    pub fn expect(&self, layers: &[Descriptor]) {
        self.sender.send_modify(|progress| {
            progress.phase = Phase::Pulling;
            progress.layers_done = 0;
            progress.bytes_done = 0;
            progress.layers = u32::try_from(layers.len()).unwrap_or(u32::MAX);
            progress.bytes_total = layers.iter().map(|layer| layer.size).sum();
        });
    }

    /// Updates the part of one blob in the sum from `from` to `to` bytes.
    pub fn update_bytes(&self, from: u64, to: u64) {
        self.sender.send_modify(|progress| {
            progress.bytes_done = (progress.bytes_done + to).saturating_sub(from);
            progress.problem = None;
        });
    }

    pub fn layer_done(&self) {
        self.sender
            .send_modify(|progress| progress.layers_done += 1);
    }

    pub fn problem(&self, text: String) {
        self.sender
            .send_modify(|progress| progress.problem = Some(text));
    }

    pub fn last_problem(&self) -> Option<String> {
        self.sender.borrow().problem.clone()
    }
}

//! `image`: lists, pulls and imports images in this machine's containerd.

use std::io::IsTerminal as _;
use std::time::{Duration, SystemTime};

use bismuth_containerd::images::{
    ImageError, ImageStore, ImageStoreConfig, ImageSummary, Images as _, Phase, PreparedImage,
    PullPolicy, PullProgress, RegistryConfig,
};
use bismuth_containerd::{Containerd, Deadlines};
use bismuth_model::ImageReference;
use serde::Serialize;
use tokio::sync::watch;

use crate::args::{Image, ImageCommand};
use crate::byte_size;
use crate::error::Error;
use crate::output::{Output, table, yes};

/// How often the progress on a terminal is renewed.
const PROGRESS: Duration = Duration::from_millis(200);

#[derive(Serialize)]
struct ImageOutput {
    image: String,
    digest: String,
    manifest_digest: String,
}

#[derive(Serialize)]
struct ImageListEntry<'a> {
    names: &'a [String],
    digest: String,
    content_bytes: u64,
    unpacked_bytes: u64,
    created_ms: Option<u64>,
    last_used_ms: Option<u64>,
    prepared: bool,
    pulled: bool,
}

pub(crate) async fn run(args: Image, output: &mut Output<'_>) -> Result<(), Error> {
    let store = store(&args)?;
    let socket = args.containerd;
    let failed = |error| match error {
        ImageError::Containerd(refusal) => Error::ContainerdCall {
            socket,
            refusal: refusal.to_string(),
        },
        error => Error::Image(error),
    };
    match args.command {
        ImageCommand::Pull { image } => {
            let pulled = pull(&store, &image).await.map_err(failed)?;
            print(&[pulled], output)
        }
        ImageCommand::Import { path, name } => {
            let name = name.as_ref().map(ImageReference::as_reference);
            let imported = store.import(&path, name).await.map_err(failed)?;
            print(&imported, output)
        }
        ImageCommand::List => {
            let images = store.list().await.map_err(failed)?;
            list(&images, output)
        }
    }
}

fn store(args: &Image) -> Result<ImageStore, Error> {
    let containerd = Containerd::connect(
        &args.containerd,
        &args.containerd_namespace,
        Deadlines::default(),
    )?;
    let mut registries = RegistryConfig::default();
    registries.add_mirrors(args.registry_mirror.iter().cloned());
    let config = ImageStoreConfig {
        registries,
        credentials_file: args.registry_config.clone(),
        snapshotter: args.snapshotter.clone(),
        ..ImageStoreConfig::default()
    };
    Ok(ImageStore::new(containerd, config))
}

async fn pull(store: &ImageStore, image: &ImageReference) -> Result<PreparedImage, ImageError> {
    let (sender, progress) = watch::channel(PullProgress::default());
    let pulling = store.ensure(image.as_reference(), PullPolicy::Always, sender);
    if !std::io::stderr().is_terminal() {
        return pulling.await;
    }
    tokio::pin!(pulling);
    let mut tick = tokio::time::interval(PROGRESS);
    let pulled = loop {
        tokio::select! {
            pulled = &mut pulling => break pulled,
            _ = tick.tick() => eprint!("\r\x1b[K{}", progress_line(&progress.borrow())),
        }
    };
    eprint!("\r\x1b[K");
    pulled
}

fn progress_line(progress: &PullProgress) -> String {
    let what = match progress.phase {
        Phase::Resolving => "resolving",
        Phase::Pulling => "pulling",
        Phase::Unpacking => "unpacking",
        Phase::Ready => "ready",
    };
    if progress.bytes_total == 0 {
        return what.to_owned();
    }
    format!(
        "{what} {} of {}, layer {} of {}",
        byte_size::show(progress.bytes_done),
        byte_size::show(progress.bytes_total),
        progress.layers_done,
        progress.layers
    )
}

fn print(images: &[PreparedImage], output: &mut Output<'_>) -> Result<(), Error> {
    let shown: Vec<ImageOutput> = images.iter().map(show).collect();
    output.answer(&shown, || {
        shown
            .iter()
            .map(|image| format!("{}@{}\n", image.image, image.digest))
            .collect()
    })
}

fn show(image: &PreparedImage) -> ImageOutput {
    ImageOutput {
        // Without a digest of its own: that is printed behind it.
        image: image
            .reference
            .whole()
            .split('@')
            .next()
            .unwrap_or_default()
            .to_owned(),
        digest: image.digest.to_string(),
        manifest_digest: image.manifest_digest.to_string(),
    }
}

fn list(images: &[ImageSummary], output: &mut Output<'_>) -> Result<(), Error> {
    let listed: Vec<ImageListEntry<'_>> = images.iter().map(listed).collect();
    output.answer(&listed, || {
        let row = |(name, image): (&str, &ImageListEntry<'_>)| {
            [
                name.to_owned(),
                image.digest.clone(),
                byte_size::show(image.content_bytes),
                byte_size::show(image.unpacked_bytes),
                yes(image.prepared),
                yes(image.pulled),
            ]
        };
        let rows = listed.iter().flat_map(|image| {
            let names = image.names.iter().map(move |name| (name.as_str(), image));
            let nameless = image.names.is_empty().then_some(("-", image));
            names.chain(nameless)
        });
        let header = [
            "IMAGE",
            "DIGEST",
            "COMPRESSED",
            "UNPACKED",
            "READY",
            "PULLED",
        ];
        table(header, rows.map(row))
    })
}

fn listed(image: &ImageSummary) -> ImageListEntry<'_> {
    ImageListEntry {
        names: &image.names,
        digest: image.digest.to_string(),
        content_bytes: image.content_bytes,
        unpacked_bytes: image.unpacked_bytes,
        created_ms: image.created.and_then(millis),
        last_used_ms: image.last_used.and_then(millis),
        prepared: image.prepared,
        pulled: image.pulled,
    }
}

fn millis(time: SystemTime) -> Option<u64> {
    u64::try_from(
        time.duration_since(SystemTime::UNIX_EPOCH)
            .ok()?
            .as_millis(),
    )
    .ok()
}

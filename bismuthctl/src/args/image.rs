//! Command-line arguments of `image`.

use std::path::PathBuf;

use bismuth_containerd::images::RegistryMirror;
use bismuth_model::ImageReference;
use clap::Subcommand;

/// Images on this node; the flags are bismuthd's.
#[derive(Debug, clap::Args)]
pub struct Image {
    #[command(subcommand)]
    pub command: ImageCommand,
    /// Socket of containerd.
    #[arg(
        long,
        env = "BISMUTH_CONTAINERD",
        default_value = "/run/containerd/containerd.sock",
        global = true
    )]
    pub containerd: PathBuf,
    /// Namespace in containerd; one per node.
    #[arg(
        long,
        env = "BISMUTH_CONTAINERD_NAMESPACE",
        default_value = "bismuth",
        global = true
    )]
    pub containerd_namespace: String,
    /// containerd's snapshotter.
    #[arg(
        long,
        env = "BISMUTH_SNAPSHOTTER",
        default_value = "overlayfs",
        global = true
    )]
    pub snapshotter: String,
    /// Where else images of a registry are, such as docker.io=http://127.0.0.1:5000. Repeatable.
    #[arg(
        long,
        env = "BISMUTH_REGISTRY_MIRROR",
        value_delimiter = ',',
        value_name = "REGISTRY=URL",
        global = true
    )]
    pub registry_mirror: Vec<RegistryMirror>,
    /// Credentials for registries, in the form of Docker's config.json.
    #[arg(
        long,
        env = "BISMUTH_REGISTRY_CONFIG",
        value_name = "FILE",
        global = true
    )]
    pub registry_config: Option<PathBuf>,
}

/// What to do with images.
#[derive(Debug, Subcommand)]
pub enum ImageCommand {
    /// Pull an image, whatever its tag stood for before, and print it with its digest.
    Pull {
        /// The image.
        image: ImageReference,
    },
    /// Import an OCI layout (a directory, or a tar of one) or a `docker save` archive, and print its images.
    Import {
        /// The directory or archive.
        path: PathBuf,
        /// The image's name, if the archive gives none or another is wanted.
        #[arg(long, value_name = "IMAGE")]
        name: Option<ImageReference>,
    },
    /// List the images.
    List,
}

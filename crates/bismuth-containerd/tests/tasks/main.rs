//! Containers and tasks on a real containerd.

mod breakage;
mod life;
mod measure;
mod node;

//! bismuth-containerd.

//! Which OCI runtime the shim runs (runc or crun), and with which options.

use std::path::PathBuf;

use prost_types::Any;

/// The shim for OCI runtimes; there since containerd 1.2 and the only one in 2.x.
pub(super) const RUNTIME: &str = "io.containerd.runc.v2";
/// The type URL of [`WireOptions`]: its protobuf name, as containerd's `typeurl` registers it.
const OPTIONS_TYPE_URL: &str = "containerd.runc.v1.Options";

/// Annotation that puts all containers with the same value under one shim process (containerd
/// `runtime/v2/runc/v2/service.go`, `groupLabels`).
///
/// What it buys is the start of one process per cold start: 17 of 67 ms with crun, 34 of 113 with runc (medians of 40 on a
/// busy machine, `tests/tasks/measure.rs`). What it costs is that a shim which crashes or hangs takes all its containers
/// with it, and that deleting the last container of a group races with creating the next: the shim may decide to exit while
/// the newcomer connects. A task that is prepared before it is needed has paid for its shim already, so a shim each is the
/// default, and grouping is for nodes whose containers are many and start cold.
pub const SHIM_GROUP_ANNOTATION: &str = "io.containerd.runc.v2.group";

/// Options of the runc shim.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RuntimeOptions {
    /// The OCI runtime: a name to be found in containerd's `PATH`, or an absolute path.
    pub binary: String,
    /// Where the runtime keeps its state; the shim's default is below `/run/containerd/runc`.
    pub root: Option<PathBuf>,
    /// Whether cgroups are made through systemd, which then wants paths of the form `slice:prefix:name`.
    pub systemd_cgroup: bool,
}

impl RuntimeOptions {
    /// runc, as containerd does by default.
    pub fn runc() -> Self {
        Self::binary("runc")
    }

    /// crun: written in C, starts a container in half of the time. Does not work where cgroup v1 and v2 are mixed.
    pub fn crun() -> Self {
        Self::binary("crun")
    }

    /// A runtime that has runc's command line.
    pub fn binary(binary: impl Into<String>) -> Self {
        Self {
            binary: binary.into(),
            root: None,
            systemd_cgroup: false,
        }
    }

    pub(super) fn to_any(&self) -> Any {
        let options = WireOptions {
            binary_name: self.binary.clone(),
            root: self
                .root
                .as_ref()
                .map(|root| root.to_string_lossy().into_owned())
                .unwrap_or_default(),
            systemd_cgroup: self.systemd_cgroup,
            ..WireOptions::default()
        };
        Any {
            type_url: OPTIONS_TYPE_URL.to_owned(),
            value: prost::Message::encode_to_vec(&options),
        }
    }
}

impl Default for RuntimeOptions {
    fn default() -> Self {
        Self::runc()
    }
}

/// `containerd.runc.v1.Options`, from containerd's `api/types/runc/options/oci.proto` (`runtime/v2/runc/options/oci.proto` in
/// 1.6). Field 8 (`criu_path`) is gone in 2.0; 12 and 13 are not known to 1.6.
#[derive(Clone, PartialEq, Eq, prost::Message)]
struct WireOptions {
    #[prost(bool, tag = "1")]
    no_pivot_root: bool,
    #[prost(bool, tag = "2")]
    no_new_keyring: bool,
    #[prost(string, tag = "3")]
    shim_cgroup: String,
    #[prost(uint32, tag = "4")]
    io_uid: u32,
    #[prost(uint32, tag = "5")]
    io_gid: u32,
    #[prost(string, tag = "6")]
    binary_name: String,
    #[prost(string, tag = "7")]
    root: String,
    #[prost(bool, tag = "9")]
    systemd_cgroup: bool,
    #[prost(string, tag = "10")]
    criu_image_path: String,
    #[prost(string, tag = "11")]
    criu_work_path: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_have_the_bytes_that_the_shim_reads() {
        let any = RuntimeOptions {
            root: Some("/r".into()),
            systemd_cgroup: true,
            ..RuntimeOptions::crun()
        }
        .to_any();
        assert_eq!(any.type_url, "containerd.runc.v1.Options");
        // field 6 "crun", field 7 "/r", field 9 true
        assert_eq!(any.value, b"\x32\x04crun\x3a\x02/r\x48\x01");
    }
}

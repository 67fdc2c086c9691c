//! Which OCI runtime the shim runs (runc or crun), and with which options.

use prost_types::Any;

/// The shim for OCI runtimes; there since containerd 1.2 and the only one in 2.x. Each container has one of its own: sharing it
/// (annotation `io.containerd.runc.v2.group`) would save the start of a process, 17 of 67 ms with crun, but one that crashes or
/// hangs would take all its containers with it.
pub(super) const RUNTIME: &str = "io.containerd.runc.v2";
/// The type URL of [`WireOptions`]: its protobuf name, as containerd's `typeurl` registers it.
const OPTIONS_TYPE_URL: &str = "containerd.runc.v1.Options";

/// Options of the shim: to run `binary`, a name to be found in containerd's `PATH`, or an absolute path.
pub(super) fn options(binary: String) -> Any {
    let options = WireOptions {
        binary_name: binary,
    };
    Any {
        type_url: OPTIONS_TYPE_URL.to_owned(),
        value: prost::Message::encode_to_vec(&options),
    }
}

/// What we set of `containerd.runc.v1.Options`, from containerd's `api/types/runc/options/oci.proto`
/// (`runtime/v2/runc/options/oci.proto` in 1.6).
#[derive(Clone, PartialEq, Eq, prost::Message)]
struct WireOptions {
    #[prost(string, tag = "6")]
    binary_name: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_have_the_bytes_that_the_shim_reads() {
        let any = options("crun".to_owned());
        assert_eq!(any.type_url, "containerd.runc.v1.Options");
        // field 6 "crun"
        assert_eq!(any.value, b"\x32\x04crun");
    }
}

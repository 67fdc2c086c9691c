//! Configures a new network namespace by rtnetlink(7): loopback, the service address, unprivileged ports.

use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::{BorrowedFd, OwnedFd};

use netlink_packet_core::{
    NLM_F_ACK, NLM_F_CREATE, NLM_F_EXCL, NLM_F_REQUEST, NetlinkHeader, NetlinkMessage,
    NetlinkPayload,
};
use netlink_packet_route::address::{AddressAttribute, AddressMessage, AddressScope};
use netlink_packet_route::link::{LinkFlags, LinkMessage};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use rustix::net::{RecvFlags, SendFlags, SocketFlags, SocketType};

use super::Error;
use crate::netns;

/// Where a function finds the platform's services: the address that cloud providers use for it,
/// so that client libraries reach it past any proxy settings.
pub const SERVICE_ADDRESS: Ipv4Addr = Ipv4Addr::new(169, 254, 169, 254);

/// Index of `lo` in every network namespace (`LOOPBACK_IFINDEX` in the kernel's net/flow.h).
const LOOPBACK_INDEX: u32 = 1;

/// Programs without capabilities may listen from this port up: all of them.
const UNPRIVILEGED_PORT_START: (&str, &str) =
    ("/proc/sys/net/ipv4/ip_unprivileged_port_start", "0");

/// Room for an acknowledgement: header, error code, and the header of what it answers.
const ANSWER_BYTES: usize = 4096;

/// Brings `lo` up, adds [`SERVICE_ADDRESS`], frees all ports.
pub(super) fn configure(net: BorrowedFd<'_>) -> Result<(), Error> {
    // `/proc/sys/net` shows the namespace of whoever opens it; a netlink socket keeps the one it
    // was made in.
    let (ports, socket) = netns::run_in(net, || {
        let (path, value) = UNPRIVILEGED_PORT_START;
        (std::fs::write(path, value), netlink_socket())
    })?;
    let failed = |act| move |source| Error::Loopback { act, source };
    ports.map_err(failed("free the privileged ports"))?;
    let socket = socket.map_err(failed("make a netlink socket"))?;
    request(&socket, loopback_up(), 0).map_err(failed("bring the loopback interface up"))?;
    request(&socket, service_address(), NLM_F_CREATE | NLM_F_EXCL)
        .map_err(failed("add the service address"))
}

fn netlink_socket() -> io::Result<OwnedFd> {
    Ok(rustix::net::socket_with(
        rustix::net::AddressFamily::NETLINK,
        SocketType::RAW,
        SocketFlags::CLOEXEC,
        // Protocol 0 is NETLINK_ROUTE.
        None,
    )?)
}

fn loopback_up() -> RouteNetlinkMessage {
    let mut message = LinkMessage::default();
    message.header.index = LOOPBACK_INDEX;
    message.header.flags = LinkFlags::Up;
    message.header.change_mask = LinkFlags::Up;
    RouteNetlinkMessage::SetLink(message)
}

fn service_address() -> RouteNetlinkMessage {
    let mut message = AddressMessage::default();
    message.header.family = AddressFamily::Inet;
    message.header.prefix_len = 32;
    // Valid on this machine only: never chosen as the source of a packet that leaves it.
    message.header.scope = AddressScope::Host;
    message.header.index = LOOPBACK_INDEX;
    let address = IpAddr::V4(SERVICE_ADDRESS);
    message.attributes = vec![
        AddressAttribute::Local(address),
        AddressAttribute::Address(address),
    ];
    RouteNetlinkMessage::NewAddress(message)
}

/// Sends one request and reads its acknowledgement, which the kernel has queued by the time that
/// `send` returns; so nothing here waits.
fn request(socket: &OwnedFd, message: RouteNetlinkMessage, flags: u16) -> io::Result<()> {
    let mut header = NetlinkHeader::default();
    header.flags = NLM_F_REQUEST | NLM_F_ACK | flags;
    let mut message = NetlinkMessage::new(header, NetlinkPayload::from(message));
    message.finalize();
    let mut bytes = vec![0; message.buffer_len()];
    message.serialize(&mut bytes);
    rustix::net::send(socket, &bytes, SendFlags::empty())?;

    let mut answer = [0; ANSWER_BYTES];
    let (length, _) = rustix::net::recv(socket, &mut answer[..], RecvFlags::DONTWAIT)?;
    let answer = NetlinkMessage::<RouteNetlinkMessage>::deserialize(&answer[..length])
        .map_err(io::Error::other)?;
    match answer.payload {
        NetlinkPayload::Error(error) if error.code.is_none() => Ok(()),
        NetlinkPayload::Error(error) => Err(error.to_io()),
        other => Err(io::Error::other(format!(
            "netlink answered {other:?} instead of an acknowledgement"
        ))),
    }
}

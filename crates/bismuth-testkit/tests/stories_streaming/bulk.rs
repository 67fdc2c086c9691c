//! Bodies much larger than the memory that our processes may use.

use std::sync::LazyLock;

use anyhow::{Context, Result, ensure};
use bismuth_testkit::Cluster;
use bismuth_testkit::http::{self as client, Body};
use bytes::Bytes;
use futures_util::stream;
use http::Request;
use http_body_util::{BodyExt, StreamBody};
use hyper::body::{Frame, Incoming};

use crate::common::{Deployed, echo_server};

const GIB: u64 = 1 << 30;
/// What a body is sent in.
const CHUNK: u64 = 64 << 10;
/// A daemon that kept a thousandth part of what passes through would be beyond this.
const RESIDENT_LIMIT: u64 = 64 << 20;

/// Bytes without a period that a lost, repeated or exchanged chunk could hide behind.
static NOISE: LazyLock<Bytes> = LazyLock::new(|| {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let words = (0..(1 << 20) / 8).flat_map(|_| {
        // xorshift64 (Marsaglia 2003): enough for bytes that only have to differ.
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()
    });
    words.collect::<Vec<u8>>().into()
});

/// Each chunk begins somewhere else in the noise.
fn chunk(index: u64) -> Bytes {
    let places = NOISE.len() as u64 - CHUNK;
    // Both are below 1 MiB.
    let start = (index * 7919 % places) as usize;
    NOISE.slice(start..start + CHUNK as usize)
}

/// `bytes` of it, a multiple of a chunk.
fn noise(bytes: u64) -> Body {
    let chunks = (0..bytes / CHUNK).map(|index| Ok(Frame::data(chunk(index))));
    StreamBody::new(stream::iter(chunks)).boxed_unsync()
}

fn noise_crc(bytes: u64) -> u32 {
    let mut crc = crc32fast::Hasher::new();
    (0..bytes / CHUNK).for_each(|index| crc.update(&chunk(index)));
    crc.finalize()
}

/// Reads a body to its end: how many bytes, and their CRC-32.
async fn measured(mut body: Incoming) -> Result<(u64, u32)> {
    let (mut bytes, mut crc) = (0, crc32fast::Hasher::new());
    while let Some(frame) = body.frame().await {
        if let Some(data) = frame
            .with_context(|| format!("after {bytes} bytes"))?
            .data_ref()
        {
            bytes += data.len() as u64;
            crc.update(data);
        }
    }
    Ok((bytes, crc.finalize()))
}

/// What passed through a daemon, or is logged by a function, is not kept in its memory.
pub(crate) fn check_resident(cluster: &Cluster, after: &str) -> Result<()> {
    for (name, daemon) in cluster.daemons() {
        let peak = daemon.process()?.peak_resident_bytes()?;
        println!("{name}: at most {} KiB resident, {after}", peak >> 10);
        ensure!(
            peak < RESIDENT_LIMIT,
            "{name} had {peak} bytes in memory, {after}"
        );
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gibibyte_goes_up_and_another_comes_down_while_every_daemon_stays_below_64_mib()
-> Result<()> {
    let deployed = Deployed::start(&echo_server()).await?;
    let up = Request::post(deployed.url("/sink?crc=1"))
        .header("content-length", GIB)
        .body(noise(GIB))?;
    let answer = client::send_whole(up).await?;
    let counted = String::from_utf8_lossy(answer.body());
    ensure!(
        counted == format!("{GIB} {:08x}", noise_crc(GIB)),
        "{} {counted}",
        answer.status()
    );
    check_resident(&deployed.cluster, "after a gibibyte up")?;

    let down = deployed.url(&format!("/bytes?n={GIB}"));
    let down = Request::get(down).body(client::full(""))?;
    let xs = vec![b'x'; CHUNK as usize];
    let mut expected = crc32fast::Hasher::new();
    (0..GIB / CHUNK).for_each(|_| expected.update(&xs));
    let answer = client::send(down).await?;
    ensure!(
        measured(answer.into_body()).await? == (GIB, expected.finalize()),
        "not what was sent"
    );
    check_resident(&deployed.cluster, "after a gibibyte down")
}

#[tokio::test(flavor = "multi_thread")]
async fn what_goes_up_in_chunks_comes_down_in_chunks_at_the_same_time() -> Result<()> {
    const LENGTH: u64 = GIB / 4;
    let deployed = Deployed::start(&echo_server()).await?;
    let url = deployed.url("/echo");
    // No length is known, so both directions are chunked; nobody could hold a quarter of a gibibyte
    // back, so the answer flows while the request does.
    let answer = client::send(Request::post(url).body(noise(LENGTH))?).await?;
    ensure!(
        answer.headers()["transfer-encoding"] == "chunked",
        "{:?}",
        answer.headers()
    );
    ensure!(
        measured(answer.into_body()).await? == (LENGTH, noise_crc(LENGTH)),
        "not what was sent"
    );
    check_resident(
        &deployed.cluster,
        "after a quarter of a gibibyte in both directions at once",
    )
}

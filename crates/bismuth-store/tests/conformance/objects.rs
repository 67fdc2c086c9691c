//! Conformance of engines for objects.

use std::ops::Range;
use std::sync::Arc;

use bismuth_store::objects::{ObjectId, Objects};
use bytes::Bytes;
use futures_util::TryStreamExt as _;

use crate::test_engines::TestEngines;

async fn store(objects: &Arc<dyn Objects>, chunks: &[&[u8]]) -> ObjectId {
    let id = ObjectId::random();
    let mut writer = objects.create(id, "group").await.unwrap();
    for chunk in chunks {
        writer.write(Bytes::copy_from_slice(chunk)).await.unwrap();
    }
    writer.finish().await.unwrap();
    id
}

async fn read(objects: &Arc<dyn Objects>, id: ObjectId, range: Range<u64>) -> Option<Vec<u8>> {
    let stream = objects.read(id, range).await.unwrap()?;
    let chunks: Vec<Bytes> = stream.try_collect().await.unwrap();
    Some(chunks.concat())
}

pub async fn an_object_is_read_back_whole_and_in_ranges(engines: &mut dyn TestEngines) {
    let objects = engines.objects();
    let id = store(&objects, &[b"0123", b"", b"456789"]).await;
    for (range, expected) in [
        (0..10, "0123456789"),
        (0..1, "0"),
        (3..5, "34"),
        (9..10, "9"),
        (4..4, ""),
    ] {
        let bytes = read(&objects, id, range.clone()).await.unwrap();
        assert_eq!(bytes, expected.as_bytes(), "{range:?}");
    }
    let missing = read(&objects, ObjectId::random(), 0..10).await;
    assert_eq!(missing, None);
    let missing = read(&objects, ObjectId::random(), 0..0).await;
    assert_eq!(missing, None);
}

pub async fn a_large_object_in_small_pieces_is_read_back(engines: &mut dyn TestEngines) {
    let objects = engines.objects();
    // More than one part of an S3 upload, and no multiple of anything.
    let bytes: Vec<u8> = (0..11_111_111_u32).map(|n| (n * 7 % 253) as u8).collect();
    let chunks: Vec<&[u8]> = bytes.chunks(54_321).collect();
    let id = store(&objects, &chunks).await;
    let size = bytes.len() as u64;
    assert!(read(&objects, id, 0..size).await.unwrap() == bytes);
    let range = 5_000_000..5_600_000;
    assert!(read(&objects, id, range).await.unwrap() == bytes[5_000_000..5_600_000]);
    objects.delete(id).await.unwrap();
}

pub async fn an_empty_object_is_there(engines: &mut dyn TestEngines) {
    let objects = engines.objects();
    let id = store(&objects, &[]).await;
    assert_eq!(read(&objects, id, 0..0).await, Some(Vec::new()));
}

pub async fn an_object_is_not_there_before_it_is_finished(engines: &mut dyn TestEngines) {
    let objects = engines.objects();
    let id = ObjectId::random();
    let mut writer = objects.create(id, "group").await.unwrap();
    let chunk = Bytes::from(vec![1; 3 << 20]);
    for _ in 0..3 {
        writer.write(chunk.clone()).await.unwrap();
        assert_eq!(read(&objects, id, 0..1).await, None);
    }
    writer.finish().await.unwrap();
    assert_eq!(read(&objects, id, 0..1).await, Some(vec![1]));
}

pub async fn what_is_deleted_is_gone_also_half_written_and_twice(engines: &mut dyn TestEngines) {
    let objects = engines.objects();
    let id = store(&objects, &[b"bytes"]).await;
    objects.delete(id).await.unwrap();
    assert_eq!(read(&objects, id, 0..5).await, None);
    objects.delete(id).await.unwrap();

    let half = ObjectId::random();
    let mut writer = objects.create(half, "group").await.unwrap();
    writer.write(Bytes::from(vec![1; 6 << 20])).await.unwrap();
    drop(writer);
    objects.delete(half).await.unwrap();
    assert_eq!(engines.object_count(), 0);
}

pub async fn an_object_is_read_to_its_end_though_it_is_deleted_meanwhile(
    engines: &mut dyn TestEngines,
) {
    let objects = engines.objects();
    let bytes = vec![5; 2 << 20];
    let id = store(&objects, &[&bytes]).await;
    let stream = objects.read(id, 0..2 << 20).await.unwrap().unwrap();
    objects.delete(id).await.unwrap();
    let chunks: Vec<Bytes> = stream.try_collect().await.unwrap();
    assert!(chunks.concat() == bytes);
}

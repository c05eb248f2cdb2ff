//! Writing: blobs complete and growing, mounts, what a registry refuses.

use std::sync::Arc;
use std::sync::mpsc::channel;

use kiln_oci::Digest;
use kiln_remote::server::Faults;
use kiln_remote::{Delivery, Error, ErrorKind, Observer, UploadSource};

use crate::support::{
    Growing, client, config, content, count, download, faulty, fixed, layer, manifest, reference, registry,
    upload,
};

#[test]
fn a_blob_travels_once() {
    let (registry, client) = (registry(), client());
    let target = reference(&registry, "a:v1");
    let source = fixed(&content(500_000));
    assert_eq!(client.upload(&target, &source, None).unwrap().delivery, Delivery::Sent);
    assert_eq!(client.upload(&target, &source, None).unwrap().delivery, Delivery::Existed);
    assert_eq!((count(&registry, "PUT", "blobs"), count(&registry, "PATCH", "blobs")), (1, 0));
}

#[test]
fn a_growing_blob_travels_while_it_grows() {
    let (registry, client) = (registry(), client());
    let target = reference(&registry, "a:v1");
    let bytes = content(900_000);
    let growing = Growing::default();
    let source: Arc<dyn UploadSource> = Arc::new(growing.clone());
    let (moved_in, moved) = channel();
    let observer: Observer = Arc::new(move |bytes| moved_in.send(bytes).unwrap_or_default());
    let upload = {
        let (client, target) = (client.clone(), target.clone());
        std::thread::spawn(move || client.upload(&target, &source, Some(observer)))
    };
    growing.write(&bytes[..400_000]);
    // Bytes leave before the content is complete.
    while moved.recv().unwrap() < 400_000 {}
    growing.write(&bytes[400_000..]);
    growing.finish();
    let uploaded = upload.join().unwrap().unwrap();
    assert_eq!((uploaded.descriptor.clone(), uploaded.delivery), (layer(&bytes), Delivery::Sent));
    assert_eq!(download(&client, &target, &uploaded.descriptor).unwrap(), bytes);
    assert_eq!((count(&registry, "PATCH", ""), count(&registry, "PUT", "")), (1, 1));
}

#[test]
fn an_empty_growing_blob_arrives() {
    let (registry, client) = (registry(), client());
    let target = reference(&registry, "a:v1");
    let growing = Growing::default();
    growing.finish();
    let source: Arc<dyn UploadSource> = Arc::new(growing);
    let uploaded = client.upload(&target, &source, None).unwrap();
    assert_eq!(download(&client, &target, &uploaded.descriptor).unwrap(), b"");
}

#[test]
fn a_producer_that_fails_ends_the_upload_with_its_reason() {
    let (registry, client) = (registry(), client());
    let target = reference(&registry, "a:v1");
    let growing = Growing::default();
    growing.write(b"half");
    growing.fail();
    let source: Arc<dyn UploadSource> = Arc::new(growing);
    let error = client.upload(&target, &source, None).unwrap_err();
    let Error::Source { source, .. } = &error else { panic!("{error}") };
    assert_eq!(source.to_string(), "the build step failed");
    assert_eq!(count(&registry, "PUT", ""), 0);
    assert_eq!(count(&registry, "DELETE", "uploads"), 1);
}

#[test]
fn a_registry_that_takes_no_streams_gets_pieces() {
    let registry = faulty(Faults { refuse_streams: true, ..Faults::default() });
    let client = kiln_remote::Client::new(kiln_remote::ClientConfig { chunk: 100_000, ..config() }).unwrap();
    let target = reference(&registry, "a:v1");
    let bytes = content(450_000);
    let growing = Growing::default();
    growing.write(&bytes);
    let source: Arc<dyn UploadSource> = Arc::new(growing.clone());
    let finisher = std::thread::spawn(move || growing.finish());
    let uploaded = client.upload(&target, &source, None).unwrap();
    finisher.join().unwrap();
    assert_eq!(download(&client, &target, &uploaded.descriptor).unwrap(), bytes);
    // The refusal is remembered: the second upload begins with pieces.
    registry.clear_log();
    let other = upload(&client, &target, &content(250_000));
    assert_eq!(download(&client, &target, &other).unwrap(), content(250_000));
    assert_eq!(count(&registry, "PATCH", ""), 3);
}

#[test]
fn blobs_are_mounted_from_another_repository() {
    let (registry, client) = (registry(), client());
    let from = reference(&registry, "base/image:v1");
    let target = reference(&registry, "team/app:v1");
    let blob = upload(&client, &from, b"shared");
    assert!(client.mount(&target, &blob.digest, &from).unwrap());
    assert_eq!(download(&client, &target, &blob).unwrap(), b"shared");
    assert!(!client.mount(&target, &Digest::sha256(b"absent"), &from).unwrap());
    assert_eq!(count(&registry, "DELETE", "uploads"), 1);
    let elsewhere = "other.example/base:v1".parse().unwrap();
    assert!(!client.mount(&target, &blob.digest, &elsewhere).unwrap());
}

#[test]
fn a_manifest_needs_its_blobs() {
    let (registry, client) = (registry(), client());
    let target = reference(&registry, "a:v1");
    let document = manifest(&Digest::sha256(b"{}"), &[], "");
    let error = client.put_document(&target, &document).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);
    assert!(error.to_string().contains("MANIFEST_BLOB_UNKNOWN"), "{error}");
}

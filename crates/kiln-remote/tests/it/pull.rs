//! Reading: manifests, blobs, tags.

use std::io::Read as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use kiln_oci::{Descriptor, Digest, MediaType, Reference};
use kiln_remote::server::{Faults, Registry, RegistryConfig, Storage};
use kiln_remote::{Error, ErrorKind};

use crate::support::{
    Directory, client, content, count, download, layer, manifest, push_image, reference, registry, upload,
};

#[test]
fn what_is_pushed_is_pulled() {
    let (registry, client) = (registry(), client());
    let target = reference(&registry, "team/app:v1");
    let bytes = content(300_000);
    let document = push_image(&client, &target, &bytes);

    let found = client.resolve(&target).unwrap();
    assert_eq!((&found.digest, found.size), (document.digest(), document.bytes.len() as u64));
    assert_eq!(client.document(&target).unwrap().bytes, document.bytes);
    let pinned = target.with_digest(document.digest().clone());
    assert_eq!(client.resolve(&pinned).unwrap(), found);
    assert_eq!(client.document(&pinned).unwrap().bytes, document.bytes);

    let layer = &document.manifest().unwrap().layers[0];
    let seen = Arc::new(AtomicU64::new(0));
    let observed = Arc::clone(&seen);
    let mut out = Vec::new();
    let observer: kiln_remote::Observer = Arc::new(move |bytes| observed.store(bytes, Ordering::Relaxed));
    client.blob(&target, layer, Some(observer)).unwrap().read_to_end(&mut out).unwrap();
    assert_eq!(out, bytes);
    assert_eq!(seen.load(Ordering::Relaxed), 300_000);
    assert!(client.exists(&target, &layer.digest).unwrap());
    assert_eq!(client.tags(&target).unwrap(), ["v1"]);
    client.delete(&target).unwrap();
    assert_eq!(client.resolve(&target).unwrap_err().kind(), ErrorKind::NotFound);
}

#[test]
fn content_survives_in_a_directory() {
    let directory = Directory::new("directory");
    let start = || {
        let storage = Storage::Directory(directory.0.clone());
        Registry::start(RegistryConfig { storage, ..RegistryConfig::default() }).unwrap()
    };
    let client = client();
    let first = start();
    let document = push_image(&client, &reference(&first, "team/app:v1"), &content(70_000));
    drop(first);
    let second = start();
    let target = reference(&second, "team/app:v1");
    assert_eq!(client.document(&target).unwrap().bytes, document.bytes);
    let layer = &document.manifest().unwrap().layers[0];
    assert_eq!(download(&client, &target, layer).unwrap(), content(70_000));
}

#[test]
fn absence_says_what_was_asked() {
    let (registry, client) = (registry(), client());
    let target = reference(&registry, "team/app:v1");
    let error = client.document(&target).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);
    let text = error.to_string();
    assert!(text.contains(&format!("fetch manifest `{target}`: registry answered 404 Not Found")), "{text}");
    assert!(text.contains("MANIFEST_UNKNOWN"), "{text}");
    assert!(error.hint().unwrap().contains("spelling"));
    let blob = layer(b"nothing");
    assert_eq!(client.blob(&target, &blob, None).unwrap_err().kind(), ErrorKind::NotFound);
    assert!(!client.exists(&target, &blob.digest).unwrap());
}

#[test]
fn a_digest_that_head_leaves_out_is_found_by_get() {
    let (registry, client) = (registry(), client());
    let target = reference(&registry, "a:v1");
    let document = push_image(&client, &target, b"x");
    registry.set_faults(Faults { no_head_digest: true, ..Faults::default() });
    assert_eq!(client.resolve(&target).unwrap().digest, *document.digest());
}

#[test]
fn a_huge_manifest_is_refused() {
    let (registry, client) = (registry(), client());
    let target = reference(&registry, "a:v1");
    let config = upload(&client, &target, b"{}");
    let document = manifest(&config.digest, &[], &"x".repeat(5 << 20));
    client.put_document(&target, &document).unwrap();
    let error = client.document(&target).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Limit);
    assert!(error.to_string().contains("larger than the limit of 4194304 bytes"), "{error}");
}

#[test]
fn tags_come_in_pages() {
    let (registry, client) = (registry(), client());
    let target = reference(&registry, "a:t0000");
    let document = push_image(&client, &target, b"x");
    for n in 1..1005 {
        client.put_document(&reference(&registry, &format!("a:t{n:04}")), &document).unwrap();
    }
    let tags = client.tags(&target).unwrap();
    assert_eq!((tags.len(), tags[1004].as_str()), (1005, "t1004"));
    assert_eq!(count(&registry, "GET", "tags/list"), 2);
}

#[test]
fn a_foreign_layer_is_fetched_from_its_url_without_credentials() {
    let (registry, elsewhere, client) = (registry(), registry(), client());
    let bytes = content(1000);
    let other = reference(&elsewhere, "files:x");
    let layer = upload(&client, &other, &bytes);
    let foreign = Descriptor {
        media_type: MediaType::new("application/vnd.docker.image.rootfs.foreign.diff.tar.gzip"),
        urls: vec![format!("http://{}/v2/files/blobs/{}", elsewhere.host(), layer.digest)],
        ..layer
    };
    assert_eq!(download(&client, &reference(&registry, "a:v1"), &foreign).unwrap(), bytes);
}

#[test]
fn content_under_another_digest_is_refused() {
    let (registry, client) = (registry(), client());
    let target = reference(&registry, "a:v1");
    push_image(&client, &target, b"x");
    let layer = upload(&client, &target, b"hello");
    registry.set_faults(Faults { corrupt_blobs: true, ..Faults::default() });
    let error = download(&client, &target, &layer).unwrap_err();
    let error = Error::of(&error).unwrap();
    assert_eq!(error.kind(), ErrorKind::Invalid);
    assert!(error.to_string().starts_with(&format!("fetch blob `{}@sha256:", target.name())), "{error}");
    let cause = std::error::Error::source(error).unwrap().to_string();
    assert!(cause.contains("expected sha256:"), "{cause}");
}

#[test]
fn a_manifest_under_another_digest_is_refused() {
    let (registry, client) = (registry(), client());
    let target = reference(&registry, "a:v1");
    let document = push_image(&client, &target, b"x");
    let other: Reference = target.with_digest(Digest::sha256(b"other"));
    let error = client.put_document(&other, &document).unwrap_err();
    assert!(matches!(error, Error::Digest { .. }), "{error}");
}

#[test]
fn sha512_content_is_verified_too() {
    let (registry, client) = (registry(), client());
    let target = reference(&registry, "a:v1");
    struct Long;
    impl kiln_remote::UploadSource for Long {
        fn open(&self, _: u64) -> std::io::Result<Box<dyn std::io::Read + Send>> {
            Ok(Box::new(&b"abc"[..]))
        }
        fn descriptor(&self) -> std::io::Result<Descriptor> {
            // The digest of `abc` in FIPS 180.
            let hex = "ddaf35a193617abacc417349ae20413112e6fa4e89a97ea20a9eeee64b55d39a\
                       2192992a274fc1a836ba3c23a3feebbd454d4423643ce80e2a9ac94fa54ca49f";
            Ok(Descriptor::new("application/octet-stream", format!("sha512:{hex}").parse().unwrap(), 3))
        }
        fn complete(&self) -> Option<Descriptor> {
            self.descriptor().ok()
        }
    }
    let source: Arc<dyn kiln_remote::UploadSource> = Arc::new(Long);
    let stored = client.upload(&target, &source, None).unwrap();
    assert_eq!(download(&client, &target, &stored.descriptor).unwrap(), b"abc");
}

use std::io::{Read as _, Write as _};

use kiln_oci::{Descriptor, Digest, MediaType};

use super::*;

fn scratch(name: &str) -> PathBuf {
    let dir = std::env::temp_dir().join(format!("kiln-store-{}-{name}", std::process::id()));
    let _ = fs::remove_dir_all(&dir);
    dir
}

#[test]
fn a_blob_is_read_while_it_is_written() {
    let root = scratch("growing");
    let store = Store::open(&root).unwrap();
    let mut writer = store.writer().unwrap();
    let blob = writer.blob();
    let reader = std::thread::spawn(move || {
        let mut text = String::new();
        blob.reader(0).read_to_string(&mut text).map(|_| text)
    });
    let descriptor = Descriptor::of(MediaType::OCI_LAYER, b"one two");
    writer.write_all(b"one ").unwrap();
    assert!(!store.has(&descriptor));
    writer.write_all(b"two").unwrap();
    writer.finish(&descriptor).unwrap();
    assert_eq!(reader.join().unwrap().unwrap(), "one two");
    assert_eq!(store.read_blob(&descriptor).unwrap(), b"one two");
    drop(store);
    fs::remove_dir_all(root).unwrap();
}

#[test]
fn a_reader_of_an_abandoned_blob_gets_an_error_and_nothing_stays() {
    let root = scratch("abandoned");
    let store = Store::open(&root).unwrap();
    let mut writer = store.writer().unwrap();
    writer.write_all(b"half").unwrap();
    let blob = writer.blob();
    drop(writer);
    let error = blob.reader(0).read_to_end(&mut Vec::new()).unwrap_err();
    assert!(error.to_string().contains("stopped"), "{error}");
    assert_eq!(fs::read_dir(root.join("blobs/sha256")).unwrap().count(), 0);
    drop(store);
    fs::remove_dir_all(root).unwrap();
}

#[test]
fn a_damaged_blob_is_a_miss() {
    let root = scratch("damaged");
    let store = Store::open(&root).unwrap();
    let descriptor = store.write_blob(MediaType::OCI_CONFIG, b"{}").unwrap();
    fs::write(store.blob_path(&descriptor.digest).unwrap(), b"[]").unwrap();
    assert!(store.read_blob(&descriptor).is_none());
    // Writing it again mends it.
    store.write_blob(MediaType::OCI_CONFIG, b"{}").unwrap();
    assert_eq!(store.read_blob(&descriptor).unwrap(), b"{}");
    drop(store);
    fs::remove_dir_all(root).unwrap();
}

#[test]
fn leftovers_of_a_dead_process_are_removed_and_a_live_one_is_left_alone() {
    let root = scratch("leftovers");
    let live = Store::open(&root).unwrap();
    fs::write(live.tmp_path(), b"mine").unwrap();
    fs::create_dir(root.join("tmp/dead")).unwrap();
    fs::write(root.join("tmp/dead/x"), b"").unwrap();
    fs::write(root.join("tmp/dead.lock"), b"").unwrap();
    let second = Store::open(&root).unwrap();
    assert!(!root.join("tmp/dead").exists());
    assert!(live.inner.leases.dir().join("0").exists());
    drop((live, second));
    fs::remove_dir_all(root).unwrap();
}

#[test]
fn prune_keeps_what_images_need() {
    let root = scratch("prune");
    let store = Store::open(&root).unwrap();
    let layer = store.write_blob(MediaType::OCI_LAYER, b"layer").unwrap();
    let config = store.write_blob(MediaType::OCI_CONFIG, b"{}").unwrap();
    let unused = store.write_blob(MediaType::OCI_LAYER, b"unused").unwrap();
    let manifest = format!(
        r#"{{"schemaVersion":2,"config":{},"layers":[{}]}}"#,
        serde_json::to_string(&config).unwrap(),
        serde_json::to_string(&layer).unwrap()
    );
    let manifest = store.write_blob(MediaType::OCI_MANIFEST, manifest.as_bytes()).unwrap();
    store.put_image(Some(&"app:1".parse().unwrap()), &manifest).unwrap();
    store.put_image(Some(&"app:1".parse().unwrap()), &manifest).unwrap();
    assert_eq!(store.images().unwrap().len(), 1);
    drop(store);
    let pruned = Store::prune(&root, &PruneOptions::default()).unwrap();
    assert_eq!(pruned.entries.len(), 1);
    let store = Store::open(&root).unwrap();
    assert!(store.has(&layer) && store.has(&config) && store.has(&manifest) && !store.has(&unused));
    assert!(store.find_image(&"app:1".parse().unwrap()).unwrap().is_some());
    drop(store);
    fs::remove_dir_all(root).unwrap();
}

#[test]
fn a_store_of_another_version_is_refused() {
    let root = scratch("version");
    fs::create_dir_all(&root).unwrap();
    fs::write(root.join("format"), "kiln store 0\n").unwrap();
    let error = Store::open(&root).unwrap_err();
    assert!(error.message.contains("another version"), "{error}");
    assert!(!error.hints.is_empty());
    fs::remove_dir_all(root).unwrap();
}

#[test]
fn snapshots_of_an_earlier_boot_are_not_trusted() {
    let root = scratch("boot");
    let store = Store::open(&root).unwrap();
    let pending = store.begin_snapshot().unwrap();
    fs::write(pending.fs().join("f"), b"").unwrap();
    let dir = pending.commit("host", "a").unwrap();
    assert_eq!(store.snapshot("host", "a"), Some(dir.clone()));
    assert_eq!(store.snapshot("range", "a"), None);
    fs::write(dir.parent().unwrap().join("boot"), "another").unwrap();
    assert_eq!(store.snapshot("host", "a"), None);
    let again = store.begin_snapshot().unwrap().commit("host", "a").unwrap();
    assert_eq!(store.snapshot("host", "a"), Some(again));
    drop(store);
    fs::remove_dir_all(root).unwrap();
}

#[test]
fn what_a_process_asked_for_stays_until_it_ends_and_what_it_makes_too() {
    let root = scratch("leases");
    let all = PruneOptions { images: true, ..PruneOptions::default() };
    let left = || fs::read_dir(root.join("blobs/sha256")).unwrap().count();
    let maker = Store::open(&root).unwrap();
    let blob = maker.write_blob(MediaType::OCI_LAYER, b"layer").unwrap();
    let other = maker.write_blob(MediaType::OCI_LAYER, b"other").unwrap();
    let key = Digest::sha256(b"key");
    let record = |layer: &Descriptor| {
        let packed = Packed { descriptor: layer.clone(), diff_id: Digest::sha256(b"") };
        Record::new("RUN x", [("gzip:3".to_owned(), packed)].into())
    };
    maker.put_record(&key, &record(&blob)).unwrap();
    maker.put_record(&Digest::sha256(b"lone"), &record(&other)).unwrap();
    let pruned = Store::prune(&root, &all).unwrap();
    assert_eq!((pruned.entries.len(), pruned.in_use), (0, 4), "its maker lives");
    let user = Store::open(&root).unwrap();
    drop(maker);
    assert!(user.has(&blob));
    let pruned = Store::prune(&root, &all).unwrap();
    assert_eq!((pruned.entries.len(), pruned.in_use), (2, 2), "one blob and its record have a user");
    assert!(user.record(&key).is_some() && user.has(&blob) && !user.has(&other));
    drop(user);
    Store::prune(&root, &all).unwrap();
    assert_eq!((left(), fs::read_dir(root.join("records")).unwrap().count()), (0, 0));
    fs::remove_dir_all(root).unwrap();
}

#[test]
fn a_record_goes_before_its_layer_and_the_layer_takes_it_along() {
    let root = scratch("together");
    let store = Store::open(&root).unwrap();
    let layer = store.write_blob(MediaType::OCI_LAYER, b"layer").unwrap();
    let packed = Packed { descriptor: layer.clone(), diff_id: Digest::sha256(b"") };
    let record = Record::new("x", [("gzip:3".to_owned(), packed)].into());
    store.put_record(&Digest::sha256(b"a"), &record).unwrap();
    store.put_record(&Digest::sha256(b"b"), &record).unwrap();
    drop(store);
    let layers = PruneOptions { kinds: vec![EntryKind::Layer], ..PruneOptions::default() };
    let dry = Store::prune(&root, &PruneOptions { dry_run: true, ..layers.clone() }).unwrap();
    let went: Vec<EntryKind> = dry.entries.iter().map(|entry| entry.kind).collect();
    assert_eq!(went, [EntryKind::Record, EntryKind::Record, EntryKind::Layer]);
    assert!(Store::open(&root).unwrap().has(&layer), "a dry run deletes nothing");
    let pruned = Store::prune(&root, &layers).unwrap();
    assert_eq!(pruned.by_kind()[&EntryKind::Record].entries, 2);
    assert!(!Store::open(&root).unwrap().has(&layer));
    fs::remove_dir_all(root).unwrap();
}

#[test]
fn a_lock_whose_file_was_deleted_is_taken_anew() {
    let root = scratch("lock-files");
    let store = Store::open(&root).unwrap();
    let first = store.lock("name").unwrap();
    let waiting = {
        let store = store.clone();
        std::thread::spawn(move || store.lock("name").unwrap())
    };
    // Whoever waits has the old file open; deleted under the lock, as `kiln prune` does it, that keeps nobody out.
    std::thread::sleep(std::time::Duration::from_millis(50));
    fs::remove_file(root.join("locks/name")).unwrap();
    drop(first);
    let second = waiting.join().unwrap();
    assert!(root.join("locks/name").exists());
    let other = File::open(root.join("locks/name")).unwrap();
    assert!(other.try_lock().is_err(), "the lock is that of the file that is there");
    drop((second, store));
    fs::remove_dir_all(root).unwrap();
}

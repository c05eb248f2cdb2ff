//! What goes wrong on the way, and how the client lives with it.

use std::io::Read as _;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use kiln_remote::server::Faults;
use kiln_remote::{Client, ClientConfig, Error, ErrorKind, Notice, UploadSource};

use crate::support::{
    Growing, client, config, content, count, download, faulty, fixed, layer, push_image, reference, registry,
    upload,
};

#[test]
fn a_dropped_download_goes_on_where_it_broke() {
    for ignore_ranges in [false, true] {
        let (registry, client) = (registry(), client());
        let target = reference(&registry, "a:v1");
        let bytes = content(2_000_000);
        let blob = upload(&client, &target, &bytes);
        registry.clear_log();
        registry.set_faults(Faults { drop_blob_after: Some(700_000), ignore_ranges, ..Faults::default() });
        assert_eq!(download(&client, &target, &blob).unwrap(), bytes);
        assert_eq!(count(&registry, "GET", "blobs"), 2);
        let partial = registry.log().iter().filter(|r| r.status == 206).count();
        assert_eq!(partial, usize::from(!ignore_ranges));
    }
}

#[test]
fn a_download_that_breaks_every_time_fails_in_the_end() {
    let registry = registry();
    let mut settings = config();
    settings.retries.attempts = 2;
    let client = Client::new(settings).unwrap();
    let target = reference(&registry, "a:v1");
    let blob = upload(&client, &target, &content(1_000_000));
    registry.set_faults(Faults { drop_blob_after: Some(500_000), ..Faults::default() });
    let mut reader = client.blob(&target, &blob, None).unwrap();
    registry.set_faults(Faults { server_errors: 9, ..Faults::default() });
    let error = reader.read_to_end(&mut Vec::new()).unwrap_err();
    assert_eq!(Error::of(&error).unwrap().kind(), ErrorKind::Server);
}

#[test]
fn a_dropped_upload_goes_on_where_it_broke() {
    for complete in [false, true] {
        let (registry, client) = (registry(), client());
        let target = reference(&registry, "a:v1");
        let bytes = content(3_000_000);
        let source: Arc<dyn UploadSource> = if complete {
            fixed(&bytes)
        } else {
            let growing = Growing::default();
            growing.write(&bytes);
            let later = growing.clone();
            std::thread::spawn(move || later.finish());
            Arc::new(growing)
        };
        registry.set_faults(Faults { drop_upload_after: Some(1_000_000), ..Faults::default() });
        let uploaded = client.upload(&target, &source, None).unwrap();
        assert_eq!(download(&client, &target, &uploaded.descriptor).unwrap(), bytes);
        assert_eq!(count(&registry, "POST", ""), 1, "the session was resumed, not begun again");
        assert_eq!(registry.faults().drop_upload_after, None);
    }
}

#[test]
fn an_upload_whose_answer_was_lost_has_arrived() {
    let registry = faulty(Faults { lose_answer: true, ..Faults::default() });
    let client = client();
    let target = reference(&registry, "a:v1");
    let uploaded = client.upload(&target, &fixed(&content(10_000)), None).unwrap();
    assert_eq!(uploaded.descriptor, layer(&content(10_000)));
    assert_eq!(count(&registry, "PUT", ""), 1);
}

#[test]
fn throttling_and_server_errors_pass() {
    let (registry, notices) = (registry(), Arc::new(Mutex::new(Vec::new())));
    let seen = Arc::clone(&notices);
    let notice = move |notice: Notice| seen.lock().unwrap().push(notice);
    let client = Client::new(ClientConfig { notices: Some(Arc::new(notice)), ..config() }).unwrap();
    let target = reference(&registry, "a:v1");
    let document = push_image(&client, &target, b"x");
    registry.set_faults(Faults { too_many_requests: 2, server_errors: 2, ..Faults::default() });
    assert_eq!(client.document(&target).unwrap().bytes, document.bytes);
    let notices = notices.lock().unwrap();
    let waits: Vec<(Option<u16>, Duration)> = notices
        .iter()
        .map(|notice| match notice {
            Notice::Retrying { error, after } => (error.status(), *after),
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(waits.iter().map(|(status, _)| status.unwrap()).collect::<Vec<_>>(), [429, 429, 500, 500]);
    assert_eq!(waits[0].1, Duration::ZERO, "the registry said when to come back");
}

#[test]
fn throttling_that_lasts_is_reported_with_a_hint() {
    let (registry, client) = (registry(), client());
    registry.set_faults(Faults { too_many_requests: 99, ..Faults::default() });
    let error = client.document(&reference(&registry, "a:v1")).unwrap_err();
    assert_eq!((error.kind(), error.status()), (ErrorKind::Limit, Some(429)));
    assert!(error.hint().unwrap().contains("mirror"), "{error}");
}

#[test]
fn a_closed_port_is_a_network_error() {
    let registry = registry();
    let target = reference(&registry, "a:v1");
    drop(registry);
    let error = client().resolve(&target).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Network);
    assert!(error.to_string().contains("cannot reach `127.0.0.1:"), "{error}");
    assert!(std::error::Error::source(&error).is_some());
}

#[test]
fn a_silent_registry_times_out() {
    let (registry, mut settings) = (registry(), config());
    settings.retries.attempts = 1;
    settings.timeouts.answer = Duration::from_millis(100);
    let client = Client::new(settings).unwrap();
    let target = reference(&registry, "a:v1");
    assert_eq!(client.resolve(&target).unwrap_err().kind(), ErrorKind::NotFound);
    registry.set_faults(Faults { delay: Duration::from_secs(20), ..Faults::default() });
    let error = client.resolve(&target).unwrap_err();
    assert!(matches!(error, Error::Timeout { .. }), "{error}");
}

#[test]
fn cancelling_ends_everything_quickly() {
    let (registry, client) = (registry(), client());
    let target = reference(&registry, "a:v1");
    let growing = Growing::default();
    growing.write(b"never complete");
    let source: Arc<dyn UploadSource> = Arc::new(growing.clone());
    let uploading = {
        let (client, target) = (client.clone(), target.clone());
        std::thread::spawn(move || client.upload(&target, &source, None))
    };
    while count(&registry, "POST", "uploads") == 0 {
        std::thread::yield_now();
    }
    let began = Instant::now();
    client.cancel_handle().cancel();
    assert!(matches!(uploading.join().unwrap(), Err(Error::Cancelled)));
    assert!(matches!(client.resolve(&target), Err(Error::Cancelled)));
    assert!(began.elapsed() < Duration::from_secs(5));
    growing.fail();
}

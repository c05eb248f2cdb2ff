//! What the tests of the views share: a build, a clock set by hand, a screen that keeps what it is shown.

use std::io::{self, Write};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use kiln::Receipt;
use kiln::oci::{Descriptor, Digest};
use kiln::progress::{Event, Stream};

use super::Clock;

/// Keeps what is written to it.
#[derive(Debug, Clone, Default)]
pub(super) struct Screen(Arc<Mutex<Vec<u8>>>);

impl Screen {
    pub(super) fn text(&self) -> String {
        String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
    }
}

impl Write for Screen {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Returns a clock at 0 and what sets it, in milliseconds.
pub(super) fn hand_clock() -> (Clock, impl Fn(u64)) {
    let now = Arc::new(AtomicU64::new(0));
    let read = Arc::clone(&now);
    let clock: Clock = Box::new(move || Duration::from_millis(read.load(Ordering::SeqCst)));
    (clock, move |milliseconds| now.store(milliseconds, Ordering::SeqCst))
}

/// A build of three steps: one cached, one that runs, one that fails; with a transfer beside them.
pub(super) fn build() -> Vec<(u64, Event)> {
    let step = |id, title: &str| Event::Step { id, title: title.to_owned(), place: None };
    let output = |stream, text: &str| Event::Output { id: 2, stream, text: text.to_owned() };
    let transfer = |bytes, done| Event::Transfer {
        name: "pull sha256:abc".to_owned(),
        bytes,
        total: Some(30_000_000),
        done,
    };
    let warning = "WORKDIR is relative".to_owned();
    vec![
        (0, step(1, "[1/3] FROM alpine")),
        (0, step(2, "[2/3] RUN make")),
        (0, step(3, "[3/3] COPY a b")),
        (10, Event::Cached { id: 1 }),
        (20, transfer(0, false)),
        (100, Event::Started { id: 2 }),
        (100, output(Stream::Stdout, "compiling\n")),
        (200, Event::Started { id: 3 }),
        (510, output(Stream::Stderr, "a.c:1: oops\n")),
        (4000, transfer(10_000_000, false)),
        (5260, transfer(20_000_000, false)),
        (5300, output(Stream::Stdout, "\u{1b}[2Kdone")),
        (5300, Event::Finished { id: 2, took: Duration::from_millis(5200) }),
        (6020, transfer(30_000_000, true)),
        (6030, Event::Warning { text: warning, place: Some("Dockerfile:2".to_owned()) }),
        (6040, Event::Failed { id: 3, message: "COPY cannot find `a`".to_owned() }),
    ]
}

pub(super) fn receipt() -> Receipt {
    let descriptor = Descriptor::of("application/vnd.oci.image.manifest.v1+json", b"manifest");
    Receipt {
        digest: descriptor.digest.clone(),
        descriptor,
        config_digest: Digest::sha256(b"config"),
        names: vec!["app".parse().unwrap()],
        outputs: vec!["kept as `app`".to_owned()],
        steps: 7,
        cached: 5,
        layers: 1,
        size: 12_345_678,
    }
}

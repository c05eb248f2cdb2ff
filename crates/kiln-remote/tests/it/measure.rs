//! How fast and how lean transfers are: `cargo test --release -p kiln-remote -- --ignored --nocapture measure`.

use std::io::{self, Read};
use std::sync::Arc;
use std::time::Instant;

use kiln_oci::{Descriptor, Hasher, MediaType};
use kiln_remote::UploadSource;

use crate::real::Real;
use crate::support::client;

const SIZE: u64 = 512 << 20;

/// Pseudo-random content that exists nowhere.
struct Made {
    descriptor: Descriptor,
    complete: bool,
}

struct Maker {
    at: u64,
}

impl Read for Maker {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let n = usize::try_from((SIZE - self.at).min(buffer.len() as u64)).unwrap();
        for (i, byte) in buffer[..n].iter_mut().enumerate() {
            let position = self.at + i as u64;
            *byte = (position ^ (position >> 8) ^ (position >> 17)) as u8;
        }
        self.at += n as u64;
        Ok(n)
    }
}

impl UploadSource for Made {
    fn open(&self, offset: u64) -> io::Result<Box<dyn Read + Send>> {
        Ok(Box::new(Maker { at: offset }))
    }

    fn descriptor(&self) -> io::Result<Descriptor> {
        Ok(self.descriptor.clone())
    }

    fn complete(&self) -> Option<Descriptor> {
        self.complete.then(|| self.descriptor.clone())
    }
}

fn peak_mib() -> f64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmHWM")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<f64>().unwrap() / 1024.0
}

#[test]
#[ignore = "takes a gigabyte of disk and wants an idle machine"]
fn measure_half_a_gibibyte() {
    let mut hasher = Hasher::new();
    io::copy(&mut Maker { at: 0 }, &mut hasher).unwrap();
    let descriptor = Descriptor::new(MediaType::OCI_LAYER, hasher.finish(), SIZE);
    let Some(real) = Real::start("measure") else { return };
    let client = client();
    let rate = |began: Instant| (SIZE >> 20) as f64 / began.elapsed().as_secs_f64();
    println!("before: peak {:.1} MiB", peak_mib());
    for (name, complete) in [("push of a growing blob", false), ("push of a complete blob", true)] {
        let source: Arc<dyn UploadSource> = Arc::new(Made { descriptor: descriptor.clone(), complete });
        let target = real.reference(if complete { "complete:v1" } else { "growing:v1" });
        let began = Instant::now();
        client.upload(&target, &source, None).unwrap();
        println!("{name}: {:.0} MiB/s, peak {:.1} MiB", rate(began), peak_mib());
    }
    let began = Instant::now();
    let mut reader = client.blob(&real.reference("complete:v1"), &descriptor, None).unwrap();
    io::copy(&mut reader, &mut io::sink()).unwrap();
    println!("pull, verified: {:.0} MiB/s, peak {:.1} MiB", rate(began), peak_mib());
    assert!(peak_mib() < 40.0, "memory is to stay flat");
}

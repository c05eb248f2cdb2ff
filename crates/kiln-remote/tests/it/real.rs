//! The client against distribution's registry, where its program is installed.

use std::io::{self, Read as _};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use kiln_oci::Reference;
use kiln_remote::{Client, ClientConfig, Delivery, UploadSource};

use crate::support::{Directory, Growing, client, config, content, download, push_image};

/// A registry in a process of its own.
pub(crate) struct Real {
    child: Child,
    pub(crate) host: String,
    _directory: Directory,
}

impl Drop for Real {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

impl Real {
    /// Starts one, or says why not.
    pub(crate) fn start(name: &str) -> Option<Self> {
        let directory = Directory::new(name);
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let host = format!("127.0.0.1:{port}");
        let root = directory.0.join("data");
        let config = format!(
            "version: 0.1\nlog: {{level: error, accesslog: {{disabled: true}}}}\n\
             storage:\n  filesystem: {{rootdirectory: {}}}\n  delete: {{enabled: true}}\n\
             http: {{addr: {host}}}\n",
            root.display()
        );
        let file = directory.0.join("config.yml");
        std::fs::write(&file, config).unwrap();
        let child = Command::new("docker-registry")
            .arg("serve")
            .arg(&file)
            .env("OTEL_TRACES_EXPORTER", "none")
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn();
        let Ok(child) = child else {
            eprintln!("left out: `docker-registry` is not installed, so no real registry is tested");
            return None;
        };
        let real = Self { child, host, _directory: directory };
        let began = Instant::now();
        while TcpStream::connect(&real.host).is_err() {
            assert!(began.elapsed() < Duration::from_secs(20), "the registry does not start");
            std::thread::sleep(Duration::from_millis(20));
        }
        Some(real)
    }

    pub(crate) fn reference(&self, rest: &str) -> Reference {
        format!("{}/{rest}", self.host).parse().unwrap()
    }
}

#[test]
fn a_real_registry_takes_and_gives() {
    let Some(real) = Real::start("real") else { return };
    let client = client();
    let target = real.reference("team/app:v1");
    let bytes = content(3_000_000);
    let document = push_image(&client, &target, &bytes);
    assert_eq!(client.resolve(&target).unwrap().digest, *document.digest());
    assert_eq!(client.document(&target).unwrap().bytes, document.bytes);
    let layer = &document.manifest().unwrap().layers[0];
    assert_eq!(download(&client, &target, layer).unwrap(), bytes);
    assert_eq!(client.tags(&target).unwrap(), ["v1"]);
    let other = real.reference("team/other:v1");
    assert!(client.mount(&other, &layer.digest, &target).unwrap());
    assert!(client.exists(&other, &layer.digest).unwrap());
}

#[test]
fn a_real_registry_takes_content_that_grows() {
    let Some(real) = Real::start("real-growing") else { return };
    let client = client();
    let target = real.reference("team/app:v1");
    let bytes = content(2_000_000);
    let growing = Growing::default();
    growing.write(&bytes[..1_000_000]);
    let source: Arc<dyn UploadSource> = Arc::new(growing.clone());
    let writer = {
        let bytes = bytes.clone();
        std::thread::spawn(move || {
            growing.write(&bytes[1_000_000..]);
            growing.finish();
        })
    };
    let uploaded = client.upload(&target, &source, None).unwrap();
    writer.join().unwrap();
    assert_eq!(uploaded.delivery, Delivery::Sent);
    assert_eq!(download(&client, &target, &uploaded.descriptor).unwrap(), bytes);
}

/// Forwards connections, and cuts the first ones after so many bytes of what the client sends.
fn cutting_proxy(to: String, cuts: usize, after: u64) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let host = listener.local_addr().unwrap().to_string();
    std::thread::spawn(move || {
        for (n, client) in listener.incoming().map_while(Result::ok).enumerate() {
            let Ok(server) = TcpStream::connect(&to) else { return };
            let (back_from, back_to) = (server.try_clone().unwrap(), client.try_clone().unwrap());
            std::thread::spawn(move || io::copy(&mut &back_from, &mut &back_to));
            std::thread::spawn(move || {
                let limit = if n < cuts { after } else { u64::MAX };
                // However the copy ends, both sides are told.
                drop(io::copy(&mut (&client).take(limit), &mut &server));
                drop(server.shutdown(Shutdown::Both));
                drop(client.shutdown(Shutdown::Both));
            });
        }
    });
    host
}

#[test]
fn a_real_registry_is_reached_over_a_bad_line() {
    let Some(real) = Real::start("real-cuts") else { return };
    for complete in [false, true] {
        // The first connection tries TLS, two streams follow, then pieces. What distribution has of a cut
        // request it does not go on from: every cut means another beginning.
        let host = cutting_proxy(real.host.clone(), 4, 700_000);
        let client = Client::new(ClientConfig { chunk: 500_000, ..config() }).unwrap();
        let target: Reference = format!("{host}/team/app-{complete}:v1").parse().unwrap();
        let bytes = content(4_000_000 + usize::from(complete));
        let growing = Growing::default();
        growing.write(&bytes);
        if complete {
            growing.finish();
        }
        let source: Arc<dyn UploadSource> = Arc::new(growing.clone());
        let finisher = std::thread::spawn(move || growing.finish());
        let uploaded = client.upload(&target, &source, None).unwrap();
        finisher.join().unwrap();
        assert_eq!(download(&client, &target, &uploaded.descriptor).unwrap(), bytes);
    }
}

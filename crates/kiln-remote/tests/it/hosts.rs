//! Where requests go: mirrors, redirects, TLS.

use std::io::{self, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, Mutex};

use kiln_remote::server::{Auth, Faults, Registry, RegistryConfig, Running, TlsFiles};
use kiln_remote::{
    Client, ClientConfig, Credential, Credentials, ErrorKind, HostsConfig, Loopback, Notice, ProxyConfig,
    Secret,
};

use crate::support::{
    certificate, client, config, content, count, download, push_image, reference, registry, upload,
};

fn with_hosts(hosts: HostsConfig) -> Client {
    Client::new(ClientConfig { hosts, ..config() }).unwrap()
}

fn mirrored(origin: &Running, mirrors: &[&str]) -> Client {
    let mut hosts = HostsConfig::default();
    hosts.host_mut(&origin.host()).mirrors = mirrors.iter().map(|m| (*m).to_owned()).collect();
    with_hosts(hosts)
}

#[test]
fn a_mirror_is_asked_first() {
    let (origin, mirror) = (registry(), registry());
    let document = push_image(&client(), &reference(&origin, "a:v1"), b"x");
    push_image(&client(), &reference(&mirror, "cache/a:v1"), b"x");
    origin.clear_log();
    let client = mirrored(&origin, &[&format!("{}/cache", mirror.host())]);
    let target = reference(&origin, "a:v1");
    assert_eq!(client.document(&target).unwrap().bytes, document.bytes);
    assert_eq!(download(&client, &target, &document.manifest().unwrap().layers[0]).unwrap(), b"x");
    assert_eq!(origin.log().len(), 0);
    // Writes go to the registry itself.
    upload(&client, &target, b"new");
    assert_eq!(count(&origin, "PUT", "blobs"), 1);
}

#[test]
fn the_origin_answers_for_mirrors_that_fail() {
    let (origin, empty, gone) = (registry(), registry(), registry().host());
    let document = push_image(&client(), &reference(&origin, "a:v1"), b"x");
    let client = mirrored(&origin, &[&gone, &empty.host()]);
    let target = reference(&origin, "a:v1");
    assert_eq!(client.document(&target).unwrap().bytes, document.bytes);
    assert_eq!(count(&empty, "GET", "manifests"), 1);
    assert_eq!(download(&client, &target, &document.manifest().unwrap().layers[0]).unwrap(), b"x");
    let error = client.document(&reference(&origin, "absent:v1")).unwrap_err();
    assert!(!error.to_string().contains(&empty.host()), "the registry's own answer counts: {error}");
}

#[test]
fn a_mirror_that_is_gone_is_asked_once() {
    let (origin, gone) = (registry(), registry().host());
    let document = push_image(&client(), &reference(&origin, "a:v1"), b"x");
    let notices = Arc::new(Mutex::new(Vec::new()));
    let seen = Arc::clone(&notices);
    let mut hosts = HostsConfig::default();
    hosts.host_mut(&origin.host()).mirrors = vec![gone];
    let notices_to = Arc::new(move |notice: Notice| seen.lock().unwrap().push(notice));
    let client = Client::new(ClientConfig { hosts, notices: Some(notices_to), ..config() }).unwrap();
    for _ in 0..3 {
        assert_eq!(client.document(&reference(&origin, "a:v1")).unwrap().bytes, document.bytes);
    }
    let failed = |notice: &&Notice| matches!(notice, Notice::MirrorFailed { .. });
    assert_eq!(notices.lock().unwrap().iter().filter(failed).count(), 1);
}

/// A proxy that knows one way: to `target`, whatever it is asked for. Returns its URL and what it is asked.
pub(crate) fn proxy(target: String) -> (String, Receiver<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let (heads_in, heads) = channel();
    std::thread::spawn(move || {
        for client in listener.incoming().map_while(Result::ok) {
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") {
                let mut byte = [0];
                (&client).read_exact(&mut byte).unwrap();
                head.push(byte[0]);
            }
            heads_in.send(String::from_utf8(head).unwrap()).unwrap();
            (&client).write_all(b"HTTP/1.1 200 OK\r\n\r\n").unwrap();
            let server = TcpStream::connect(&target).unwrap();
            let (back_from, back_to) = (server.try_clone().unwrap(), client.try_clone().unwrap());
            std::thread::spawn(move || io::copy(&mut &back_from, &mut &back_to));
            std::thread::spawn(move || io::copy(&mut &client, &mut &server));
        }
    });
    (format!("http://ann:p%40ss@{address}"), heads)
}

#[test]
fn a_proxy_is_used_where_it_has_to_be() {
    let registry = registry();
    let document = push_image(&client(), &reference(&registry, "a:v1"), b"x");
    let (url, heads) = proxy(registry.host());
    let mut hosts = HostsConfig::default();
    hosts.host_mut("registry.invalid").plain_http = true;
    let proxy = ProxyConfig { http: Some(url), https: None, no_proxy: String::new() };
    let client = Client::new(ClientConfig { hosts, proxy, ..config() }).unwrap();
    let target = "registry.invalid/a:v1".parse().unwrap();
    assert_eq!(client.document(&target).unwrap().bytes, document.bytes);
    let head = heads.recv().unwrap();
    assert!(head.starts_with("CONNECT registry.invalid:80 HTTP/1.1\r\n"), "{head}");
    // `ann:p@ss`
    assert!(head.to_ascii_lowercase().contains("proxy-authorization: basic yw5uonbac3m="), "{head}");
    // What does not leave the machine goes through no proxy.
    client.document(&reference(&registry, "a:v1")).unwrap();
    assert!(heads.try_recv().is_err());
}

#[test]
fn a_redirect_to_another_host_carries_no_credentials() {
    let auth = Auth::Basic { user: "ann".to_owned(), password: Secret::new("p") };
    let storage = registry();
    let origin = Registry::start(RegistryConfig { auth, ..RegistryConfig::default() }).unwrap();
    let mut credentials = Credentials::none();
    let credential = Credential::Basic { username: "ann".to_owned(), password: Secret::new("p") };
    credentials.add(&origin.host(), credential.clone());
    credentials.add(&storage.host(), credential);
    let client = Client::new(ClientConfig { credentials: Arc::new(credentials), ..config() }).unwrap();
    let target = reference(&origin, "a:v1");
    let bytes = content(50_000);
    let blob = upload(&client, &target, &bytes);
    upload(&client, &reference(&storage, "a:v1"), &bytes);
    storage.clear_log();
    origin.set_faults(Faults {
        redirect_blobs: Some(format!("http://{}", storage.host())),
        ..Faults::default()
    });
    // The redirected transfer breaks, too: it goes on from the registry again.
    storage.set_faults(Faults { drop_blob_after: Some(10_000), ..Faults::default() });
    assert_eq!(download(&client, &target, &blob).unwrap(), bytes);
    assert_eq!(storage.log().iter().filter(|r| r.method == "GET").count(), 2);
    assert!(storage.log().iter().all(|r| r.authorization.is_empty()));
    assert!(origin.log().iter().any(|r| r.authorization == "Basic"));
}

pub(crate) fn tls() -> Running {
    let files = TlsFiles { certificate: certificate("server.pem"), key: certificate("server.key") };
    Registry::start(RegistryConfig { tls: Some(files), ..RegistryConfig::default() }).unwrap()
}

#[test]
fn a_private_authority_is_trusted_once_it_is_named() {
    let registry = tls();
    let target = reference(&registry, "a:v1");
    let error = client().resolve(&target).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Tls);
    assert!(error.hint().unwrap().contains("ca = "), "{error}");
    let mut trusting = HostsConfig::default();
    trusting.host_mut(&registry.host()).ca = Some(certificate("ca.pem"));
    let mut careless = HostsConfig::default();
    careless.host_mut(&registry.host()).skip_tls_verify = true;
    let mut insecure = HostsConfig::default();
    insecure.host_mut(&registry.host()).insecure = true;
    for hosts in [trusting, careless, insecure] {
        let client = with_hosts(hosts);
        let document = push_image(&client, &target, &content(100_000));
        assert_eq!(client.document(&target).unwrap().bytes, document.bytes);
    }
}

#[test]
fn plain_http_needs_permission() {
    let registry = registry();
    let target = reference(&registry, "a:v1");
    let strict = HostsConfig { loopback: Loopback::NeedsTls, ..HostsConfig::default() };
    let error = with_hosts(strict.clone()).resolve(&target).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Tls);
    let host = registry.host();
    assert_eq!(
        error.hint().unwrap(),
        format!("`{host}` speaks plain HTTP; pass `--insecure-registry {host}` to allow it")
    );
    let mut allowed = strict;
    allowed.host_mut(&host).insecure = true;
    push_image(&with_hosts(allowed), &target, b"x");
}

#[test]
fn a_missing_certificate_file_is_named() {
    let mut hosts = HostsConfig::default();
    hosts.host_mut("r.example").ca = Some("/absent/ca.pem".into());
    let error = with_hosts(hosts).resolve(&"r.example/a:v1".parse().unwrap()).unwrap_err();
    assert!(error.to_string().contains("cannot read certificates of `/absent/ca.pem`"), "{error}");
}

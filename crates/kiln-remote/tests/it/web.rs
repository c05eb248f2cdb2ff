//! Web servers that are no registries, asked through the same connections. The embedded registry is one here.

use std::io::Read as _;

use kiln_remote::server::{Auth, Faults, Registry, RegistryConfig};
use kiln_remote::{
    Client, ClientConfig, Credential, Credentials, ErrorKind, HostsConfig, Loopback, ProxyConfig, Secret,
    WebMethod, WebRequest,
};

use crate::hosts::{proxy, tls};
use crate::support::{certificate, client, config, content, reference, registry, upload};

fn get(url: String) -> WebRequest {
    let headers = Vec::new();
    WebRequest { operation: "fetch", method: WebMethod::Get, url, headers, authorization: None }
}

fn trusting(host: &str, loopback: Loopback) -> Client {
    let mut hosts = HostsConfig { loopback, ..HostsConfig::default() };
    hosts.host_mut(host).ca = Some(certificate("ca.pem"));
    Client::new(ClientConfig { hosts, ..config() }).unwrap()
}

#[test]
fn a_private_authority_counts_for_web_servers_too() {
    let server = tls();
    let url = format!("https://{}/v2/", server.host());
    let error = client().web(&get(url.clone())).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Tls);
    let answer = trusting(&server.host(), Loopback::MayUseHttp).web(&get(url)).unwrap();
    assert_eq!(answer.status, 200);
}

#[test]
fn what_began_with_tls_does_not_go_on_without() {
    let (server, plain) = (tls(), registry());
    let client = trusting(&server.host(), Loopback::NeedsTls);
    let blob = upload(&client, &reference(&server, "a:v1"), &content(10));
    server
        .set_faults(Faults { redirect_blobs: Some(format!("http://{}", plain.host())), ..Faults::default() });
    let error =
        client.web(&get(format!("https://{}/v2/a/blobs/{}", server.host(), blob.digest))).unwrap_err();
    assert!(error.to_string().contains("which is not HTTPS"), "{error}");
    assert!(plain.log().is_empty());
    // A URL that says `http` is the user's own word.
    assert_eq!(client.web(&get(format!("http://{}/v2/", plain.host()))).unwrap().status, 200);
}

#[test]
fn a_proxy_leads_to_web_servers_too() {
    let registry = registry();
    let (url, heads) = proxy(registry.host());
    let proxy = ProxyConfig { http: Some(url), https: None, no_proxy: String::new() };
    let client = Client::new(ClientConfig { proxy, ..config() }).unwrap();
    let answer = client.web(&get("http://web.invalid/v2/".to_owned())).unwrap();
    assert_eq!(answer.status, 200);
    let mut body = String::new();
    answer.reader(None).read_to_string(&mut body).unwrap();
    assert!(heads.recv().unwrap().starts_with("CONNECT web.invalid:80 HTTP/1.1\r\n"));
}

#[test]
fn credentials_of_registries_are_not_for_web_servers() {
    let auth = Auth::Basic { user: "ann".to_owned(), password: Secret::new("p") };
    let server = Registry::start(RegistryConfig { auth, ..RegistryConfig::default() }).unwrap();
    let mut credentials = Credentials::none();
    credentials
        .add(&server.host(), Credential::Basic { username: "ann".to_owned(), password: Secret::new("p") });
    let client =
        Client::new(ClientConfig { credentials: std::sync::Arc::new(credentials), ..config() }).unwrap();
    let url = format!("http://{}/v2/", server.host());
    let error = client.web(&get(url.clone())).unwrap().expect(&[200]).unwrap_err();
    assert_eq!((error.status(), error.kind()), (Some(401), ErrorKind::Unauthorized));
    assert!(!error.hint().unwrap().contains("docker login"), "{error}");
    assert!(server.log().iter().all(|r| r.authorization.is_empty()));
    // What the caller gives, and what the URL says.
    let given = WebRequest { authorization: Some(Secret::new("Basic YW5uOnA=")), ..get(url.clone()) };
    assert_eq!(client.web(&given).unwrap().status, 200);
    assert_eq!(client.web(&get(url.replace("http://", "http://ann:p@"))).unwrap().status, 200);
}

#[test]
fn a_server_that_fails_is_asked_again() {
    let server = registry();
    let url = format!("http://{}/v2/", server.host());
    server.set_faults(Faults { server_errors: 2, ..Faults::default() });
    assert_eq!(client().web(&get(url)).unwrap().status, 200);
    let error = client().web(&get("ftp://h/x".to_owned())).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Invalid);
}

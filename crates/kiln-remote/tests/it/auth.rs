//! Who the user is: basic, bearer, identity tokens, helpers.

use std::ffi::OsString;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use kiln_remote::server::{Anonymous, Auth, Faults, Registry, RegistryConfig, Running};
use kiln_remote::{Client, ClientConfig, Credential, Credentials, ErrorKind, HelperEnvironment, Secret};

use crate::support::{Directory, client, config, count, download, push_image, reference, upload};

fn start(auth: Auth) -> Running {
    Registry::start(RegistryConfig { auth, ..RegistryConfig::default() }).unwrap()
}

fn basic() -> Auth {
    Auth::Basic { user: "ann".to_owned(), password: Secret::new("hunter2") }
}

fn bearer(anonymous: Anonymous) -> Auth {
    Auth::Bearer {
        user: "ann".to_owned(),
        password: Secret::new("hunter2"),
        identity_token: Some(Secret::new("identity")),
        anonymous,
    }
}

fn with(registry: &Running, credential: Credential) -> Client {
    let mut credentials = Credentials::none();
    credentials.add(&registry.host(), credential);
    Client::new(ClientConfig { credentials: Arc::new(credentials), ..config() }).unwrap()
}

fn ann(password: &str) -> Credential {
    Credential::Basic { username: "ann".to_owned(), password: Secret::new(password) }
}

#[test]
fn name_and_password_open_the_registry() {
    for auth in [basic(), bearer(Anonymous::Nothing)] {
        let registry = start(auth);
        let target = reference(&registry, "team/app:v1");
        let client = with(&registry, ann("hunter2"));
        let document = push_image(&client, &target, b"x");
        assert_eq!(client.document(&target).unwrap().bytes, document.bytes);
        assert_eq!(download(&client, &target, &document.manifest().unwrap().layers[0]).unwrap(), b"x");
    }
}

#[test]
fn wrong_and_missing_credentials_are_told_apart() {
    for auth in [basic(), bearer(Anonymous::Nothing)] {
        let registry = start(auth);
        let target = reference(&registry, "team/app:v1");
        let missing = client().document(&target).unwrap_err();
        assert_eq!(missing.kind(), ErrorKind::Unauthorized);
        assert_eq!(missing.hint().unwrap(), format!("log in with `docker login {}`", registry.host()));
        let wrong = with(&registry, ann("wrong")).document(&target).unwrap_err();
        assert_eq!(wrong.kind(), ErrorKind::Unauthorized);
        assert!(wrong.hint().unwrap().contains("were refused"), "{wrong}");
        assert!(!format!("{wrong} {wrong:?}").contains("wrong"));
    }
}

#[test]
fn tokens_are_fetched_once_for_each_set_of_scopes() {
    let registry = start(bearer(Anonymous::Pull));
    let target = reference(&registry, "team/app:v1");
    let pusher = with(&registry, ann("hunter2"));
    push_image(&pusher, &target, b"x");
    assert_eq!(count(&registry, "GET", "/token"), 1);
    // Whoever shows nothing may pull and not push.
    let nobody = client();
    nobody.resolve(&target).unwrap();
    let source = crate::support::fixed(b"y");
    let error = nobody.upload(&target, &source, None).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unauthorized);
    assert!(error.hint().unwrap().contains("docker login"));
}

#[test]
fn an_identity_token_is_exchanged() {
    let registry = start(bearer(Anonymous::Nothing));
    let target = reference(&registry, "team/app:v1");
    push_image(&with(&registry, Credential::IdentityToken(Secret::new("identity"))), &target, b"x");
    assert_eq!((count(&registry, "POST", "/token"), count(&registry, "GET", "/token")), (1, 0));
    let wrong = with(&registry, Credential::IdentityToken(Secret::new("other")));
    assert_eq!(wrong.resolve(&target).unwrap_err().kind(), ErrorKind::Unauthorized);
}

#[test]
fn an_expired_token_is_renewed() {
    let registry = start(bearer(Anonymous::Nothing));
    let target = reference(&registry, "team/app:v1");
    let client = with(&registry, ann("hunter2"));
    let blob = upload(&client, &target, b"x");
    registry.set_faults(Faults { expire_tokens: 1, ..Faults::default() });
    assert!(client.exists(&target, &blob.digest).unwrap());
    assert_eq!(count(&registry, "GET", "/token"), 2);
    registry.set_faults(Faults { token_life: Some(Duration::ZERO), ..Faults::default() });
    client.resolve(&target).unwrap_err();
}

#[test]
fn a_mount_asks_for_both_repositories() {
    let registry = start(bearer(Anonymous::Nothing));
    let client = with(&registry, ann("hunter2"));
    let (from, target) = (reference(&registry, "base:v1"), reference(&registry, "team/app:v1"));
    let blob = upload(&client, &from, b"x");
    assert!(client.mount(&target, &blob.digest, &from).unwrap());
}

/// Writes a helper that knows one server, and returns what runs it.
fn helper(directory: &Path, script: &str) -> HelperEnvironment {
    let program = directory.join("docker-credential-test");
    std::fs::write(&program, script).unwrap();
    std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).unwrap();
    let mut path = OsString::from(directory);
    path.push(":/usr/bin:/bin");
    HelperEnvironment { path, variables: vec![("COUNT".into(), directory.join("count").into())] }
}

#[test]
fn a_helper_is_asked_once() {
    let directory = Directory::new("helper");
    let registry = start(basic());
    let script = format!(
        "#!/bin/sh\nread server\necho asked >> \"$COUNT\"\n\
         if [ \"$server\" != {} ]; then echo 'credentials not found in native keychain'; exit 1; fi\n\
         echo '{{\"ServerURL\":\"x\",\"Username\":\"ann\",\"Secret\":\"hunter2\"}}'\n",
        registry.host()
    );
    let environment = helper(&directory.0, &script);
    let file = format!(r#"{{"credsStore":"test","auths":{{"{}":{{}}}}}}"#, registry.host());
    let credentials = Credentials::parse(file.as_bytes(), Path::new("config.json"), environment).unwrap();
    assert_eq!(credentials.get("other.example", "a").unwrap(), None);
    let credentials = Arc::new(credentials);
    let client = Client::new(ClientConfig { credentials, ..config() }).unwrap();
    push_image(&client, &reference(&registry, "a:v1"), b"x");
    let asked = std::fs::read_to_string(directory.0.join("count")).unwrap();
    assert_eq!(asked.lines().count(), 2, "once for each server");
}

#[test]
fn a_helper_that_fails_says_why() {
    let directory = Directory::new("broken-helper");
    let environment = helper(&directory.0, "#!/bin/sh\necho 'the keyring is locked' >&2\nexit 1\n");
    let file = br#"{"credHelpers":{"r.example":"test","s.example":"absent"}}"#;
    let credentials = Credentials::parse(file, Path::new("config.json"), environment).unwrap();
    let error = credentials.get("r.example", "a").unwrap_err().to_string();
    assert_eq!(
        error,
        "credential helper `docker-credential-test` failed for `r.example`: the keyring is locked"
    );
    let error = credentials.get("s.example", "a").unwrap_err().to_string();
    assert!(error.contains("`docker-credential-absent` is not on the search path"), "{error}");
}

#[test]
fn the_first_file_that_knows_a_registry_answers() {
    let directory = Directory::new("files");
    let (first, second) = (directory.0.join("auth.json"), directory.0.join("config.json"));
    std::fs::write(&first, r#"{"auths":{"a.example":{"username":"first","password":"1"}}}"#).unwrap();
    std::fs::write(
        &second,
        r#"{"auths":{"a.example":{"username":"second","password":"2"},"b.example":{"identitytoken":"t"}}}"#,
    )
    .unwrap();
    let paths = [directory.0.join("absent.json"), first, second];
    let credentials = Credentials::load(&paths, HelperEnvironment::default()).unwrap();
    let username = |registry: &str| match credentials.get(registry, "x").unwrap() {
        Some(Credential::Basic { username, .. }) => username,
        other => format!("{other:?}"),
    };
    assert_eq!(username("a.example"), "first");
    assert_eq!(username("b.example"), "Some(IdentityToken(***))");
    assert_eq!(username("c.example"), "None");
}

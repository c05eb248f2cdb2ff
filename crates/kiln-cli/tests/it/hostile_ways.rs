//! Registries that send their client elsewhere: where credentials go, and where nobody goes.

use kiln::oci::{Digest, MediaType};
use kiln_testkit::lane;
use kiln_testkit::web::{Received, Reply, WebServer};
use serde_json::json;

use crate::hostile_tar::Tar;
use crate::hostile_world::{Expect, Layout, World, files, refused};

/// `me:secret`.
const LOGIN: &str = "bWU6c2VjcmV0";

/// Two servers: one that the user has a login for, and a stranger, who records what comes.
struct Ways {
    world: World,
    stranger: WebServer,
}

/// What every request to a registry that asks for a login is answered with, until it has one.
fn challenge(asked: &Received, with: &str) -> Option<Reply> {
    let known = asked.header("authorization").is_some();
    (!known).then(|| Reply::new(401, "{}").with("www-authenticate", with))
}

impl Ways {
    fn new() -> Option<Self> {
        let person = lane::people("ways to strangers").into_iter().next()?;
        let (_, tar) = image();
        let stranger = WebServer::start(move |asked: &Received| match asked.path.as_str() {
            "/the-layer" => Reply::new(200, tar.clone()),
            _ => Reply::new(200, r#"{"token":"for-the-stranger"}"#),
        });
        Some(Self { world: World::new(&person), stranger })
    }

    /// Builds on `app:1` of a registry that answers so; returns what the stranger was asked, who never sees the login.
    fn check(
        &self,
        case: &str,
        expect: &Expect,
        answer: impl Fn(&Received) -> Reply + Send + Sync + 'static,
    ) -> Vec<Received> {
        let registry = WebServer::start(answer);
        let config = json!({ "auths": { registry.host(): { "auth": LOGIN } } });
        self.world.env.write("home/.docker/config.json", config.to_string());
        self.world.env.person.give(&self.world.env.root.join("home/.docker/config.json")).unwrap();
        let dockerfile = format!("FROM {}/app:1 AS a\nFROM scratch\nCOPY --from=a / /\n", registry.host());
        self.world.write("ctx/Dockerfile", dockerfile);
        self.world.env.kiln(["prune", "--all"]).ok();
        let outcome = self.world.check(case, expect, &["build", "-o", "type=local,dest=out", "ctx"], None);
        if outcome.stderr.contains(LOGIN) || outcome.stderr.contains("secret@") {
            self.world.fail(format!("{case}: the login is shown: {}", outcome.stderr));
        }
        let seen = self.stranger.take_log();
        if seen.iter().any(|asked| asked.headers.iter().any(|(_, value)| value.contains(LOGIN))) {
            self.world.fail(format!("{case}: the stranger has the login: {seen:#?}"));
        }
        seen
    }
}

/// Returns an image whose layer is where the stranger has it.
fn image() -> (Layout, Vec<u8>) {
    let tar = Tar::new().file("f", "the layer").end();
    (Layout::of(&[(&tar, &tar)]), tar)
}

/// Answers for a registry that has the documents of an image; `layer` answers for its layer.
fn documents(
    mut layout: Layout,
    layer: impl Fn(&Received) -> Reply + Send + Sync + 'static,
) -> impl Fn(&Received) -> Reply + Send + Sync + 'static {
    let config = serde_json::to_vec(&layout.config).unwrap();
    layout.manifest["config"] = layout.put(MediaType::OCI_CONFIG, &config);
    let manifest = serde_json::to_vec(&layout.manifest).unwrap();
    let config_path = format!("/v2/app/blobs/{}", Digest::sha256(&config));
    move |asked: &Received| {
        if let Some(reply) = challenge(asked, "Basic realm=\"r\"") {
            return reply;
        }
        if asked.path == config_path {
            return Reply::new(200, config.clone());
        }
        if asked.path.starts_with("/v2/app/manifests/") {
            return Reply::new(200, manifest.clone()).with("content-type", MediaType::OCI_MANIFEST);
        }
        if asked.path.starts_with("/v2/app/blobs/") { layer(asked) } else { Reply::new(200, "{}") }
    }
}

#[test]
fn redirects() {
    let Some(ways) = Ways::new() else { return };
    let f = files(&["file 644 f=the layer"]);
    let elsewhere = ways.stranger.url("/the-layer");
    let to = |place: String| move |_: &Received| Reply::new(307, "").with("location", &place);
    let seen = ways.check("a layer at a stranger's", &f, documents(image().0, to(elsewhere.clone())));
    if seen.len() != 1 || seen[0].header("authorization").is_some() {
        ways.world.fail(format!("the stranger was asked with a login: {seen:#?}"));
    }
    let with_login = elsewhere.replace("http://", "http://me:secret@");
    ways.check(
        "a layer at a stranger's, with a login in the address",
        &Expect::Built,
        documents(image().0, to(with_login)),
    );
    let lost = |part: &'static str| Expect::Refused(3, vec!["app@sha256:", part]);
    for (place, part) in [
        ("file:///etc/passwd", "no usable `Location`"),
        ("gopher://127.0.0.1/x", "which is not HTTPS"),
        ("http://169.254.169.254/latest/meta-data/", "which is not HTTPS"),
        ("http://metadata.google.internal/", "which is not HTTPS"),
        ("http://[fe80::1]/", "which is not HTTPS"),
        ("javascript:alert(1)", "app"),
        ("http://", "app"),
        ("\u{1}\u{2}", "app"),
        ("", "app"),
    ] {
        let seen = ways.check(
            &format!("a redirect to `{place}`"),
            &lost(part),
            documents(image().0, to(place.to_owned())),
        );
        if !seen.is_empty() {
            ways.world.fail(format!("{place}: {seen:?}"));
        }
    }
    let around = |asked: &Received| Reply::new(302, "").with("location", &asked.path);
    ways.check("a redirect to itself", &lost("too many redirects"), documents(image().0, around));
    let longer = |asked: &Received| Reply::new(302, "").with("location", &format!("{}x", asked.path));
    ways.check("redirects without an end", &lost("too many redirects"), documents(image().0, longer));
    let nowhere = |_: &Received| Reply::new(301, "");
    ways.check("a redirect to nowhere", &lost("no usable `Location`"), documents(image().0, nowhere));
    ways.world.finish();
}

#[test]
fn token_servers() {
    let Some(ways) = Ways::new() else { return };
    let bearer =
        |realm: &str| format!("Bearer realm=\"{realm}\",service=\"s\",scope=\"repository:app:pull\"");
    let asks = |realm: &str| {
        let with = bearer(realm);
        move |asked: &Received| challenge(asked, &with).unwrap_or_else(|| Reply::new(404, "{}"))
    };
    // A login is for the registry *and* for the token server that it names: that is the protocol. It goes there over TLS, or
    // to this machine, and nowhere else.
    for realm in ["http://169.254.169.254/token", "http://registry.example/token", "ftp://127.0.0.1/"] {
        ways.check(
            &format!("a token server at `{realm}`"),
            &Expect::Refused(3, vec!["app:1", "which is not HTTPS"]),
            asks(realm),
        );
    }
    for realm in ["", "//", "file:///etc/passwd", "\\u{1b}[31m", "token", "http://"] {
        ways.check(&format!("a token server `{realm}`"), &Expect::Refused(3, vec!["app:1"]), asks(realm));
    }
    let unfinished = |asked: &Received| {
        challenge(asked, "Bearer realm=\"http://127.0.0.1:1/").unwrap_or_else(|| Reply::new(404, "{}"))
    };
    ways.check("a challenge without an end", &Expect::Refused(3, vec!["app:1"]), unfinished);
    let many = "Basic,".repeat(10_000);
    let flood =
        move |asked: &Received| challenge(asked, &many[..30_000]).unwrap_or_else(|| Reply::new(404, "{}"));
    ways.check("ten thousand challenges", &Expect::Refused(1, vec!["app:1"]), flood);
    ways.world.finish();
}

#[test]
fn foreign_layers() {
    let Some(ways) = Ways::new() else { return };
    let foreign = |url: &str| {
        let (mut layout, _) = image();
        let layer = &mut layout.manifest["layers"][0];
        layer["mediaType"] = json!("application/vnd.oci.image.layer.nondistributable.v1.tar");
        layer["urls"] = json!([url]);
        layout
    };
    let absent = |_: &Received| Reply::new(404, "{}");
    // What the registry does not have is taken from the address in the manifest, checked like every layer.
    let f = files(&["file 644 f=the layer"]);
    let seen =
        ways.check("from its address", &f, documents(foreign(&ways.stranger.url("/the-layer")), absent));
    if seen.len() != 1 || seen[0].header("authorization").is_some() {
        ways.world.fail(format!("asked as: {seen:#?}"));
    }
    let lies = refused(&["app@sha256:"]);
    ways.check("from an address that lies", &lies, documents(foreign(&ways.stranger.url("/other")), absent));
    for (code, url) in [
        (1, "file:///etc/passwd"),
        (3, "/etc/passwd"),
        (3, "http://169.254.169.254/x"),
        (1, "not an address"),
        (1, ""),
    ] {
        let expect = Expect::Refused(code, vec!["app@sha256:"]);
        ways.check(&format!("from `{url}`"), &expect, documents(foreign(url), absent));
    }
    ways.world.finish();
}

#[test]
fn names() {
    let Some(ways) = Ways::new() else { return };
    let host = ways.stranger.host();
    for name in [
        format!("{host}/app:.."),
        format!("{host}/../app:1"),
        format!("{host}/app/../../x"),
        format!("{host}/app:1/../x"),
        format!("{host}/app@sha256:../../../etc/passwd"),
        format!("{host}/app@sha256:zz"),
        format!("{host}/APP"),
        format!("{host}/a//b"),
        format!("{host}/app:{}", "t".repeat(200)),
        format!("{host}/app?x=1#y"),
        format!("http://{host}/app"),
        format!("me:secret@{host}/app"),
    ] {
        ways.world.write("ctx/Dockerfile", format!("FROM {name}\n"));
        ways.world.check(&format!("FROM {name}"), &refused(&["Dockerfile:1"]), &["build", "ctx"], None);
    }
    if !ways.stranger.take_log().is_empty() {
        ways.world.fail("a name that is none was asked for");
    }
    ways.world.finish();
}

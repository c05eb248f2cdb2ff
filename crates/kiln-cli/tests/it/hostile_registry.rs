//! Hostile registries: documents that lie, content that is not what it says, and ways that lead to strangers.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use kiln::oci::{Digest, MediaType, Platform};
use kiln_testkit::lane;
use kiln_testkit::web::{Received, Reply, WebServer};
use serde_json::{Value, json};

use crate::hostile_tar::Tar;
use crate::hostile_world::{Expect, Layout, World, files, refused};

/// Answers by path, for whoever asks.
type Answers = Arc<Mutex<BTreeMap<String, Reply>>>;

/// A registry of one image, `app:1`, every answer of which can be another.
struct Evil {
    world: World,
    server: WebServer,
    answers: Answers,
}

impl Evil {
    fn new() -> Option<Self> {
        let person = lane::people("hostile registries").into_iter().next()?;
        let answers = Answers::default();
        let shared = Arc::clone(&answers);
        let server = WebServer::start(move |asked: &Received| {
            let found = shared.lock().unwrap().get(&asked.path).cloned();
            found.unwrap_or_else(|| Reply::new(404, r#"{"errors":[{"code":"NAME_UNKNOWN"}]}"#))
        });
        Some(Self { world: World::new(&person), server, answers })
    }

    fn answer(&self, path: &str, reply: Reply) {
        self.answers.lock().unwrap().insert(path.to_owned(), reply);
    }

    fn blob(&self, digest: &str, bytes: &[u8]) {
        self.answer(&format!("/v2/app/blobs/{digest}"), Reply::new(200, bytes));
    }

    /// Serves a document under the tag and under its digest, with any digest in the header.
    fn document(&self, media_type: &str, bytes: &[u8], digest: &str) {
        let reply =
            Reply::new(200, bytes).with("content-type", media_type).with("docker-content-digest", digest);
        let real = Digest::sha256(bytes);
        for name in ["1", digest, real.as_str()] {
            self.answer(&format!("/v2/app/manifests/{name}"), reply.clone());
        }
    }

    /// Serves an image.
    fn image(&self, mut layout: Layout) {
        let config = serde_json::to_vec(&layout.config).unwrap();
        let described = layout.put(MediaType::OCI_CONFIG, &config);
        if layout.manifest["config"].is_null() {
            layout.manifest["config"] = described;
        }
        for (hex, bytes) in &layout.blobs {
            self.blob(&format!("sha256:{hex}"), bytes);
        }
        self.manifest(&layout.manifest);
    }

    fn manifest(&self, manifest: &Value) {
        let bytes = serde_json::to_vec(manifest).unwrap();
        let digest = Digest::sha256(&bytes);
        self.document(MediaType::OCI_MANIFEST, &bytes, digest.as_str());
    }

    /// Builds on the image, whose files are copied, from a store that knows nothing of it.
    fn check(&self, case: &str, expect: &Expect) -> Vec<Received> {
        let dockerfile = format!("FROM {}/app:1 AS a\nFROM scratch\nCOPY --from=a / /\n", self.server.host());
        self.world.write("ctx/Dockerfile", dockerfile);
        drop(self.server.take_log());
        self.world.check(case, expect, &["build", "--no-cache", "-o", "type=local,dest=out", "ctx"], None);
        self.answers.lock().unwrap().clear();
        self.server.take_log()
    }
}

/// Returns an image of one layer; the number keeps one case from what another left in the store.
fn sound(number: u32) -> (Layout, Vec<u8>) {
    let tar = Tar::new().file("f", &format!("{number:04}")).end();
    (Layout::of(&[(&tar, &tar)]), tar)
}

/// A digest that nothing has.
const NOTHING: &str = "sha256:0000000000000000000000000000000000000000000000000000000000000000";

#[test]
fn manifests() {
    let Some(evil) = Evil::new() else { return };
    let with = |number: u32, change: &dyn Fn(&mut Layout)| {
        let (mut layout, _) = sound(number);
        change(&mut layout);
        evil.image(layout);
    };
    with(1, &|_| {});
    evil.check("a sound image", &files(&["file 644 f=0001"]));
    let (layout, _) = sound(2);
    evil.image(layout);
    let bytes = serde_json::to_vec(&json!({ "schemaVersion": 2 })).unwrap();
    evil.document(MediaType::OCI_MANIFEST, &bytes, NOTHING);
    evil.check("a manifest of another digest", &refused(&["content has digest", "sha256:000"]));
    for (number, media_type, said) in [
        (3, "application/vnd.docker.distribution.manifest.v1+prettyjws", "is not supported"),
        (4, "text/html", "is not supported"),
        (5, "", "is not supported"),
    ] {
        let _ = number;
        evil.document(
            media_type,
            br#"{"schemaVersion":1,"fsLayers":[]}"#,
            Digest::sha256(br#"{"schemaVersion":1,"fsLayers":[]}"#).as_str(),
        );
        evil.check(&format!("schema 1 as `{media_type}`"), &refused(&[said]));
    }
    with(6, &|l| l.manifest["mediaType"] = json!(MediaType::OCI_INDEX));
    evil.check("a manifest that says it is an index", &refused(&["app:1"]));
    with(7, &|l| l.manifest["manifests"] = json!([]));
    evil.check("manifest and index at once", &refused(&["app:1"]));
    with(8, &|l| l.manifest["layers"][0]["digest"] = json!("sha256:../../../../etc/passwd"));
    evil.check("a digest with `..`", &refused(&["digest"]));
    with(9, &|l| {
        l.manifest["config"] =
            json!({ "mediaType": MediaType::OCI_CONFIG, "size": 2, "digest": "sha256:/etc/passwd" });
    });
    evil.check("a config whose digest is a path", &refused(&["digest"]));
    with(10, &|l| l.manifest["layers"][0]["digest"] = json!("md5:d41d8cd98f00b204e9800998ecf8427e"));
    evil.check("an unknown algorithm", &refused(&["md5"]));
    with(11, &|l| l.manifest["layers"][0]["digest"] = json!("sha256:ABCDEF"));
    evil.check("a short digest", &refused(&["digest"]));
    with(12, &|l| l.manifest["layers"][0]["size"] = json!(-1));
    evil.check("a negative size", &refused(&["app:1"]));
    with(13, &|l| l.manifest["layers"][0]["size"] = json!(u64::MAX));
    evil.check("a size of 2^64 - 1", &refused(&["bytes"]));
    with(14, &|l| l.manifest["layers"][0]["mediaType"] = json!("application/x-nothing"));
    evil.check("a layer of an unknown type", &files(&["file 644 f=0014"]));
    with(15, &|l| l.manifest["layers"] = json!([]));
    evil.check("fewer layers than diff ids", &refused(&["layers"]));
    with(16, &|l| {
        let again = l.manifest["layers"][0].clone();
        l.manifest["layers"].as_array_mut().unwrap().push(again);
    });
    evil.check("more layers than diff ids", &refused(&["layers"]));
    with(17, &|l| l.config["rootfs"]["diff_ids"] = json!([NOTHING]));
    evil.check("a wrong diff id", &refused(&["unpacks to", "sha256:000", "tampered with"]));
    with(18, &|l| l.config["rootfs"]["diff_ids"] = json!("none"));
    evil.check("diff ids that are a text", &refused(&["config"]));
    with(19, &|l| l.manifest["config"] = l.manifest["layers"][0].clone());
    evil.check("a config that is a layer", &refused(&["config"]));
    with(20, &|l| {
        l.config["config"] =
            json!({ "Env": ["A\n=\u{1b}[31mred", "=", "NUL=\0"], "User": "\u{7}", "WorkingDir": "../../.." });
    });
    evil.check("a config with control characters", &Expect::Built);
    with(21, &|l| l.config["config"] = json!({ "OnBuild": ["RUN \u{1b}]0;title\u{7}", "FROM scratch"] }));
    evil.check("triggers with control characters", &refused(&["ONBUILD"]));
    with(22, &|l| l.config["history"] = json!(vec![json!({ "empty_layer": true }); 5000]));
    evil.check("a history of other layers", &Expect::Built);
    evil.world.finish();
}

#[test]
fn bombs_of_json() {
    let Some(evil) = Evil::new() else { return };
    let serve = |bytes: Vec<u8>| {
        let digest = Digest::sha256(&bytes);
        evil.document(MediaType::OCI_MANIFEST, &bytes, digest.as_str());
    };
    serve([b"{\"a\":".repeat(100_000), b"1".to_vec(), b"}".repeat(100_000)].concat());
    evil.check("a hundred thousand objects in each other", &refused(&["app:1", "recursion limit"]));
    serve(b"[".repeat(1_000_000));
    evil.check("a million brackets", &refused(&["app:1"]));
    serve(
        format!("{{\"schemaVersion\":2,\"annotations\":{{\"a\":\"{}\"}}}}", "x".repeat(100_000_000))
            .into_bytes(),
    );
    evil.check("a document of 100 MB", &refused(&["app:1", "larger than"]));
    serve(b"{}".to_vec());
    evil.check("an empty document", &refused(&["app:1"]));
    serve(Vec::new());
    evil.check("no document", &refused(&["app:1"]));
    serve(b"<html>\x1b[2J</html>".to_vec());
    evil.check("a web page", &refused(&["app:1"]));
    let layer = json!({ "mediaType": MediaType::OCI_LAYER, "size": 0, "digest": NOTHING });
    let (layout, _) = sound(100);
    let mut many = layout.manifest.clone();
    many["config"] = json!({ "mediaType": MediaType::OCI_CONFIG, "size": 2, "digest": NOTHING });
    many["layers"] = json!(vec![layer; 20_000]);
    serve(serde_json::to_vec(&many).unwrap());
    evil.check("20,000 layers", &refused(&["layers"]));
    let (mut layout, _) = sound(101);
    layout.config["config"] = json!({ "Labels": { "a": "x".repeat(20_000_000) } });
    evil.image(layout);
    evil.check("a config of 20 MB", &refused(&["config has", "bytes"]));
    evil.world.finish();
}

#[test]
fn indexes() {
    let Some(evil) = Evil::new() else { return };
    let host = Platform::host();
    let platform = json!({ "architecture": host.architecture, "os": host.os });
    let index = |manifests: Vec<Value>| {
        serde_json::to_vec(
            &json!({ "schemaVersion": 2, "mediaType": MediaType::OCI_INDEX, "manifests": manifests }),
        )
        .unwrap()
    };
    let entry = |media_type: &str, bytes: &[u8], digest: &str| json!({ "mediaType": media_type, "size": bytes.len(), "digest": digest, "platform": platform });
    let serve = |bytes: &[u8]| {
        let digest = Digest::sha256(bytes);
        evil.document(MediaType::OCI_INDEX, bytes, digest.as_str());
        digest.to_string()
    };
    // No document can have its own digest; one that says so lies.
    let own = index(vec![entry(MediaType::OCI_INDEX, b"", NOTHING)]);
    evil.document(MediaType::OCI_INDEX, &own, NOTHING);
    evil.check("an index that points to itself", &refused(&["content has digest"]));
    serve(&own);
    evil.check("an index that points to nothing", &Expect::Refused(1, vec!["app"]));
    let mut inner = serve(&index(vec![]));
    let mut bytes = Vec::new();
    for _ in 0..100 {
        bytes = index(vec![entry(MediaType::OCI_INDEX, &bytes, &inner)]);
        inner = serve(&bytes);
    }
    evil.check("a hundred indexes in each other", &refused(&["index points to another index"]));
    serve(&index(vec![]));
    evil.check("an index of nothing", &refused(&["no image for"]));
    let other = json!({ "mediaType": MediaType::OCI_MANIFEST, "size": 1, "digest": NOTHING, "platform": { "os": "plan9", "architecture": "\u{1b}[31m" } });
    serve(&index(vec![other.clone(); 10]));
    evil.check("platforms with control characters", &refused(&["no image for"]));
    let small = json!({ "mediaType": "", "size": 1, "digest": NOTHING });
    serve(&index(vec![small; 30_000]));
    evil.check("an index of 30,000 entries", &refused(&["app:1"]));
    serve(&index(vec![other; 100_000]));
    evil.check("an index of 100,000 entries", &refused(&["larger than"]));
    let (layout, _) = sound(200);
    evil.image(layout);
    let manifest = evil.answers.lock().unwrap()["/v2/app/manifests/1"].body.clone();
    let real = Digest::sha256(&manifest).to_string();
    serve(&index(vec![entry(MediaType::OCI_MANIFEST, b"12345", &real)]));
    evil.check("a manifest of another size than its index says", &Expect::Built);
    evil.world.finish();
}

#[test]
fn content() {
    let Some(evil) = Evil::new() else { return };
    let serve = |number: u32, change: &dyn Fn(&[u8]) -> Reply| {
        let (layout, tar) = sound(number);
        evil.image(layout);
        let digest = Digest::sha256(&tar);
        evil.answer(&format!("/v2/app/blobs/{digest}"), change(&tar));
    };
    let lies = || refused(&["app@sha256:"]);
    let breaks = || Expect::Refused(3, vec!["app@sha256:"]);
    serve(300, &|tar| Reply::new(200, [tar, b"more"].concat()));
    evil.check("a blob that is longer", &lies());
    serve(301, &|tar| Reply::new(200, &tar[..tar.len() - 1]));
    evil.check("a blob that is shorter", &lies());
    serve(302, &|tar| {
        let mut other = tar.to_vec();
        other[600] ^= 1;
        Reply::new(200, other)
    });
    evil.check("another blob of the same size", &refused(&["digest"]));
    serve(303, &|_| Reply::new(200, vec![0_u8; 50_000_000]));
    evil.check("a blob without an end", &lies());
    serve(304, &|tar| Reply::new(200, tar).with("content-length", "100"));
    evil.check("a length that is too small", &lies());
    serve(305, &|tar| Reply::new(200, tar).with("content-length", "99999999"));
    evil.check("a length that is too large", &breaks());
    serve(306, &|tar| Reply::new(200, tar).with("content-length", "-5"));
    evil.check("a negative length", &breaks());
    serve(307, &|tar| Reply::new(200, tar).with("content-encoding", "gzip"));
    evil.check("an encoding that it has not", &Expect::Built);
    serve(308, &|_| Reply::new(200, ""));
    evil.check("an empty blob", &lies());
    serve(309, &|_| Reply::new(206, "part").with("content-range", "bytes 5-8/100"));
    evil.check("a part that nobody asked for", &breaks());
    serve(310, &|_| Reply::new(204, ""));
    evil.check("no content", &breaks());
    serve(311, &|_| Reply::new(401, "{}").with("www-authenticate", "Negotiate"));
    evil.check("a challenge that nobody knows", &breaks());
    serve(312, &|_| Reply::new(418, "\u{1b}[31m".repeat(100_000)));
    evil.check("an error with control characters", &lies());
    evil.world.finish();
}

//! Outputs that are there already are left alone, and say so.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use kiln_testkit::{Image, TestEnv};

use crate::env;

/// Returns what a file is that nobody wrote to or replaced: its inode and its time of change.
fn untouched(path: &Path) -> (u64, i64, i64) {
    let meta = fs::symlink_metadata(path).unwrap();
    (meta.ino(), meta.ctime(), meta.ctime_nsec())
}

fn context(env: &TestEnv) {
    env.write("ctx/Dockerfile", "FROM scratch\nCOPY a /a\nCOPY b /b\nCMD [\"/a\"]\n");
    env.write("ctx/a", "first");
    env.write("ctx/b", "second");
}

/// Returns what the registry was asked since the last time, as `METHOD path`.
fn asked(env: &TestEnv) -> Vec<String> {
    let log = env.registry.log();
    env.registry.clear_log();
    let asked = log.into_iter().map(|r| format!("{} {}", r.method, r.path));
    // The question whether this host of a test, of which nothing is configured, speaks TLS.
    asked.filter(|request| request != "GET /v2/").collect()
}

#[test]
fn an_image_that_a_tag_is_already_costs_one_request() {
    let env = env();
    context(&env);
    let name = format!("{}/app:1", env.host());
    let pushed = env.kiln(["build", "-t", &name, "--push", "ctx"]);
    assert!(pushed.stderr.contains(&format!("pushed to `{name}`")), "{}", pushed.stderr);
    asked(&env);
    let again = env.kiln(["build", "-t", &name, "--push", "ctx"]);
    assert_eq!(again.ok(), pushed.ok());
    assert!(again.stderr.contains(&format!("`{name}` is unchanged")), "{}", again.stderr);
    assert_eq!(asked(&env), ["HEAD /v2/app/manifests/1"]);
}

#[test]
fn each_name_is_checked_for_itself() {
    let env = env();
    context(&env);
    let [one, two, other] = ["app:1", "app:2", "other:1"].map(|name| format!("{}/{name}", env.host()));
    env.kiln(["build", "-t", &one, "--push", "ctx"]).ok();
    asked(&env);
    // The repository has the blobs, so the second tag costs its manifest alone.
    let told = env.kiln(["build", "-t", &one, "-t", &two, "--push", "ctx"]);
    told.ok();
    assert!(told.stderr.contains(&format!("`{one}` is unchanged")), "{}", told.stderr);
    let mut requests = asked(&env);
    requests.sort();
    assert_eq!(requests, ["HEAD /v2/app/manifests/1", "HEAD /v2/app/manifests/2", "PUT /v2/app/manifests/2"]);
    // Another repository may lack them, whatever the first one has.
    env.kiln(["build", "-t", &one, "-t", &other, "--push", "ctx"]).ok();
    let requests = asked(&env);
    assert!(requests.contains(&"PUT /v2/other/manifests/1".to_owned()), "{requests:?}");
    assert!(requests.iter().any(|r| r.starts_with("POST /v2/other/blobs/uploads/")), "{requests:?}");
    assert!(!requests.iter().any(|r| r.contains("/v2/app/blobs/") || r == "PUT /v2/app/manifests/1"));
    assert_eq!(Image::pull(&other).digest, Image::pull(&one).digest);
}

#[test]
fn a_changed_image_sends_only_what_is_new() {
    let env = env();
    context(&env);
    let name = format!("{}/app:1", env.host());
    env.kiln(["build", "-t", &name, "--push", "ctx"]).ok();
    env.write("ctx/b", "something else");
    asked(&env);
    env.kiln(["build", "-t", &name, "--push", "ctx"]).ok();
    let requests = asked(&env);
    let count = |method: &str, part: &str| {
        requests.iter().filter(|r| r.starts_with(method) && r.contains(part)).count()
    };
    assert_eq!(count("POST", "/blobs/uploads/"), 2, "the layer and the config: {requests:?}");
    assert_eq!(count("HEAD", "/manifests/1") + count("PUT", "/manifests/1"), 2, "{requests:?}");
    assert_eq!(Image::pull(&name).last().text("b").as_deref(), Some("something else"));
}

#[test]
fn a_layout_directory_keeps_what_it_has() {
    let env = env();
    context(&env);
    let build = |tag: &str| env.kiln(["build", "-t", tag, "-o", "type=oci,dest=layout,tar=false", "ctx"]);
    build("app:1").ok();
    let layout = env.root.join("layout");
    let files = || {
        let blobs = fs::read_dir(layout.join("blobs/sha256")).unwrap().map(|blob| blob.unwrap().path());
        let mut files: Vec<_> = blobs.chain([layout.join("oci-layout"), layout.join("index.json")]).collect();
        files.sort();
        files.into_iter().map(|path| (untouched(&path), path)).collect::<Vec<_>>()
    };
    let before = files();
    let again = build("app:1");
    assert!(again.stderr.contains("unchanged: `layout` is an OCI layout"), "{}", again.stderr);
    assert_eq!(files(), before);
    // A second name changes the index and nothing else.
    let named = build("app:2");
    assert!(named.stderr.contains("written as an OCI layout"), "{}", named.stderr);
    let changed: Vec<_> = files().into_iter().filter(|file| !before.contains(file)).map(|f| f.1).collect();
    assert_eq!(changed, [layout.join("index.json")]);
    // The first name is still there, in its place, and unchanged.
    let after = files();
    assert!(build("app:1").stderr.contains("unchanged"));
    assert_eq!(files(), after);
}

#[test]
fn archives_that_hold_the_image_stay_as_they_are() {
    let env = env();
    context(&env);
    let outputs = ["type=oci,dest=oci.tar", "type=docker,dest=docker.tar", "type=tar,dest=rootfs.tar"];
    let files = ["oci.tar", "docker.tar", "rootfs.tar"].map(|name| env.root.join(name));
    let build =
        || env.kiln(["build", "-t", "app:1", "-o", outputs[0], "-o", outputs[1], "-o", outputs[2], "ctx"]);
    build().ok();
    let before: Vec<_> = files.iter().map(|file| untouched(file)).collect();
    let told = build();
    assert_eq!(told.stderr.matches("unchanged: ").count(), 3, "{}", told.stderr);
    assert_eq!(files.iter().map(|file| untouched(file)).collect::<Vec<_>>(), before);
    // Another image, a file that was cut and one with more behind it are written anew.
    env.write("ctx/b", "other");
    let told = build();
    assert!(!told.stderr.contains("unchanged: "), "{}", told.stderr);
    let right: Vec<_> = files.iter().map(|file| fs::read(file).unwrap()).collect();
    for damage in [-1_i64, 512] {
        for (file, right) in files.iter().zip(&right) {
            let length = right.len().checked_add_signed(isize::try_from(damage).unwrap()).unwrap();
            let file = fs::File::options().write(true).open(file).unwrap();
            file.set_len(length as u64).unwrap();
        }
        assert!(!build().stderr.contains("unchanged: "));
        for (file, right) in files.iter().zip(&right) {
            assert!(fs::read(file).unwrap() == *right, "{} after {damage}", file.display());
        }
    }
}

#[test]
fn an_archive_is_updated_from_the_one_that_is_there() {
    let env = env();
    env.write("ctx/Dockerfile", format!("FROM {}\nCOPY --link a /a\n", env.base()));
    env.write("ctx/a", "first");
    env.kiln(["build", "-t", "app:1", "-o", "type=oci,dest=app.tar", "ctx"]).ok();
    // Another store on another machine, which has the archive but never had the base.
    fs::rename(env.root.join("home/store"), env.root.join("gone")).unwrap();
    let base = Image::pull(&env.base());
    env.registry.clear_log();
    env.write("ctx/a", "second");
    env.kiln(["build", "-t", "app:1", "-o", "type=oci,dest=app.tar", "ctx"]).ok();
    let config = format!("/v2/base/blobs/{}", base.manifest.config.digest);
    assert_eq!(env.blobs_fetched(), [config]);
    env.kiln(["build", "-t", "app:1", "-o", "type=oci,dest=new.tar", "ctx"]).ok();
    assert!(fs::read(env.root.join("app.tar")).unwrap() == fs::read(env.root.join("new.tar")).unwrap());
    let left: Vec<_> = fs::read_dir(&env.root).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert!(!left.iter().any(|name| name.to_string_lossy().ends_with(".kiln")), "{left:?}");
}

#[test]
fn a_directory_gets_only_the_files_that_changed() {
    let env = env();
    env.write("ctx/Dockerfile", "FROM scratch\nCOPY files /\n");
    env.write("ctx/files/dir/same", "content");
    env.write("ctx/files/dir/other", "before");
    std::os::unix::fs::symlink("dir/same", env.root.join("ctx/files/link")).unwrap();
    let build = || env.kiln(["build", "-o", "type=local,dest=out", "ctx"]);
    build().ok();
    let out = env.root.join("out");
    let all = ["dir", "dir/same", "dir/other", "link"].map(|name| out.join(name));
    let before = all.each_ref().map(|path| untouched(path));
    let told = build();
    assert!(told.stderr.contains("unchanged: "), "{}", told.stderr);
    assert_eq!(all.each_ref().map(|path| untouched(path)), before);
    // The same length, but not the same bytes; and one that somebody else changed.
    env.write("ctx/files/dir/other", "after!");
    let told = build();
    assert!(told.stderr.contains("written as a root file system"), "{}", told.stderr);
    assert_eq!(untouched(&all[1]), before[1]);
    assert_eq!(fs::read_to_string(&all[2]).unwrap(), "after!");
    fs::write(&all[1], "hostile").unwrap();
    build().ok();
    assert_eq!(fs::read_to_string(&all[1]).unwrap(), "content");
    fs::remove_file(&all[3]).unwrap();
    fs::write(&all[3], "no link").unwrap();
    build().ok();
    assert_eq!(fs::read_link(&all[3]).unwrap(), Path::new("dir/same"));
}

#[test]
fn the_base_is_converted_once_when_compression_is_forced() {
    let env = env();
    let base = env.base();
    env.write("ctx/Dockerfile", format!("FROM {base}\nCOPY --link a /a\n"));
    env.write("ctx/a", "a");
    let original = Image::pull(&base);
    let media_types = |image: &Image| {
        let types = image.manifest.layers.iter().map(|layer| layer.media_type.as_str().to_owned());
        types.map(|t| t.rsplit('.').next().unwrap().to_owned()).collect::<Vec<_>>()
    };
    let build = |name: &str, more: &[&str]| {
        let name = format!("{}/{name}", env.host());
        let output = format!("type=registry,name={name}");
        let output =
            [output].into_iter().chain(more.iter().map(|m| (*m).to_owned())).collect::<Vec<_>>().join(",");
        env.registry.clear_log();
        env.kiln(["build", "-o", &output, "ctx"]).ok();
        Image::pull(&name)
    };
    // Without force only the new layer is in the asked compression.
    let mixed = build("mixed:1", &["compression=zstd"]);
    assert_eq!(media_types(&mixed), ["tar+gzip", "tar+zstd"]);
    for (kind, media_type) in [("zstd", "tar+zstd"), ("uncompressed", "tar"), ("gzip", "tar+gzip")] {
        let compression = format!("compression={kind}");
        let image = build(&format!("{kind}:1"), &[&compression, "force-compression=true"]);
        assert_eq!(media_types(&image), [media_type, media_type]);
        // `Image::pull` compared the content of both with these.
        assert_eq!(image.config.rootfs.diff_ids, mixed.config.rootfs.diff_ids);
        let is_original = image.manifest.layers[0].digest == original.manifest.layers[0].digest;
        assert_eq!(is_original, kind == "gzip", "what has the compression stays as it is");
    }
    // The second time everything is remembered: nothing is fetched and nothing sent.
    env.registry.clear_log();
    let name = format!("{}/zstd:1", env.host());
    let told =
        env.kiln(["build", "-t", &name, "--push", "--compression", "zstd", "--force-compression", "ctx"]);
    assert!(told.stderr.contains("is unchanged"), "{}", told.stderr);
    assert_eq!(env.blobs_fetched(), Vec::<String>::new());
}

#[test]
fn a_base_that_is_not_what_it_says_is_not_converted() {
    let env = env();
    let layout = env.root.join("bad");
    kiln_testkit::base::write_layout(&layout).unwrap();
    // The config names another diff id than the layer has; all digests of the documents are right.
    let blobs = layout.join("blobs/sha256");
    let store = |bytes: &[u8]| {
        let digest = kiln::oci::Digest::sha256(bytes);
        fs::write(blobs.join(digest.hex()), bytes).unwrap();
        digest.to_string()
    };
    let read = |path: &Path| serde_json::from_slice::<serde_json::Value>(&fs::read(path).unwrap()).unwrap();
    let blob = |descriptor: &serde_json::Value| {
        read(&blobs.join(descriptor["digest"].as_str().unwrap().strip_prefix("sha256:").unwrap()))
    };
    let mut index = read(&layout.join("index.json"));
    let mut manifest = blob(&index["manifests"][0]);
    let mut config = blob(&manifest["config"]);
    config["rootfs"]["diff_ids"][0] = format!("sha256:{}", "0".repeat(64)).into();
    for (document, descriptor) in [(config, 0), (serde_json::Value::Null, 1)] {
        let document = if descriptor == 0 { document } else { manifest.clone() };
        let bytes = serde_json::to_vec(&document).unwrap();
        let target = if descriptor == 0 { &mut manifest["config"] } else { &mut index["manifests"][0] };
        target["digest"] = store(&bytes).into();
        target["size"] = bytes.len().into();
    }
    fs::write(layout.join("index.json"), serde_json::to_vec(&index).unwrap()).unwrap();
    env.write("ctx/Dockerfile", "FROM base\nCMD [\"x\"]\n");
    let context = format!("base=oci-layout://{}", layout.display());
    env.kiln(["build", "--build-context", &context, "--compression", "zstd", "--force-compression", "ctx"])
        .fails(1, &["anew", "its image says sha256:0000", "damaged or was tampered with"]);
}

#[test]
fn layers_become_estargz_and_steps_stay_cached() {
    let env = env();
    let base = env.base();
    env.write("ctx/Dockerfile", format!("FROM {base}\nCOPY --link a /dir/a\n"));
    env.write("ctx/a", "content");
    env.kiln(["build", "-t", "gzip", "ctx"]).ok();
    let toc = "containerd.io/snapshot/stargz/toc.digest";
    let build = |name: &str, more: &[&str]| {
        let name = format!("{}/{name}", env.host());
        let told =
            env.kiln([&["build", "-t", &name, "--push", "--compression", "estargz", "ctx"], more].concat());
        told.ok();
        (Image::pull(&name), told.stderr)
    };
    let (image, told) = build("app:1", &[]);
    // Another compression runs no step again.
    assert!(told.contains("CACHED") || told.contains("cached"), "{told}");
    let annotated = |image: &Image| {
        image.manifest.layers.iter().map(|layer| layer.annotations.contains_key(toc)).collect::<Vec<_>>()
    };
    assert_eq!(annotated(&image), [false, true]);
    let layer = image.last();
    let names: Vec<String> = layer.entries.iter().map(|(entry, _)| entry.path.to_string()).collect();
    assert_eq!(names.first().map(String::as_str), Some(".no.prefetch.landmark"));
    assert_eq!(names.last().map(String::as_str), Some("stargz.index.json"));
    assert_eq!(layer.text("dir/a").as_deref(), Some("content"));
    let (forced, _) = build("app:2", &["--force-compression"]);
    assert_eq!(annotated(&forced), [true, true]);
    let (again, told) = build("app:2", &["--force-compression"]);
    assert!(told.contains("is unchanged"), "{told}");
    assert_eq!(again.digest, forced.digest);
}

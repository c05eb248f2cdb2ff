//! Settings from command lines, as a user writes them.

use clap::FromArgMatches as _;
use kiln::request::{CompressionChoice, Destination};

use super::*;
use crate::args::{self, Cli, Subcommands};

const USER: Process = Process { root: false, stdout_terminal: false };

fn arguments(line: &[&str]) -> BuildArgs {
    let matches = args::command().try_get_matches_from([&["kiln", "build"], line].concat()).unwrap();
    match Cli::from_arg_matches(&matches).unwrap().command {
        Subcommands::Build(args) => *args,
        other => panic!("{other:?}"),
    }
}

fn config(text: &str) -> Config {
    let mut config = Config::default();
    config.add(text, Path::new("config.toml")).unwrap();
    config
}

fn resolve_with(line: &[&str], env: &Env, config: &Config) -> Outcome<Settings> {
    Settings::resolve(&arguments(line), env, config, USER)
}

fn resolve(line: &[&str]) -> Settings {
    resolve_with(line, &Env::of([("HOME", "/home/me")]), &Config::default()).unwrap()
}

fn fault(line: &[&str]) -> String {
    let env = Env::of([("HOME", "/home/me")]);
    let failure = resolve_with(line, &env, &Config::default()).unwrap_err();
    format!("{} {}", failure.exit().code(), failure.error().message)
}

#[test]
fn a_plain_build_keeps_the_image_in_the_store() {
    let settings = resolve(&["-t", "app", "/"]);
    let request = &settings.request;
    assert_eq!(request.context, ContextSource::Directory("/".into()));
    assert_eq!(request.dockerfile, DockerfileSource::Default);
    assert_eq!(request.outputs, [kiln::request::Output::Store]);
    assert_eq!(request.platform, None);
    assert_eq!(request.target_platform(), kiln::oci::Platform::host());
    assert_eq!(request.compression, CompressionChoice::Gzip(None));
    assert_eq!(request.cache, CacheMode::ReadWrite);
    assert_eq!(settings.store, PathBuf::from("/home/me/.local/share/kiln"));
    assert_eq!(settings.progress, ProgressMode::Auto);
    assert!(!settings.writes_to_stdout());
}

#[test]
fn an_inline_cache_has_two_names() {
    let targets = |line: &[&str]| -> Vec<kiln::request::CacheTarget> {
        resolve(&[line, &["/"]].concat()).request.cache_to.into_iter().map(|export| export.target).collect()
    };
    let inline = || CacheTarget::Inline;
    assert_eq!(targets(&["--cache-to", "type=inline"]), [inline()]);
    assert_eq!(targets(&["--build-arg", "BUILDKIT_INLINE_CACHE=1"]), [inline()]);
    assert_eq!(targets(&["--build-arg", "BUILDKIT_INLINE_CACHE=1", "--cache-to", "type=inline"]), [inline()]);
    assert_eq!(targets(&["--build-arg", "BUILDKIT_INLINE_CACHE=0"]), []);
}

#[test]
fn outputs_become_files_directories_and_pushes() {
    use kiln::request::Output;
    let path = |text: &str| Destination::Path(text.into());
    let check = |line: &[&str], expect: &[Output]| {
        assert_eq!(resolve(&[line, &["/"]].concat()).request.outputs, expect, "{line:?}");
    };
    let layout = |dest, tar| Output::OciLayout { dest, tar };
    check(&["-o", "type=oci,dest=/nowhere/x.tar"], &[layout(path("/nowhere/x.tar"), true)]);
    check(&["-o", "type=oci,dest=/nowhere/x/"], &[layout(path("/nowhere/x/"), false)]);
    check(&["-o", "type=oci,dest=/"], &[layout(path("/"), false)]);
    check(&["-o", "type=oci,tar=false,dest=/nowhere/x"], &[layout(path("/nowhere/x"), false)]);
    check(&["-o", "type=docker,dest=-"], &[Output::DockerArchive { dest: Destination::Stdout }]);
    check(&["-o", "out"], &[Output::Local { dest: "out".into() }]);
    check(&["-o", "-"], &[Output::Tar { dest: Destination::Stdout }]);
    check(&["-o", "type=image"], &[Output::Store]);
    check(&["-t", "a", "--push"], &[Output::Registry]);
    check(&["-t", "a", "-o", "type=image", "--push"], &[Output::Registry]);
    check(&["-o", "type=registry,name=a"], &[Output::Registry]);
    check(&["-t", "a", "--push", "-o", "type=oci,dest=x"], &[layout(path("x"), true), Output::Registry]);
}

#[test]
fn what_cannot_be_meant_is_a_usage_error() {
    let check = |line: &[&str], expect: &str| assert_eq!(fault(line), expect, "{line:?}");
    check(&["--push", "/"], "2 there is no name to push the image to");
    check(&["-f", "-", "-"], "2 standard input cannot be both the Dockerfile and the build context");
    check(&["-o", "-", "-o", "type=oci,dest=-", "/"], "2 two outputs go to standard output");
    check(&["-o", "type=docker,dest=/", "/"], "2 the output goes to a file, but `/` is a directory");
    check(&["-o", "type=oci,tar=true,dest=/", "/"], "2 the output goes to a file, but `/` is a directory");
    check(&["--compression-level", "10", "/"], "2 gzip has levels 1 to 9, not 10");
    check(
        &["-o", "type=oci,dest=x,compression=zstd", "--compression", "gzip", "/"],
        "2 the outputs ask for different compressions",
    );
    check(
        &["https://me:secret@example.com/x.git?branch=a&tag=b"],
        "2 `https://*********@example.com/x.git?branch=a&tag=b` is no address of a commit: \
         `branch` and `tag` cannot both be given",
    );
    check(&["/nowhere/at/all"], "1 cannot open the build context `/nowhere/at/all`");
}

#[test]
fn an_image_does_not_go_to_a_terminal() {
    let process = Process { stdout_terminal: true, ..USER };
    let args = arguments(&["-o", "-", "/"]);
    let env = Env::of([("HOME", "/")]);
    let failure = Settings::resolve(&args, &env, &Config::default(), process).unwrap_err();
    assert_eq!(failure.error().message, "the image would be written to the terminal");
}

#[test]
fn names_of_options_and_outputs_come_together_once() {
    let settings = resolve(&["-t", "a", "-t", "b", "-t", "a", "-o", "type=image,\"name=b,c\"", "/"]);
    let names: Vec<String> = settings.request.tags.iter().map(kiln::oci::Reference::familiar).collect();
    assert_eq!(names, ["a:latest", "b:latest", "c:latest"]);
}

#[test]
fn build_args_take_the_environment_and_proxies_get_both_cases() {
    let env = Env::of([("HOME", "/"), ("FROM_ENV", ""), ("http_proxy", "http://not-passed")]);
    let line = [
        "--build-arg",
        "FROM_ENV",
        "--build-arg",
        "UNSET",
        "--build-arg",
        "A=1",
        "--build-arg",
        "A=2",
        "--build-arg",
        "HTTPS_PROXY=http://p",
        "/",
    ];
    let request = resolve_with(&line, &env, &Config::default()).unwrap().request;
    let pairs: Vec<_> = request.build_args.iter().map(|(k, v)| format!("{k}={v}")).collect();
    assert_eq!(pairs, ["A=2", "FROM_ENV=", "HTTPS_PROXY=http://p"]);
    let proxies: Vec<_> = request.proxy_args.iter().map(|(k, v)| format!("{k}={v}")).collect();
    assert_eq!(proxies, ["HTTPS_PROXY=http://p", "https_proxy=http://p"]);
}

#[test]
fn the_epoch_comes_from_option_argument_or_variable() {
    let check = |line: &[&str], variable: &str, expect: Option<i64>| {
        let env = Env::of([("HOME", "/"), ("SOURCE_DATE_EPOCH", variable)]);
        let settings = resolve_with(line, &env, &Config::default()).unwrap();
        let expect = expect.map(EpochChoice::Seconds);
        assert_eq!(settings.request.source_date_epoch, expect, "{line:?}");
    };
    check(&["/"], "", None);
    check(&["/"], "3", Some(3));
    check(&["--build-arg", "SOURCE_DATE_EPOCH=2", "/"], "3", Some(2));
    check(&["--build-arg", "SOURCE_DATE_EPOCH=2", "--source-date-epoch", "1", "/"], "3", Some(1));
    let env = Env::of([("HOME", "/"), ("SOURCE_DATE_EPOCH", "context")]);
    let settings = resolve_with(&["/"], &env, &Config::default()).unwrap();
    assert_eq!(settings.request.source_date_epoch, Some(EpochChoice::Of("context".to_owned())));
}

#[test]
fn the_store_is_named_by_option_variable_file_or_user() {
    let file = config("[defaults]\nstore = \"/file\"");
    let none = Config::default();
    let check = |line: &[&str], variable: &str, config: &Config, root: bool, expect: &str| {
        let env = Env::of([("HOME", "/home/me"), ("KILN_STORE", variable)]);
        let process = Process { root, ..USER };
        let settings = Settings::resolve(&arguments(line), &env, config, process).unwrap();
        assert_eq!(settings.store, PathBuf::from(expect));
    };
    check(&["--store", "/option", "/"], "/variable", &file, false, "/option");
    check(&["/"], "/variable", &file, false, "/variable");
    check(&["/"], "", &file, true, "/file");
    check(&["/"], "", &none, true, "/var/lib/kiln");
    check(&["/"], "", &none, false, "/home/me/.local/share/kiln");
    let failure = resolve_with(&["/"], &Env::default(), &none).unwrap_err();
    assert_eq!(failure.exit().code(), 4);
}

#[test]
fn the_file_gives_defaults_and_options_override_them() {
    let file = config(
        "[defaults]\ncompression = \"zstd\"\ncompression-level = 19\nisolation = \"userns-single\"\njobs = 3\nprogress = \"plain\"",
    );
    let env = Env::of([("HOME", "/")]);
    let settings = resolve_with(&["/"], &env, &file).unwrap();
    assert_eq!(settings.request.compression, CompressionChoice::Zstd(Some(19)));
    assert_eq!(settings.request.isolation.choice, IsolationChoice::UsernsSingle);
    assert_eq!(settings.request.jobs, Some(3));
    assert_eq!(settings.progress, ProgressMode::Plain);
    let settings = resolve_with(&["--compression", "gzip", "--jobs", "1", "-q", "/"], &env, &file).unwrap();
    assert_eq!(settings.request.compression, CompressionChoice::Gzip(None));
    assert_eq!(settings.request.jobs, Some(1));
    assert_eq!(settings.progress, ProgressMode::Quiet);
    let settings = resolve_with(&["--compression", "zstd", "/"], &env, &file).unwrap();
    assert_eq!(settings.request.compression, CompressionChoice::Zstd(Some(19)));
    let settings = resolve_with(&["--compression-level", "2", "/"], &env, &file).unwrap();
    assert_eq!(settings.request.compression, CompressionChoice::Zstd(Some(2)));
}

#[test]
fn a_later_file_replaces_what_it_names() {
    let mut both = config("[defaults]\njobs = 3\ncompression = \"zstd\"\ncompression-level = 19");
    both.add("[defaults]\ncompression = \"gzip\"", Path::new("second.toml")).unwrap();
    assert_eq!(both.defaults.jobs.map(NonZeroUsize::get), Some(3));
    assert_eq!((both.defaults.compression, both.defaults.compression_level), (Some(Compression::Gzip), None));
}

#[test]
fn mistakes_in_the_file_name_the_file_and_the_key() {
    let check = |text: &str, expect: &str| {
        let failure = Config::default().add(text, Path::new("/etc/x.toml")).unwrap_err();
        assert_eq!(failure.exit().code(), 1);
        let text = crate::report::render(failure.error(), crate::style::Style::Plain);
        assert!(text.contains("`/etc/x.toml`") && text.contains(expect), "{text}");
    };
    check("[defaults]\nstroe = \"/x\"", "stroe");
    check("[defaults]\ncompression = \"lzma\"", "`lzma` is not one of gzip, estargz, zstd, uncompressed");
    check("[defaults]\njobs = 0", "nonzero");
    check("[registrys]", "registrys");
}

#[test]
fn registries_come_from_options_and_file() {
    let file = config("[registry.\"docker.io\"]\nmirrors = [\"file.example\"]");
    let env = Env::of([
        ("HOME", "/home/me"),
        ("DOCKER_CONFIG", "/docker"),
        ("XDG_RUNTIME_DIR", "/run/me"),
        ("all_proxy", "http://all"),
        ("HTTPS_PROXY", "http://https"),
    ]);
    let line = [
        "--registry-mirror",
        "docker.io=a.example",
        "--registry-mirror",
        "docker.io=b.example",
        "--insecure-registry",
        "r.example:5000",
        "-t",
        "i.example/x",
        "-o",
        "type=registry,registry.insecure=true",
        "/",
    ];
    let mut registries = resolve_with(&line, &env, &file).unwrap().registries;
    assert_eq!(registries.hosts.host_mut("docker.io").mirrors, ["a.example", "b.example", "file.example"]);
    assert!(registries.hosts.host_mut("r.example:5000").insecure);
    assert!(registries.hosts.host_mut("i.example").insecure);
    assert!(!registries.hosts.host_mut("docker.io").insecure);
    assert_eq!(registries.proxy.http.as_deref(), Some("http://all"));
    assert_eq!(registries.proxy.https.as_deref(), Some("http://https"));
    let files: Vec<_> = registries.credential_files.iter().map(|f| f.display().to_string()).collect();
    assert_eq!(
        files,
        ["/docker/config.json", "/run/me/containers/auth.json", "/home/me/.config/containers/auth.json"]
    );
}

#[test]
fn the_umask_is_ignored_by_option_variable_or_configuration() {
    use kiln::request::ContextModes::{OnDisk, Usual};
    let set = config("[defaults]\ncache-ignore-umask = true\n");
    let check = |line: &[&str], variable: &str, config: &Config, expect| {
        let env = Env::of([("HOME", "/home/me"), ("KILN_CACHE_IGNORE_UMASK", variable)]);
        let settings = resolve_with(&[line, &["/"]].concat(), &env, config).unwrap();
        assert_eq!(settings.request.modes, expect, "{line:?} {variable}");
    };
    check(&[], "", &Config::default(), OnDisk);
    check(&[], "", &set, Usual);
    check(&[], "0", &set, OnDisk);
    check(&[], "1", &Config::default(), Usual);
    check(&["--cache-ignore-umask"], "false", &Config::default(), Usual);
}

#[test]
fn a_budget_comes_from_the_option_the_variable_or_the_file() {
    let file = config("[defaults]\nkeep-storage = \"3KiB\"\n");
    let home = ("HOME", "/home/me");
    let check = |line: &[&str], env: &Env, config: &Config, expect: Option<u64>| {
        let settings = resolve_with(&[line, &["/"]].concat(), env, config).unwrap();
        assert_eq!(settings.keep_storage, expect);
    };
    check(&[], &Env::of([home]), &Config::default(), None);
    check(&[], &Env::of([home]), &file, Some(3 << 10));
    check(&[], &Env::of([home, ("KILN_KEEP_STORAGE", "2k")]), &file, Some(2 << 10));
    check(&["--keep-storage", "1k"], &Env::of([home, ("KILN_KEEP_STORAGE", "x")]), &file, Some(1 << 10));
}

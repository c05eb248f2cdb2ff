//! Records as a store keeps them, without a build.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::log::LogWriter;
use super::*;
use crate::progress::{Event, Mask, ProgressSink, Sink, Stream, Work};
use crate::store::Store;

/// A store of this test alone, removed at its end.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("kiln-history-{name}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&path);
        fs::create_dir_all(&path).unwrap();
        Self(path)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

#[derive(Default)]
struct Seen(std::sync::Mutex<Vec<Event>>);

impl ProgressSink for Seen {
    fn event(&self, event: Event) {
        self.0.lock().unwrap().push(event);
    }
}

fn request(context: &str) -> crate::request::BuildRequest {
    use crate::request::*;
    BuildRequest {
        context: ContextSource::Directory(context.into()),
        named_contexts: Default::default(),
        dockerfile: DockerfileSource::Default,
        target: None,
        build_args: [("TOKEN".to_owned(), "value-of-an-argument".to_owned())].into(),
        platform: None,
        labels: Default::default(),
        annotations: Default::default(),
        tags: vec!["app".parse().unwrap()],
        outputs: vec![Output::Store],
        compression: CompressionChoice::Gzip(None),
        force_compression: false,
        cache: CacheMode::ReadWrite,
        cache_ttl: None,
        cache_from: Vec::new(),
        cache_to: Vec::new(),
        modes: ContextModes::OnDisk,
        no_cache_stages: Vec::new(),
        pull: false,
        source_date_epoch: None,
        isolation: IsolationWish::default(),
        run: RunOptions::default(),
        limits: ImageLimits::default(),
        jobs: None,
        proxy_args: Default::default(),
        keyed_secrets: Default::default(),
        secrets: Default::default(),
        ssh: Default::default(),
        allow: Default::default(),
    }
}

fn start(store: &Store, context: &str, mask: &Mask) -> (Arc<Recorder>, Arc<Seen>) {
    let seen = Arc::new(Seen::default());
    let sink: Sink = Arc::<Seen>::clone(&seen);
    (Recorder::start(store, &request(context), mask, &sink), seen)
}

fn pieces(history: &History, number: Number) -> Vec<Content> {
    history.log(number).unwrap().map(|piece| piece.unwrap().content).collect()
}

#[test]
fn a_record_tells_how_far_each_step_came() {
    let folder = Folder::new("steps");
    let store = Store::open(&folder.0).unwrap();
    let mask = Mask::new([b"hunter2".as_slice()]);
    let (recorder, seen) = start(&store, "/somewhere", &mask);
    let history = History::at(&folder.0);
    assert_eq!(history.entry(1), Some(Entry::Running));
    assert!(history.remove(1).unwrap_err().message.contains("still running"));
    let step = |id: u32| Event::Step { id, title: format!("RUN {id} hunter2"), place: None };
    (1..=5).for_each(|id| recorder.event(step(id)));
    let key = Digest::sha256(b"key");
    recorder.event(Event::Cached { id: 1 });
    recorder.event(Event::Started { id: 2 });
    recorder.keyed(2, key.clone(), vec![Part { name: "a".into(), value: "hunter2".into() }], None);
    recorder.event(Event::Output { id: 2, stream: Stream::Stderr, text: "half a li".to_owned() });
    recorder.event(Event::Finished { id: 2, took: Duration::from_millis(1500) });
    for id in [3, 4] {
        recorder.event(Event::Started { id });
    }
    recorder.event(Event::Failed { id: 4, message: crate::cancel::STOPPED.to_owned() });
    recorder.event(Event::Failed { id: 3, message: "exit code 1".to_owned() });
    let (name, started, took) = ("pull x".to_owned(), Instant::now(), Duration::from_secs(2));
    let work = Work::Transfer;
    recorder.event(Event::Span { work, name, step: None, started, took, bytes: Some(7) });
    let failed = Outcome::Failed {
        message: "no hunter2".into(),
        causes: vec!["hunter2".into()],
        place: None,
        step: None,
    };
    recorder.finish(failed);

    let record = history.last_like(&lineage(&request("/somewhere"))).unwrap();
    assert_eq!(record.number, 1);
    let status: Vec<StepStatus> = record.steps.iter().map(|step| step.status).collect();
    use StepStatus::*;
    assert_eq!(status, [Cached, Done, Failed, Stopped, NotReached]);
    assert_eq!((record.steps[1].took_ms, record.steps[1].key.as_ref()), (1500, Some(&key)));
    assert_eq!((record.transfers[0].bytes, record.transfers[0].took_ms), (7, 2000));
    assert!(matches!(&record.outcome, Outcome::Failed { step: Some(3), .. }), "{:?}", record.outcome);
    let text = fs::read_to_string(folder.0.join("history/1/build.json")).unwrap();
    assert!(!text.contains("hunter2") && !text.contains("value-of-an-argument"), "{text}");
    assert!(text.contains("TOKEN") && text.contains("RUN 2 ***"), "{text}");
    let text = "half a li".to_owned();
    assert_eq!(pieces(&history, 1), [Content::Output { stream: Stream::Stderr, text }]);
    // Whoever watched the build saw the same events.
    assert_eq!(seen.0.lock().unwrap().len(), 14);
}

#[test]
fn the_newest_records_are_kept_and_numbers_are_not_used_again() {
    let folder = Folder::new("retention");
    let store = Store::open(&folder.0).unwrap();
    let history = History::at(&folder.0);
    let (running, _) = start(&store, "/long", &Mask::default());
    let killed = start(&store, "/killed", &Mask::default());
    drop(killed);
    assert_eq!(history.entry(2), Some(Entry::Unfinished));
    let short = || {
        let (recorder, _) = start(&store, "/short", &Mask::default());
        recorder.keyed(1, Digest::sha256(b"key"), Vec::new(), None);
        recorder.finish(Outcome::Interrupted);
    };
    for _ in 0..KEEP + 2 {
        short();
    }
    // One that knew no steps is nothing to compare with.
    start(&store, "/short", &Mask::default()).0.finish(Outcome::Interrupted);
    let numbers = history.numbers().unwrap();
    let last = KEEP as u64 + 5;
    // The first one runs, so nobody takes it away.
    assert_eq!((numbers.len(), numbers[0], numbers[1]), (KEEP + 1, 1, 6));
    assert_eq!(numbers.last(), Some(&last));
    running.finish(Outcome::Interrupted);
    let numbers = history.numbers().unwrap();
    assert_eq!((numbers.len(), numbers[0], numbers[1]), (KEEP, 1, 7));

    let like = lineage(&request("/short"));
    assert_eq!(history.last_like(&like).unwrap().number, last - 1);
    assert_eq!(history.last_like(&lineage(&request("/other"))), None);
    for number in history.numbers().unwrap() {
        history.remove(number).unwrap();
    }
    assert_eq!(history.last_like(&like), None);
    short();
    assert_eq!(history.numbers().unwrap(), [last + 1]);
    assert_eq!(fs::read_dir(folder.0.join("history/last")).unwrap().count(), 1);
}

#[test]
fn a_store_without_room_for_records_is_a_warning() {
    let folder = Folder::new("no-room");
    let store = Store::open(&folder.0).unwrap();
    fs::write(folder.0.join("history"), "a file").unwrap();
    let (recorder, seen) = start(&store, "/x", &Mask::default());
    recorder.event(Event::Output { id: 1, stream: Stream::Stdout, text: "x".to_owned() });
    recorder.finish(Outcome::Interrupted);
    let seen = seen.0.lock().unwrap();
    let Event::Warning { text, .. } = &seen[0] else { panic!("{seen:?}") };
    assert!(text.contains("leaves no record") && text.contains("history"), "{text}");
    assert_eq!(seen.len(), 2);
}

#[test]
fn a_log_keeps_the_beginning_and_the_end_of_much_output() {
    let folder = Folder::new("log");
    let path = folder.0.join("log");
    let mut log = LogWriter::new(File::create_new(&path).unwrap());
    let line = format!("{}\n", "x".repeat(1023));
    // Four times what is kept.
    for n in 0..4 * HEAD / 1024 {
        log.output(1, n, Stream::Stdout, &line).unwrap();
    }
    log.output(2, 0, Stream::Stdout, "short").unwrap();
    log.output(1, 9, Stream::Stderr, "the reason").unwrap();
    log.finish(9).unwrap();
    let mut kept = (0, 0);
    let mut last = String::new();
    for piece in LogReader::new(BufReader::new(File::open(&path).unwrap())) {
        match piece.unwrap() {
            Piece { step: 1, content: Content::Output { text, .. }, .. } => {
                kept.0 += text.len() as u64;
                last = text;
            }
            Piece { step: 1, content: Content::LeftOut { left_out }, .. } => kept.1 = left_out,
            other => {
                let text = "short".to_owned();
                assert_eq!(other.content, Content::Output { stream: Stream::Stdout, text });
            }
        }
    }
    assert_eq!(last, "the reason");
    assert_eq!(kept.0 + kept.1, 4 * HEAD + 10);
    assert!((HEAD + TAIL as u64 - 1024..=HEAD + TAIL as u64).contains(&kept.0), "{kept:?}");
    // A torn log gives what is whole.
    let bytes = fs::read(&path).unwrap();
    assert_eq!(LogReader::new(&bytes[..1500]).count(), 1);
    assert_eq!(LogReader::new(&b"what is this\n"[..]).count(), 0);
}

//! Both formats, from a build whose times are known.

use kiln::oci::{Descriptor, Digest};

use super::*;
use crate::progress::Quiet;
use crate::style::Style;

fn trace() -> Trace {
    let view: Arc<dyn View> = Arc::new(Quiet::new(Box::new(std::io::sink()), Style::Plain));
    Trace::new(&view)
}

fn at(kind: Kind, name: &str, start: u64, end: u64) -> Span {
    span(kind, name, Duration::from_micros(start), Duration::from_micros(end))
}

/// Two steps at once; the first waits for a layer that is pulled, and is packed while the second goes on.
fn build() -> Vec<Span> {
    let thread = Some(std::thread::current().id());
    let step = |step, span: Span| Span { step: Some(step), ..span };
    let own = |span: Span| Span { thread, ..span };
    arrange(vec![
        at(Kind::Build, "kiln build", 0, 1000),
        at(Kind::Phase, "lower", 10, 50),
        at(Kind::Phase, "run steps", 60, 900),
        step(1, at(Kind::Step, "[1/2] RUN a", 70, 500)),
        step(2, at(Kind::Step, "[2/2] RUN b", 80, 850)),
        own(step(1, at(Kind::Wait, "files below", 71, 200))),
        own(at(Kind::Unpack, "unpack layer", 72, 190)),
        own(at(Kind::Transfer, "pull", 73, 150)),
        step(1, at(Kind::Command, "command", 210, 490)),
        step(1, at(Kind::Pack, "pack", 510, 880)),
        at(Kind::Transfer, "push", 520, 990),
    ])
}

fn names(spans: &[Span]) -> Vec<(&str, Option<&str>)> {
    spans.iter().map(|s| (s.name.as_str(), s.parent.map(|p| spans[p].name.as_str()))).collect()
}

#[test]
fn every_span_is_within_what_it_is_a_part_of() {
    assert_eq!(
        names(&build()),
        [
            ("kiln build", None),
            ("lower", Some("kiln build")),
            ("run steps", Some("kiln build")),
            ("[1/2] RUN a", Some("run steps")),
            ("files below", Some("[1/2] RUN a")),
            ("unpack layer", Some("files below")),
            ("pull", Some("unpack layer")),
            ("[2/2] RUN b", Some("run steps")),
            ("command", Some("[1/2] RUN a")),
            ("pack", Some("run steps")),
            ("push", Some("kiln build")),
        ]
    );
}

#[test]
fn lanes_hold_what_is_beside_or_within() {
    let document = chrome::document(&build());
    let events = document["traceEvents"].as_array().unwrap();
    let lane = |tid: &Value| {
        let name = |e: &&Value| e["name"] == "thread_name" && e["tid"] == *tid;
        events.iter().find(name).unwrap()["args"]["name"].as_str().unwrap().to_owned()
    };
    let spans: Vec<&Value> = events.iter().filter(|e| e["ph"] == "X").collect();
    let of: Vec<(&str, String)> =
        spans.iter().map(|e| (e["name"].as_str().unwrap(), lane(&e["tid"]))).collect();
    let of: Vec<(&str, &str)> = of.iter().map(|(name, lane)| (*name, lane.as_str())).collect();
    assert_eq!(
        of,
        [
            ("kiln build", "build"),
            ("lower", "build"),
            ("run steps", "build"),
            ("[1/2] RUN a", "steps"),
            ("files below", "steps"),
            ("unpack layer", "steps"),
            ("pull", "steps"),
            ("[2/2] RUN b", "steps 2"),
            ("command", "steps"),
            ("pack", "packing"),
            ("push", "transfers"),
        ]
    );
    assert_eq!((&spans[3]["ts"], &spans[3]["dur"]), (&json!(70), &json!(430)));
    assert_eq!(spans[3]["args"]["step"], 1);
}

#[test]
fn events_become_spans_with_what_is_known_of_them() {
    let trace = trace();
    let key = Digest::sha256(b"key");
    let step = |id| Event::Step { id, title: format!("RUN {id}"), place: Some("Dockerfile:2".to_owned()) };
    (1..=4).for_each(|id| trace.event(step(id)));
    trace.event(Event::Key { id: 1, key: key.clone(), parts: Vec::new(), reason: None });
    trace.event(Event::Cached { id: 1 });
    let layer = Descriptor::of("x/y", b"layer");
    trace.event(Event::Layer { id: 1, layer, diff_id: Digest::sha256(b"diff") });
    trace.event(Event::Started { id: 2 });
    trace.event(Event::Started { id: 3 });
    trace.event(Event::Failed { id: 2, message: "exit code 1".to_owned() });
    let error = Error::input("no");
    let bytes = trace.file(Path::new("x.json"), None, Err(&error));
    let value: Value = serde_json::from_slice(&bytes).unwrap();
    let find = |name: &str| {
        value["traceEvents"].as_array().unwrap().iter().find(|e| e["name"] == name).map(|e| &e["args"])
    };
    let first = find("RUN 1").unwrap();
    assert_eq!((&first["cached"], &first["bytes"], &first["key"]), (&json!(true), &json!(5), &json!(key)));
    assert_eq!(find("RUN 2").unwrap()["error"], "exit code 1");
    assert_eq!(find("RUN 3").unwrap()["status"], "stopped");
    // It never began.
    assert_eq!(find("RUN 4"), None);
    assert_eq!(find("kiln build").unwrap()["error"], "no");
}

#[test]
fn opentelemetry_gets_ids_and_nanoseconds() {
    let parent = Parent::parse("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01").unwrap();
    let document = otlp::document(&build(), 1_700_000_000_000_000_000, Some(&parent));
    let spans = document["resourceSpans"][0]["scopeSpans"][0]["spans"].as_array().unwrap();
    assert_eq!(spans.len(), 11);
    assert_eq!(spans[0]["parentSpanId"], "00f067aa0ba902b7");
    assert_eq!(spans[0]["startTimeUnixNano"], "1700000000000000000");
    assert_eq!(spans[0]["endTimeUnixNano"], "1700000000001000000");
    for span in spans {
        assert_eq!(span["traceId"], "4bf92f3577b34da6a3ce929d0e0e4736");
        assert_eq!(span["spanId"].as_str().unwrap().len(), 16);
        assert!(span["attributes"].is_array() && span["status"]["code"] == 1);
    }
    assert_eq!(spans[3]["parentSpanId"], spans[2]["spanId"]);
    let mut ids: Vec<&str> = spans.iter().map(|s| s["spanId"].as_str().unwrap()).collect();
    ids.sort_unstable();
    ids.dedup();
    assert_eq!(ids.len(), 11);
}

#[test]
fn a_malformed_parent_is_none() {
    let good = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
    assert!(Parent::parse(good).is_some());
    assert!(Parent::parse(&good.replacen("00", "01", 1)).is_some());
    for bad in [
        "",
        "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7",
        "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-x",
        "ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
        "00-4BF92F3577B34DA6A3CE929D0E0E4736-00f067aa0ba902b7-01",
        "00-00000000000000000000000000000000-00f067aa0ba902b7-01",
        "00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01",
    ] {
        assert_eq!(Parent::parse(bad), None, "{bad}");
    }
}

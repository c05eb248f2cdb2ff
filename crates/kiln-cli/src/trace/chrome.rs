//! Trace events as Chrome's tools and Perfetto read them ("Trace Event Format": complete events, `ph` = `X`).
//!
//! A lane is a thread of the drawing. In one lane, spans may only lie beside or within each other; so what goes on at
//! the same time has lanes of its own: `steps`, `steps 2` and so on.

use std::time::Duration;

use serde_json::{Map, Value, json};

use super::{Kind, Span};

/// The one process of the drawing.
const PROCESS: u32 = 1;

/// One row of the drawing.
struct Lane {
    name: String,
    group: &'static str,
    /// Ends of the spans that are open where the last one begins, the outermost first.
    open: Vec<Duration>,
}

/// Returns the whole file. `spans` are sorted by their beginning, outer ones first.
pub(super) fn document(spans: &[Span]) -> Value {
    let mut lanes: Vec<Lane> = Vec::new();
    let mut lane_of: Vec<usize> = Vec::new();
    let mut events = Vec::new();
    for span in spans {
        let beside = span.parent.map(|parent| lane_of[parent]);
        let lane = place(&mut lanes, span, beside);
        lane_of.push(lane);
        events.push(event(span, lane));
    }
    let mut all = vec![metadata("process_name", None, &json!({ "name": "kiln" }))];
    for (number, lane) in lanes.iter().enumerate() {
        all.push(metadata("thread_name", Some(number), &json!({ "name": lane.name })));
        let order = ORDER.iter().position(|group| *group == lane.group).unwrap_or(ORDER.len());
        all.push(metadata(
            "thread_sort_index",
            Some(number),
            &json!({ "sort_index": order * 1000 + number }),
        ));
    }
    all.extend(events);
    json!({ "traceEvents": all, "displayTimeUnit": "ms" })
}

/// The groups from top to bottom.
const ORDER: [&str; 5] = ["build", "steps", "packing", "layers", "transfers"];

fn group(kind: Kind) -> &'static str {
    match kind {
        Kind::Build | Kind::Phase => "build",
        Kind::Step | Kind::Wait | Kind::Command => "steps",
        Kind::Pack => "packing",
        Kind::Unpack => "layers",
        Kind::Transfer => "transfers",
    }
}

/// Finds a lane for a span: that of its parent if it is a part of it, else one of its group, else a new one.
fn place(lanes: &mut Vec<Lane>, span: &Span, parent: Option<usize>) -> usize {
    let group = group(span.kind);
    for lane in lanes.iter_mut() {
        while lane.open.last().is_some_and(|end| *end <= span.start) {
            lane.open.pop();
        }
    }
    let inside = |lane: &Lane| lane.open.last().is_some_and(|end| span.end <= *end);
    let of_parent = parent.filter(|lane| {
        // A step is no part of the phase's lane, although it is of the phase.
        inside(&lanes[*lane])
            && (lanes[*lane].group == group || span.kind > Kind::Step && lanes[*lane].group != "build")
    });
    let free = || lanes.iter().position(|lane| lane.group == group && lane.open.is_empty());
    let found = of_parent.or_else(free).unwrap_or_else(|| {
        let count = lanes.iter().filter(|lane| lane.group == group).count();
        let name = if count == 0 { group.to_owned() } else { format!("{group} {}", count + 1) };
        lanes.push(Lane { name, group, open: Vec::new() });
        lanes.len() - 1
    });
    lanes[found].open.push(span.end);
    found
}

fn event(span: &Span, lane: usize) -> Value {
    let mut args: Map<String, Value> =
        span.attributes.iter().map(|(k, v)| ((*k).to_owned(), v.clone())).collect();
    args.extend(span.step.map(|step| ("step".to_owned(), json!(step))));
    args.extend(span.error.as_ref().map(|error| ("error".to_owned(), json!(error))));
    // Both ends are cut to whole microseconds, so that what lies within stays within.
    let (start, end) = (span.start.as_micros(), span.end.as_micros());
    json!({
        "name": span.name,
        "cat": group(span.kind),
        "ph": "X",
        "ts": start,
        "dur": end - start,
        "pid": PROCESS,
        "tid": lane + 1,
        "args": args,
    })
}

fn metadata(name: &str, lane: Option<usize>, args: &Value) -> Value {
    json!({ "name": name, "ph": "M", "pid": PROCESS, "tid": lane.map_or(0, |lane| lane + 1), "args": args })
}

//! One JSON object per line, for programs.
//!
//! Every object has `time`, the seconds since the start, and `event`: those of the engine in kebab case, and at
//! the end `built` with the receipt, or `error` with what went wrong. Output of RUN is passed on as it came.

use std::io::Write as _;
use std::sync::{Mutex, PoisonError};

use kiln::progress::{Event, ProgressSink};
use kiln::{Error, ErrorKind, Receipt};
use serde::Serialize;
use serde_json::{Value, json};

use super::{Clock, Out, View};

/// Shows a build as JSON lines.
pub(crate) struct Json {
    out: Mutex<Out>,
    clock: Clock,
}

#[derive(Serialize)]
struct Line<'a, T> {
    time: f64,
    #[serde(flatten)]
    event: &'a T,
}

impl Json {
    pub(crate) fn new(out: Out, clock: Clock) -> Self {
        Self { out: Mutex::new(out), clock }
    }

    fn write<T: Serialize>(&self, event: &T) {
        // Taken under the lock, so that times never fall from one line to the next.
        let mut out = self.out.lock().unwrap_or_else(PoisonError::into_inner);
        let time = (self.clock)().as_micros() as f64 / 1e6;
        if let Ok(mut line) = serde_json::to_vec(&Line { time, event }) {
            line.push(b'\n');
            let _ = out.write_all(&line).and_then(|()| out.flush());
        }
    }
}

impl ProgressSink for Json {
    fn event(&self, event: Event) {
        self.write(&event);
    }
}

impl View for Json {
    fn finish(&self, receipt: &Receipt) {
        #[derive(Serialize)]
        struct Built<'a> {
            event: &'static str,
            #[serde(flatten)]
            receipt: &'a Receipt,
        }
        self.write(&Built { event: "built", receipt });
    }

    fn fail(&self, error: &Error) {
        let mut value = of_error(error);
        if let Value::Object(object) = &mut value {
            object.shift_insert(0, "event".to_owned(), "error".into());
        }
        self.write(&value);
    }
}

fn of_error(error: &Error) -> Value {
    let place = error.place.as_ref().map(|place| {
        let (line, column) = place.line_column();
        json!({ "file": place.file, "line": line, "column": column })
    });
    json!({
        "kind": kind(error.kind),
        "message": error.message,
        "place": place,
        "causes": error.causes(),
        "output": error.tail,
        "hints": error.hints,
        "also": error.also.iter().map(of_error).collect::<Vec<_>>(),
    })
}

fn kind(kind: ErrorKind) -> &'static str {
    match kind {
        ErrorKind::Input => "input",
        ErrorKind::Step(_) => "step",
        ErrorKind::Network => "network",
        ErrorKind::Auth => "auth",
        ErrorKind::Environment => "environment",
        ErrorKind::Interrupted => "interrupted",
        _ => "internal",
    }
}

#[cfg(test)]
mod tests {
    use kiln::progress::Stream;

    use super::super::fixture::{Screen, build, hand_clock, receipt};
    use super::*;

    #[test]
    fn every_line_is_an_object_with_time_and_event() {
        let (screen, (clock, set)) = (Screen::default(), hand_clock());
        let json = Json::new(Box::new(screen.clone()), clock);
        for (milliseconds, event) in build() {
            set(milliseconds);
            json.event(event);
        }
        json.finish(&receipt());
        let mut last = 0.0;
        for line in screen.text().lines() {
            let value: Value = serde_json::from_str(line).unwrap();
            assert!(value["event"].is_string(), "{line}");
            assert!(value["time"].as_f64().unwrap() >= last, "{line}");
            last = value["time"].as_f64().unwrap();
        }
    }

    #[test]
    fn events_and_errors_have_these_fields() {
        let check = |act: &dyn Fn(&Json), expect: &str| {
            let (screen, (clock, set)) = (Screen::default(), hand_clock());
            set(1250);
            act(&Json::new(Box::new(screen.clone()), clock));
            assert_eq!(screen.text(), format!("{expect}\n"));
        };
        check(
            &|json| json.event(Event::Output { id: 2, stream: Stream::Stderr, text: "a\nb".to_owned() }),
            r#"{"time":1.25,"event":"output","id":2,"stream":"stderr","text":"a\nb"}"#,
        );
        check(
            &|json| json.fail(&Error::input("bad").because("why").hint("do")),
            r#"{"time":1.25,"event":"error","kind":"input","message":"bad","place":null,"causes":["why"],"output":[],"hints":["do"],"also":[]}"#,
        );
    }
}

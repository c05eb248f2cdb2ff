//! `kiln history show`.

use std::fmt::Write as _;
use std::time::Duration;

use kiln::history::{BuildRecord, Entry, FetchRecord, Outcome as Ended, StepRecord, StepStatus};
use serde_json::json;

use super::list::{counts, familiar};
use crate::args::HistoryShowArgs;
use crate::env::Env;
use crate::exit::Exit;
use crate::failure::Outcome;
use crate::stdout;
use crate::text::{printable, rate, seconds, size, table};
use crate::value::RecordFormat;

/// A bar of this many marks is the whole build.
const BAR: u64 = 20;

/// Shows everything about one build.
pub(super) fn run(args: &HistoryShowArgs, env: &Env) -> Outcome<Exit> {
    let history = super::open(&args.store, env)?;
    let (number, entry) = super::find(&history, args.number)?;
    let text = match (&entry, args.format) {
        (Entry::Ended(record), RecordFormat::Text) => page(record),
        (Entry::Ended(record), RecordFormat::Json) => super::json(record)?,
        (Entry::Running, RecordFormat::Text) => {
            format!("build {number} is running; `kiln history log {number}` shows its output so far\n")
        }
        (Entry::Unfinished, RecordFormat::Text) => format!(
            "build {number} has no record that can be read, as one that was killed; `kiln history log {number}` shows its output\n"
        ),
        (entry, RecordFormat::Json) => {
            let status = if *entry == Entry::Running { "running" } else { "unfinished" };
            super::json(&json!({ "number": number, "outcome": { "status": status } }))?
        }
    };
    stdout::print(&text)?;
    Ok(Exit::Success)
}

fn page(record: &BuildRecord) -> String {
    let mut out = format!("{}\n\n", headline(record));
    out.push_str(&table(&facts(record)));
    section(&mut out, "Names", &record.request.tags, |name| familiar(name));
    section(&mut out, "Pins", &record.pins, |pin| format!("{} = {}", pin.name, pin.digest));
    if let Ended::Done { outputs, .. } = &record.outcome {
        section(&mut out, "Outputs", outputs, String::clone);
    }
    if !record.steps.is_empty() {
        let _ = write!(out, "\n{}", steps(record));
    }
    section(&mut out, "Cache misses", &misses(record), String::clone);
    section(&mut out, "Transfers", &record.transfers, |transfer| {
        let took = Duration::from_millis(transfer.took_ms);
        let rate = rate(transfer.bytes, took).map(|rate| format!(", {rate}")).unwrap_or_default();
        format!("{}: {} in {}{rate}", transfer.name, size(transfer.bytes), seconds(took))
    });
    section(&mut out, "Fetched by commands", &record.fetches, |fetch| {
        let FetchRecord { step, method, target, status, sent, received } = fetch;
        format!("#{step} {method} {target}: {status}, {} out, {} in", size(*sent), size(*received))
    });
    section(&mut out, "Warnings", &record.warnings, String::clone);
    out
}

fn headline(record: &BuildRecord) -> String {
    let (number, took) = (record.number, seconds(Duration::from_millis(record.took_ms)));
    match &record.outcome {
        Ended::Done { digest, .. } => format!("build {number} made {digest} in {took}"),
        Ended::Interrupted => format!("build {number} was stopped after {took}"),
        Ended::Failed { message, causes, place, step } => {
            let place = place.as_ref().map(|place| format!(" ({place})")).unwrap_or_default();
            let mut text = format!("build {number} failed after {took}: {message}{place}");
            causes.iter().for_each(|cause| {
                let _ = write!(text, "\n  {cause}");
            });
            if let Some(step) = step {
                let _ = write!(
                    text,
                    "\n  `kiln history log {number} --step {step}` shows what step {step} printed"
                );
            }
            text.lines().map(printable).collect::<Vec<_>>().join("\n")
        }
    }
}

fn facts(record: &BuildRecord) -> Vec<[String; 2]> {
    let request = &record.request;
    let mut facts = Vec::new();
    let mut fact = |name: &str, value: String| facts.push([name.to_owned(), value]);
    fact("Started", record.started.clone());
    fact("Context", request.context.clone());
    fact("Dockerfile", request.dockerfile.clone());
    request.target.iter().for_each(|target| fact("Target", target.clone()));
    fact("Platform", request.platform.clone());
    if !request.build_args.is_empty() {
        fact("Arguments", request.build_args.join(", "));
    }
    record.isolation.iter().for_each(|isolation| fact("Isolation", isolation.clone()));
    if let Ended::Done { config_digest, layers, size: bytes, .. } = &record.outcome {
        fact("Config", config_digest.to_string());
        fact("Image", format!("{layers} layers, {}", size(*bytes)));
    }
    let (steps, cached) = counts(record);
    let anew = if request.no_cache { "; every step was to be done anew" } else { "" };
    fact("Cache", format!("{cached} of {steps} steps{anew}"));
    facts
}

fn section<T>(out: &mut String, title: &str, items: &[T], line: impl Fn(&T) -> String) {
    if items.is_empty() {
        return;
    }
    let _ = writeln!(out, "\n{title}");
    for item in items {
        let _ = writeln!(out, "  {}", printable(&line(item).replace('\n', " ")));
    }
}

fn steps(record: &BuildRecord) -> String {
    let mut rows =
        vec![["STEP", "STATUS", "TIME", "PACK", "SIZE", "KEY", "SHARE", "WHAT"].map(str::to_owned)];
    rows.extend(record.steps.iter().map(|step| {
        let ran = !matches!(step.status, StepStatus::Cached | StepStatus::NotReached);
        let time = |ms: u64| seconds(Duration::from_millis(ms));
        let known = |value: Option<String>| value.unwrap_or_else(|| "-".to_owned());
        [
            step.id.to_string(),
            status(step).to_owned(),
            known(ran.then(|| time(step.took_ms))),
            known((step.packed_ms > 0).then(|| time(step.packed_ms))),
            known(step.layer.as_ref().map(|layer| size(layer.size))),
            known(step.key.as_ref().map(|key| key.short().to_owned())),
            bar(if ran { step.took_ms } else { 0 }, record.took_ms),
            step.title.replace('\n', " "),
        ]
    }));
    table(&rows)
}

/// Shows what part of the build a step was: the slow ones are seen at once.
fn bar(part: u64, whole: u64) -> String {
    let marks = (part * BAR).checked_div(whole).unwrap_or(0).min(BAR);
    "#".repeat(usize::try_from(marks).unwrap_or(0))
}

fn status(step: &StepRecord) -> &'static str {
    match step.status {
        StepStatus::Cached => "cached",
        StepStatus::Done => "done",
        StepStatus::Failed => "failed",
        StepStatus::Stopped => "stopped",
        StepStatus::NotReached => "not reached",
    }
}

fn misses(record: &BuildRecord) -> Vec<String> {
    let reason = |step: &StepRecord| step.reason.as_ref().map(|reason| format!("step {}: {reason}", step.id));
    record.steps.iter().filter_map(reason).collect()
}

#[cfg(test)]
mod tests {
    use kiln::history::{PinRecord, RequestSummary, TransferRecord, VERSION};
    use kiln::oci::{Descriptor, Digest};

    use super::*;

    fn record() -> BuildRecord {
        let step = |id: u32, status, title: &str| StepRecord {
            id,
            status,
            title: title.to_owned(),
            took_ms: u64::from(id - 1) * 1000,
            key: Some(Digest::sha256(title.as_bytes())),
            ..StepRecord::default()
        };
        let mut run = step(2, StepStatus::Done, "[2/4] RUN make\n  all");
        run.packed_ms = 400;
        run.layer = Some(Descriptor { size: 1_200_000, ..Descriptor::of("x/y", b"layer") });
        run.reason = Some("the command changed".to_owned());
        BuildRecord {
            version: VERSION,
            number: 12,
            lineage: String::new(),
            started: "2026-01-02T03:04:05Z".to_owned(),
            took_ms: 4000,
            outcome: Ended::Failed {
                message: "RUN failed with exit code 1".to_owned(),
                causes: vec!["why".to_owned()],
                place: Some("Dockerfile:4".to_owned()),
                step: Some(3),
            },
            request: RequestSummary {
                context: "ctx".to_owned(),
                dockerfile: "Dockerfile".to_owned(),
                platform: "linux/amd64".to_owned(),
                tags: vec!["docker.io/library/app:latest".to_owned()],
                build_args: vec!["A".to_owned(), "B".to_owned()],
                ..RequestSummary::default()
            },
            isolation: None,
            pins: vec![PinRecord { name: "alpine".to_owned(), digest: "sha256:abc".to_owned() }],
            steps: vec![
                step(1, StepStatus::Done, "[1/4] FROM alpine"),
                run,
                step(3, StepStatus::Failed, "[3/4] RUN false"),
                step(4, StepStatus::NotReached, "[4/4] COPY a b"),
            ],
            fetches: Vec::new(),
            transfers: vec![TransferRecord {
                name: "pull abc".to_owned(),
                started_ms: 0,
                took_ms: 500,
                bytes: 3_000_000,
            }],
            warnings: vec!["careful\u{7} (Dockerfile:2)".to_owned()],
        }
    }

    #[test]
    fn a_page_shows_everything() {
        let key = |title: &str| Digest::sha256(title.as_bytes()).short().to_owned();
        let expect = format!(
            "\
build 12 failed after 4.0s: RUN failed with exit code 1 (Dockerfile:4)
  why
  `kiln history log 12 --step 3` shows what step 3 printed

Started     2026-01-02T03:04:05Z
Context     ctx
Dockerfile  Dockerfile
Platform    linux/amd64
Arguments   A, B
Cache       0 of 3 steps

Names
  app:latest

Pins
  alpine = sha256:abc

STEP  STATUS       TIME  PACK  SIZE    KEY           SHARE       WHAT
1     done         0.0s  -     -       {}              [1/4] FROM alpine
2     done         1.0s  0.4s  1.2 MB  {}  #####       [2/4] RUN make   all
3     failed       2.0s  -     -       {}  ##########  [3/4] RUN false
4     not reached  -     -     -       {}              [4/4] COPY a b

Cache misses
  step 2: the command changed

Transfers
  pull abc: 3.0 MB in 0.5s, 6.0 MB/s

Warnings
  careful^G (Dockerfile:2)
",
            key("[1/4] FROM alpine"),
            key("[2/4] RUN make\n  all"),
            key("[3/4] RUN false"),
            key("[4/4] COPY a b"),
        );
        assert_eq!(page(&record()), expect);
    }

    #[test]
    fn a_record_survives_its_file() {
        let text = serde_json::to_string(&record()).unwrap();
        assert_eq!(serde_json::from_str::<BuildRecord>(&text).unwrap(), record());
    }
}

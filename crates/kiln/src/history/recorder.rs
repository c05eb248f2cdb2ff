//! Writes the record of one build from the events that it sends.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Write as _};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use kiln_oci::Digest;

use super::log::LogWriter;
use super::{
    BuildRecord, FetchRecord, History, Number, Outcome, Part, PinRecord, RequestSummary, StepRecord,
    StepStatus, TransferRecord, VERSION, lineage,
};
use crate::cancel::STOPPED;
use crate::error::{Error, FileContext as _, Result};
use crate::progress::{Event, Mask, ProgressSink, Sink, StepId, Work};
use crate::request::BuildRequest;
use crate::store::Store;
use kiln_oci::rfc3339;

/// Sees every event of a build, passes it on, and keeps what the record needs.
///
/// Output goes to the log as it comes; the rest is in memory, as much as the plan has steps and transfers.
pub(crate) struct Recorder {
    store: Store,
    history: History,
    next: Sink,
    mask: Mask,
    began: Instant,
    state: Mutex<State>,
}

struct State {
    /// Absent when there is no place to write to.
    log: Option<LogWriter>,
    record: BuildRecord,
    steps: BTreeMap<StepId, StepRecord>,
    failed: Option<StepId>,
}

impl Recorder {
    /// Begins the record of a build; a store without room for it is a warning.
    pub(crate) fn start(store: &Store, request: &BuildRequest, mask: &Mask, next: &Sink) -> Arc<Self> {
        let history = History::at(store.root());
        let begun = begin(&history);
        if let Err(error) = &begun {
            warn(next, error);
        }
        let (number, log) = begun.map_or((0, None), |(number, log)| (number, Some(log)));
        // The one look at the clock: for people who ask when a build was.
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
        let record = BuildRecord {
            version: VERSION,
            number,
            lineage: lineage(request),
            started: rfc3339(i64::try_from(now).unwrap_or(i64::MAX)),
            took_ms: 0,
            outcome: Outcome::Interrupted,
            request: RequestSummary::of(request),
            isolation: None,
            pins: Vec::new(),
            steps: Vec::new(),
            transfers: Vec::new(),
            fetches: Vec::new(),
            warnings: Vec::new(),
        };
        Arc::new(Self {
            store: store.clone(),
            history,
            next: Arc::clone(next),
            mask: mask.clone(),
            began: Instant::now(),
            state: Mutex::new(State { log, record, steps: BTreeMap::new(), failed: None }),
        })
    }

    /// Notes the key of a step, what it is made of, and why the cache did not have it.
    pub(crate) fn keyed(&self, id: StepId, key: Digest, parts: Vec<Part>, reason: Option<String>) {
        let hide = |part: Part| Part { name: self.mask.text(&part.name), value: self.mask.text(&part.value) };
        let parts = parts.into_iter().map(hide).collect();
        let reason = reason.map(|reason| self.mask.text(&reason));
        self.with(|state| {
            let step = state.step(id);
            (step.key, step.parts, step.reason) = (Some(key), parts, reason);
        });
    }

    /// Notes how RUN is cut off.
    pub(crate) fn isolated(&self, isolation: String) {
        self.with(|state| state.record.isolation = Some(isolation));
    }

    /// Notes what names stand for.
    pub(crate) fn pinned(&self, pins: Vec<PinRecord>) {
        self.with(|state| state.record.pins = pins);
    }

    /// Writes the record.
    pub(crate) fn finish(&self, outcome: Outcome) {
        let took_ms = milliseconds(self.began.elapsed());
        let written = self.with(|state| {
            let log = state.log.as_mut()?;
            let ended = log.finish(took_ms);
            state.record.took_ms = took_ms;
            state.record.outcome = self.masked(outcome, state.failed);
            let mut steps: Vec<StepRecord> = std::mem::take(&mut state.steps).into_values().collect();
            for step in steps.iter_mut().filter(|step| step.status == StepStatus::Stopped) {
                step.took_ms = step.took_ms.max(took_ms.saturating_sub(step.started_ms));
            }
            state.record.steps = steps;
            let path = self.history.dir(state.record.number).join("log");
            let written = ended.on("write", &path).and_then(|()| self.write(&state.record));
            // The lock goes with it: the build has ended.
            state.log = None;
            Some(written)
        });
        match written {
            None => {}
            Some(Err(error)) => warn(&self.next, &error),
            Some(Ok(number)) => {
                if let Err(error) = self.history.retain(number) {
                    let text = format!("old build records stay where they are: {}", told(&error));
                    self.next.event(Event::Warning { text, place: None });
                }
            }
        }
    }

    fn write(&self, record: &BuildRecord) -> Result<Number> {
        let json = serde_json::to_vec(record)
            .map_err(|e| Error::internal("cannot write a build record as JSON").because(e))?;
        let dir = self.history.dir(record.number);
        self.store.replace(&dir.join("build.json"), &json)?;
        if record.steps.iter().all(|step| step.key.is_none()) {
            // It failed too early to be compared with.
            return Ok(record.number);
        }
        let pointer = self.history.pointer(&record.lineage);
        // Always as long, and written over what is there: to replace a file makes some file systems write to the disk.
        let mut file =
            File::options().create(true).truncate(false).write(true).open(&pointer).on("open", &pointer)?;
        file.write_all(format!("{:020}\n", record.number).as_bytes()).on("write", &pointer)?;
        Ok(record.number)
    }

    fn masked(&self, outcome: Outcome, failed: Option<StepId>) -> Outcome {
        match outcome {
            Outcome::Failed { message, causes, place, .. } => Outcome::Failed {
                message: self.mask.text(&message),
                causes: causes.iter().map(|cause| self.mask.text(cause)).collect(),
                place,
                step: failed,
            },
            other => other,
        }
    }

    fn with<T>(&self, act: impl FnOnce(&mut State) -> T) -> T {
        act(&mut self.state.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn note(&self, event: &Event) {
        let now = milliseconds(self.began.elapsed());
        match event {
            Event::Step { id, title, place } => self.with(|state| {
                let step = state.step(*id);
                (step.title, step.place) = (self.mask.text(title), place.clone());
            }),
            Event::Key { id, key, parts, reason } => {
                self.keyed(*id, key.clone(), parts.clone(), reason.clone());
            }
            // Until it is known how it ends, it is one that the end of the build would stop.
            Event::Started { id } => self.with(|state| {
                let step = state.step(*id);
                (step.status, step.started_ms) = (StepStatus::Stopped, now);
            }),
            Event::Cached { id } => self.with(|state| {
                let step = state.step(*id);
                (step.status, step.started_ms) = (StepStatus::Cached, now);
            }),
            Event::Finished { id, took } => self.with(|state| {
                let step = state.step(*id);
                (step.status, step.took_ms) = (StepStatus::Done, milliseconds(*took));
                state.end_log(*id, now);
            }),
            Event::Failed { id, message } => self.with(|state| {
                let stopped = message == STOPPED;
                if !stopped {
                    state.failed.get_or_insert(*id);
                }
                let step = state.step(*id);
                step.status = if stopped { StepStatus::Stopped } else { StepStatus::Failed };
                step.took_ms = now.saturating_sub(step.started_ms);
                state.end_log(*id, now);
            }),
            Event::Layer { id, layer, diff_id } => self.with(|state| {
                let step = state.step(*id);
                (step.layer, step.diff_id) = (Some(layer.clone()), Some(diff_id.clone()));
            }),
            Event::Output { id, stream, text } => {
                self.with(|state| state.write_log(|log| log.output(*id, now, *stream, text)));
            }
            Event::Span { work: Work::Pack, step: Some(id), took, .. } => {
                self.with(|state| state.step(*id).packed_ms = milliseconds(*took));
            }
            Event::Span { work: Work::Transfer, name, took, bytes: Some(bytes), .. } if *bytes > 0 => {
                let took_ms = milliseconds(*took);
                let started_ms = now.saturating_sub(took_ms);
                let name = self.mask.text(name);
                let transfer = TransferRecord { name, started_ms, took_ms, bytes: *bytes };
                self.with(|state| state.record.transfers.push(transfer));
            }
            Event::Fetched { id, method, target, status, sent, received } => {
                let target = self.mask.text(target);
                let (step, method, status) = (*id, method.clone(), *status);
                let fetch = FetchRecord { step, method, target, status, sent: *sent, received: *received };
                self.with(|state| state.record.fetches.push(fetch));
            }
            Event::Warning { text, place } => {
                let place = place.as_ref().map(|place| format!(" ({place})")).unwrap_or_default();
                let warning = self.mask.text(&format!("{text}{place}"));
                self.with(|state| state.record.warnings.push(warning));
            }
            Event::Missed { .. } | Event::Span { .. } | Event::Transfer { .. } | Event::Note { .. } => {}
        }
    }
}

impl ProgressSink for Recorder {
    fn event(&self, event: Event) {
        self.note(&event);
        self.next.event(event);
    }
}

impl State {
    fn step(&mut self, id: StepId) -> &mut StepRecord {
        self.steps.entry(id).or_insert_with(|| StepRecord { id, ..StepRecord::default() })
    }

    /// A log that cannot be written any more, on a full disk for example, is given up; the lock stays with the file.
    fn write_log(&mut self, write: impl FnOnce(&mut LogWriter) -> io::Result<()>) {
        if let Some(log) = &mut self.log {
            let _ = write(log);
        }
    }

    fn end_log(&mut self, id: StepId, now: u64) {
        self.write_log(|log| log.end(id, now));
    }
}

fn begin(history: &History) -> Result<(Number, LogWriter)> {
    let number = history.begin()?;
    let path = history.dir(number).join("log");
    let file = File::create_new(&path).on("create", &path)?;
    file.lock().on("lock", &path)?;
    Ok((number, LogWriter::new(file)))
}

fn warn(sink: &Sink, error: &Error) {
    let text = format!("this build leaves no record for `kiln history`: {}", told(error));
    sink.event(Event::Warning { text, place: None });
}

/// Returns an error with its causes in one line.
fn told(error: &Error) -> String {
    error.causes().into_iter().fold(error.message.clone(), |text, cause| format!("{text}: {cause}"))
}

fn milliseconds(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

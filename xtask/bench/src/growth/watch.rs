//! One run of kiln, measured from outside.
//!
//! Memory is `RssAnon` of `/proc/PID/status`, read every ten milliseconds and added up over kiln's process and those that it
//! started. A process that runs another program than kiln is a command of RUN, and does not count; one with the command
//! line of its parent has not executed anything yet, and what it has is the parent's memory. Processor time is what the
//! kernel says of the process when it has ended and nobody has waited for it yet.

use std::io::Read as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use super::data::field;
use crate::Outcome;

/// How often memory is looked at.
const INTERVAL: Duration = Duration::from_millis(10);
/// Ticks of a second in `/proc/PID/stat`: Linux shows programs this many on every machine.
const TICKS: f64 = 100.0;

/// What a run took.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Usage {
    /// From start to end, in seconds.
    pub(crate) wall: f64,
    /// In user and system mode, in seconds.
    pub(crate) cpu: f64,
    /// The most anonymous memory, in bytes.
    pub(crate) memory: u64,
}

/// Runs a command of `kiln`, which has to succeed.
pub(crate) fn run(kiln: &Path, command: &mut Command) -> Outcome<Usage> {
    let own = std::fs::metadata(kiln)?;
    let start = Instant::now();
    let mut child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn()?;
    let mut told = child.stderr.take().ok_or("a pipe is missing")?;
    // The pipe closes when the program ends, to the microsecond; the look at its state is for its numbers.
    let listener = std::thread::spawn(move || {
        let mut text = Vec::new();
        let read = told.read_to_end(&mut text);
        read.map(|_| (text, Instant::now()))
    });
    let process = PathBuf::from(format!("/proc/{}", child.id()));
    let mut memory = 0;
    let cpu = loop {
        let text = std::fs::read_to_string(process.join("stat"))?;
        let (state, cpu) = stat(&text)?;
        if state == "Z" {
            break cpu;
        }
        memory = memory.max(anonymous(&process, &[], (own.dev(), own.ino())));
        std::thread::sleep(INTERVAL);
    };
    let status = child.wait()?;
    let (text, end) = listener.join().map_err(|_| "a thread panicked")??;
    if !status.success() {
        return Err(format!("kiln failed ({status}): {}", String::from_utf8_lossy(&text)).into());
    }
    Ok(Usage { wall: (end - start).as_secs_f64(), cpu, memory })
}

/// Returns state and processor time in seconds from `/proc/PID/stat`, with the time of children that were waited for.
fn stat(text: &str) -> Outcome<(&str, f64)> {
    // The second field is a name in parentheses and may hold anything.
    let fields: Vec<&str> = text.rsplit_once(") ").map_or("", |(_, rest)| rest).split(' ').collect();
    let [state, ..] = fields.as_slice() else { return Err("an empty /proc/PID/stat".into()) };
    let ticks = fields.get(11..15).ok_or("a short /proc/PID/stat")?;
    let ticks = ticks.iter().map(|t| t.parse::<u64>()).sum::<Result<u64, _>>()?;
    Ok((state, ticks as f64 / TICKS))
}

/// Returns the anonymous memory in bytes of a process of kiln and of those below it. What ended meanwhile has none.
fn anonymous(process: &Path, parent: &[u8], kiln: (u64, u64)) -> u64 {
    let Ok(line) = std::fs::read(process.join("cmdline")) else { return 0 };
    // Where it may not be seen what a process runs, it counts: the sum is rather too large than too small.
    let foreign = std::fs::metadata(process.join("exe")).is_ok_and(|exe| (exe.dev(), exe.ino()) != kiln);
    if foreign {
        return 0;
    }
    let status = std::fs::read_to_string(process.join("status")).unwrap_or_default();
    let kib: u64 = field(&status, "RssAnon").trim_end_matches(" kB").parse().unwrap_or(0);
    let own = if line == parent { 0 } else { kib * 1024 };
    own + children(process).iter().map(|child| anonymous(child, &line, kiln)).sum::<u64>()
}

/// Returns the processes that the threads of a process have started.
fn children(process: &Path) -> Vec<PathBuf> {
    let tasks = std::fs::read_dir(process.join("task")).into_iter().flatten().flatten();
    let lists = tasks.filter_map(|task| std::fs::read_to_string(task.path().join("children")).ok());
    let lists: Vec<String> = lists.collect();
    lists.iter().flat_map(|list| list.split_whitespace()).map(|pid| Path::new("/proc").join(pid)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn processor_time_includes_children() {
        let text = "7 (a) b) Z 1 7 7 0 -1 4 90 0 0 0 150 25 20 5 20 0 1 0 99 0 0\n";
        assert_eq!(stat(text).unwrap(), ("Z", 2.0));
        assert!(stat("7 (a) Z 1").is_err());
    }

    #[test]
    fn a_process_is_measured_to_its_end() {
        let shell = std::fs::canonicalize("/bin/sh").unwrap();
        let used = run(&shell, Command::new(&shell).args(["-c", "sleep 0.3; exit 0"])).unwrap();
        assert!(used.wall >= 0.3 && used.memory > 0, "{used:?}");
        let failed = run(&shell, Command::new(&shell).args(["-c", "echo why >&2; exit 3"])).unwrap_err();
        assert!(failed.to_string().contains("why"), "{failed}");
    }
}

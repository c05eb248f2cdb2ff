//! What was measured and where, and its form as JSON.

use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::Outcome;

/// What grows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Kind {
    /// The number of files of a COPY.
    Files,
    /// The size of one layer.
    Layer,
    /// The number of instructions.
    Steps,
}

impl Kind {
    pub(crate) const ALL: [Self; 3] = [Self::Files, Self::Layer, Self::Steps];

    /// Returns the kind of this name.
    pub(crate) fn named(name: &str) -> Outcome<Self> {
        let found = Self::ALL.into_iter().find(|kind| kind.name() == name);
        found.ok_or_else(|| format!("there is no kind of growth called `{name}`: files, layer, steps").into())
    }

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Files => "files",
            Self::Layer => "layer",
            Self::Steps => "steps",
        }
    }

    /// Returns what the sizes of this kind count.
    pub(crate) fn unit(self) -> &'static str {
        match self {
            Self::Files => "files of 2 KiB",
            Self::Layer => "GiB in one file",
            Self::Steps => "instructions",
        }
    }
}

/// One build, measured once or several times.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Measurement {
    pub(crate) kind: Kind,
    /// Which build of this input.
    pub(crate) build: String,
    /// How much of the unit of the kind.
    pub(crate) size: f64,
    /// How often it ran.
    pub(crate) runs: usize,
    /// Median of the time from start to end, in seconds.
    pub(crate) wall_s: f64,
    /// Median of the processor time in user and system mode, with that of the commands of RUN, in seconds.
    pub(crate) cpu_s: f64,
    /// The most anonymous memory that was seen in any run, in bytes.
    pub(crate) memory_bytes: u64,
    /// Size of the store afterwards on disk, in bytes.
    pub(crate) store_bytes: u64,
    /// Processes that ran or waited for a processor when it began, averaged over a minute.
    pub(crate) load: f64,
}

/// A machine, without anything that names it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Machine {
    pub(crate) cores: usize,
    pub(crate) processor: String,
    pub(crate) memory_bytes: u64,
    pub(crate) file_system: String,
    pub(crate) kernel: String,
}

impl Machine {
    /// Looks at this machine, and at the file system of `dir`.
    pub(crate) fn this(dir: &Path) -> Outcome<Self> {
        let cpuinfo = std::fs::read_to_string("/proc/cpuinfo")?;
        let meminfo = std::fs::read_to_string("/proc/meminfo")?;
        let kib: u64 = field(&meminfo, "MemTotal").trim_end_matches(" kB").parse()?;
        let mounts = std::fs::read_to_string("/proc/self/mountinfo")?;
        Ok(Self {
            cores: std::thread::available_parallelism()?.get(),
            processor: field(&cpuinfo, "model name").to_owned(),
            memory_bytes: kib * 1024,
            file_system: file_system(&mounts, &dir.canonicalize()?).unwrap_or("unknown").to_owned(),
            kernel: std::fs::read_to_string("/proc/sys/kernel/osrelease")?.trim().to_owned(),
        })
    }
}

/// Returns what stands behind `name:` in a file of `/proc`.
pub(crate) fn field<'a>(text: &'a str, name: &str) -> &'a str {
    let value = |line: &'a str| line.strip_prefix(name)?.trim_start().strip_prefix(':');
    text.lines().find_map(value).unwrap_or_default().trim()
}

/// Returns the type of the file system that `path` is in.
fn file_system<'a>(mountinfo: &'a str, path: &Path) -> Option<&'a str> {
    let mount = |line: &'a str| {
        let (before, after) = line.split_once(" - ")?;
        let point = Path::new(before.split(' ').nth(4)?);
        path.starts_with(point).then(|| (point.components().count(), after.split(' ').next()))
    };
    // Of two at one place the later hides the earlier.
    mountinfo.lines().filter_map(mount).max_by_key(|(depth, _)| *depth)?.1
}

/// Everything that was measured on one machine.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Results {
    pub(crate) machine: Machine,
    pub(crate) measurements: Vec<Measurement>,
}

impl Results {
    /// Returns results that go on with `earlier` ones of the same machine.
    pub(crate) fn new(machine: Machine, earlier: Option<Self>) -> Outcome<Self> {
        match earlier {
            Some(earlier) if earlier.machine != machine => {
                let (then, now) = (earlier.machine, machine);
                Err(format!("the file has results of another machine: {then:?}, and this is {now:?}").into())
            }
            Some(earlier) => Ok(earlier),
            None => Ok(Self { machine, measurements: Vec::new() }),
        }
    }

    /// Puts new measurements of `kind` in the place of older ones.
    pub(crate) fn replace(&mut self, kind: Kind, measured: Vec<Measurement>) {
        self.measurements.retain(|m| m.kind != kind);
        self.measurements.extend(measured);
        self.measurements.sort_by_key(|m| m.kind);
    }

    /// Returns the builds of a kind in the order in which they were measured, each with its sizes from small to large.
    pub(crate) fn series(&self, kind: Kind) -> Vec<(&str, Vec<&Measurement>)> {
        let mut series: Vec<(&str, Vec<&Measurement>)> = Vec::new();
        for m in self.measurements.iter().filter(|m| m.kind == kind) {
            match series.iter_mut().find(|(build, _)| *build == m.build) {
                Some((_, points)) => points.push(m),
                None => series.push((&m.build, vec![m])),
            }
        }
        series.iter_mut().for_each(|(_, points)| points.sort_by(|a, b| a.size.total_cmp(&b.size)));
        series
    }

    pub(crate) fn parse(text: &str) -> Outcome<Self> {
        Ok(serde_json::from_str(text)?)
    }

    pub(crate) fn to_json(&self) -> Outcome<String> {
        Ok(serde_json::to_string_pretty(self)? + "\n")
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn measurement(kind: Kind, build: &str, size: f64, wall_s: f64) -> Measurement {
        Measurement {
            kind,
            build: build.to_owned(),
            size,
            runs: 1,
            wall_s,
            cpu_s: wall_s,
            memory_bytes: 20 << 20,
            store_bytes: 1 << 20,
            load: 0.5,
        }
    }

    pub(crate) fn results(measurements: Vec<Measurement>) -> Results {
        let machine = Machine {
            cores: 4,
            processor: "Example <1>".to_owned(),
            memory_bytes: 8 << 30,
            file_system: "ext4".to_owned(),
            kernel: "6.1.0".to_owned(),
        };
        Results { machine, measurements }
    }

    #[test]
    fn the_file_system_is_that_of_the_deepest_mount() {
        let mounts = "27 1 254:0 / / rw - ext4 /dev/a rw\n28 27 0:1 / /tmp rw,x shared:1 - tmpfs tmp rw\n";
        assert_eq!(file_system(mounts, Path::new("/tmp/x")), Some("tmpfs"));
        assert_eq!(file_system(mounts, Path::new("/tmpx")), Some("ext4"));
    }

    #[test]
    fn results_come_back_from_their_file_and_never_mix_machines() {
        let mut all = results(vec![
            measurement(Kind::Layer, "first build", 1.0, 2.0),
            measurement(Kind::Files, "first build", 1000.0, 0.25),
        ]);
        assert_eq!(Results::parse(&all.to_json().unwrap()).unwrap(), all);
        all.replace(Kind::Layer, vec![measurement(Kind::Layer, "first build", 1.0, 3.0)]);
        let kinds: Vec<_> = all.measurements.iter().map(|m| (m.kind, m.wall_s)).collect();
        assert_eq!(kinds, [(Kind::Files, 0.25), (Kind::Layer, 3.0)]);
        let other = Machine { cores: 8, ..all.machine.clone() };
        assert!(Results::new(other, Some(all.clone())).is_err());
        assert_eq!(Results::new(all.machine.clone(), Some(all.clone())).unwrap(), all);
    }
}

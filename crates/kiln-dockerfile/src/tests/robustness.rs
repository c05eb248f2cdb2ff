//! No input makes the crate panic, and time grows with the length of the input only.

use std::hint::black_box;
use std::time::{Duration, Instant};

use crate::expand::{expand_heredoc, expand_word, expand_words};
use crate::ignore::Ignore;
use crate::instruction::{PortSpec, parse_signal, parse_size};
use crate::{
    Dockerfile, Escape, SourceMap, detect_syntax, glob, parse, parse_bytes, parse_duration, parse_trigger,
};

/// The pieces that mutations are made of: whatever has a meaning to one of the readers.
const PIECES: [&str; 64] = [
    "FROM ",
    "RUN ",
    "COPY ",
    "ADD ",
    "ONBUILD ",
    "HEALTHCHECK ",
    "ENV ",
    "ARG ",
    "LABEL ",
    "SHELL ",
    "EXPOSE ",
    "VOLUME ",
    "STOPSIGNAL ",
    "\n",
    "\r\n",
    "\\\n",
    "\\",
    "`",
    "<<EOF",
    "<<-'E'",
    "EOF\n",
    "\t",
    " ",
    "#",
    "# escape=`\n",
    "# syntax=x\n",
    "# check=skip=a;error=true\n",
    "--mount=",
    "--from=",
    "--link",
    "type=cache,",
    "target=/x",
    "[\"",
    "\", \"",
    "\"]",
    "\\u00e4",
    "\\ud83d",
    "{\"",
    "}",
    "${",
    "$a",
    ":-",
    "%%",
    "##",
    "//",
    "/",
    "*",
    "**",
    "?",
    "[^a-z]",
    "!",
    "\"",
    "'",
    "=",
    ",",
    "\0",
    "\u{feff}",
    "ä",
    "😀",
    "1h5m",
    "-",
    "8000-8010/tcp",
    "AS b",
    "CMD ",
];

const SEEDS: [&str; 4] = [
    "# syntax=docker/dockerfile:1\nARG V=1\nFROM a:${V:-2} AS b\nRUN --mount=type=cache,target=/c x \\\n # c\n y\n",
    "FROM a\nCOPY --chown=\"1:2\" <<-\"E\" <<F /x/\n\ty\n\tE\n$z\nF\nENV a=b c='d e' f=\"g\\\"\"\n",
    "FROM a\nHEALTHCHECK --interval=1m CMD [\"a\", \"\\u00e4\"]\nEXPOSE 80 1-2/udp\nONBUILD RUN <<E\n#!x\nE\n",
    "**/a\n!b/*.go\n/c/[a-z]?\n# comment\n${path%%/*}${a//b/c}\"${d:?e}\"",
];

struct Random(u64);

impl Random {
    fn below(&mut self, limit: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(self.0 >> 33).unwrap() % limit.max(1)
    }
}

/// Changes a text at a few random places: adds a piece, removes a range, or doubles one.
fn mutate(text: &str, random: &mut Random) -> String {
    let mut characters: Vec<char> = text.chars().collect();
    for _ in 0..=random.below(8) {
        let at = random.below(characters.len() + 1);
        let end = (at + random.below(12)).min(characters.len());
        match random.below(4) {
            0 => drop(characters.drain(at..end)),
            1 => {
                let copy: Vec<char> = characters[at..end].to_vec();
                characters.splice(at..at, copy);
            }
            _ => {
                let piece = PIECES[random.below(PIECES.len())];
                characters.splice(at..at, piece.chars());
            }
        }
    }
    characters.into_iter().collect()
}

/// Touches whatever a tree offers for reading.
fn visit(source: &str, file: &Dockerfile) {
    for statement in file.stages.iter().flat_map(|stage| &stage.instructions) {
        assert!(source.is_char_boundary(statement.span.start) && source.is_char_boundary(statement.span.end));
        assert!(statement.lines.start() <= statement.lines.end());
        if let crate::Instruction::Run(run) = &statement.instruction {
            drop(format!("{:?}", run.script()));
            for mount in &run.mounts {
                drop(mount.resolve(&mut |value| {
                    expand_word(value, Escape::Backslash, &|_| None).map(|found| found.text)
                }));
            }
        }
    }
}

#[test]
fn mutated_inputs_do_not_panic() {
    let mut random = Random(42);
    let lookup = |name: &str| (name != "z").then(|| format!("{name}/b.c"));
    for round in 0..20_000 {
        let text = mutate(SEEDS[round % SEEDS.len()], &mut random);
        let (file, diagnostics) = parse(&text);
        let map = SourceMap::new(&text);
        for diagnostic in &diagnostics {
            assert!(
                text.get(diagnostic.span.start..diagnostic.span.end).is_some(),
                "{diagnostic:?} in {text:?}"
            );
            assert!(map.locate(diagnostic.span.start).line <= map.line_count());
        }
        visit(&text, &file);
        drop(detect_syntax(&text));
        drop(parse_trigger(&text));
        for escape in [Escape::Backslash, Escape::Backtick] {
            drop(expand_word(&text, escape, &lookup));
            drop(expand_words(&text, escape, &lookup));
        }
        drop(expand_heredoc(&text, &lookup));
        let (ignore, _) = Ignore::parse(&text);
        for path in ["a", "b/x.go", "c/d/e", "ä/😀", text.as_str()] {
            let decision = ignore.matches(path);
            assert_eq!(
                ignore.enter(&ignore.root(), path).0.excluded,
                ignore.decide(&ignore.root(), path).excluded
            );
            black_box((decision, ignore.may_reinclude_below(decision, path)));
        }
        for line in text.lines() {
            let _ =
                black_box((glob::matches(line, "a/b.go"), glob::has_wildcard(line), parse_duration(line)));
            let _ = black_box((PortSpec::parse(line), parse_size(line), parse_signal(line)));
        }
    }
}

#[test]
fn mutated_bytes_do_not_panic() {
    let mut random = Random(7);
    for round in 0..5_000 {
        let mut bytes = SEEDS[round % SEEDS.len()].as_bytes().to_vec();
        for _ in 0..=random.below(6) {
            let at = random.below(bytes.len());
            bytes[at] = u8::try_from(random.below(256)).unwrap();
        }
        let (_, diagnostics) = parse_bytes(&bytes);
        assert!(diagnostics.iter().all(|found| found.span.end <= bytes.len() + 1));
    }
}

/// Generous, because tests run unoptimised on busy machines; quadratic time would take minutes.
fn check_time(what: &str, source: &str) -> Dockerfile {
    let start = Instant::now();
    let (file, _) = parse(source);
    assert!(start.elapsed() < Duration::from_secs(5), "{what} took {:?}", start.elapsed());
    file
}

#[test]
fn long_files_take_linear_time() {
    let count = 100_000;
    let lines = |line: &str| format!("FROM a\n{}", line.repeat(count));
    assert_eq!(check_time("instructions", &lines("RUN echo a\n")).stages[0].instructions.len(), count);
    assert_eq!(check_time("stages", &"FROM a AS b\n".repeat(count)).stages.len(), count);
    check_time("comments", &lines("# a comment\n"));
    check_time("continuations", &lines("ENV a=b \\\n"));
    check_time("blank continuations", &format!("FROM a\nRUN a \\\n{}", "\n".repeat(count)));
    check_time("unknown instructions", &lines("RNU echo a\n"));
    check_time("open heredocs", &lines("RUN <<EOF\n"));
    check_time("heredocs on one line", &format!("FROM a\nRUN x{}\n", " <<E".repeat(count)));
    check_time("closed heredocs", &lines("RUN <<E\nE\n"));
    check_time("faulty flags", &lines("COPY --frm=a b c\n"));
}

#[test]
fn long_lines_take_linear_time() {
    let count = 100_000;
    check_time("pairs", &format!("FROM a\nENV{}\n", " a=b".repeat(count)));
    check_time("sources", &format!("FROM a\nCOPY{} /x\n", " a".repeat(count)));
    check_time("JSON", &format!("FROM a\nRUN [{}\"b\"]\n", "\"a\", ".repeat(count)));
    check_time("open brackets", &format!("FROM a\nRUN {}\n", "[".repeat(count)));
    check_time("quotes", &format!("FROM a\nENV a={}\n", "\"".repeat(count)));
    check_time("one flag", &format!("FROM a\nRUN --mount=target=/{} x\n", "x".repeat(count)));
    check_time("mount options", &format!("FROM a\nRUN --mount=target=/x{} x\n", ",z".repeat(count)));
    check_time("flags", &format!("FROM a\nCOPY{} a b\n", " --exclude=x".repeat(count)));
    check_time("unknown flags", &format!("FROM a\nCOPY{} a b\n", " --x".repeat(count)));
    check_time("one word", &format!("FROM a\n{}\n", "x".repeat(count)));
    check_time("onbuild", &format!("FROM a\n{}RUN <<a\n", "ONBUILD ".repeat(count)));
}

#[test]
fn long_words_are_expanded_in_linear_time() {
    let start = Instant::now();
    let lookup = |_: &str| Some("a".repeat(100));
    drop(expand_word(&"$a ".repeat(20_000), Escape::Backslash, &lookup));
    drop(expand_words(&"\"a\" ".repeat(100_000), Escape::Backslash, &lookup));
    drop(expand_word(&"${".repeat(100_000), Escape::Backslash, &lookup));
    drop(expand_word("${a%%*a*a*a*a*a*a*a*a*a*b}", Escape::Backslash, &|_| Some("a".repeat(20_000))));
    drop(expand_word("${a//*b/c}", Escape::Backslash, &|_| Some("a".repeat(20_000))));
    assert!(start.elapsed() < Duration::from_secs(5), "{:?}", start.elapsed());
}

/// The time of the fastest of three readings: what the machine does besides counts least there.
fn fastest(source: &str) -> Duration {
    let time = || {
        let start = Instant::now();
        black_box(parse(source));
        start.elapsed()
    };
    (0..3).map(|_| time()).min().unwrap()
}

#[test]
fn twice_the_text_takes_at_most_three_times_as_long() {
    let forms = [
        "RUN a \\\n  # b\n c\n",
        "ENV a=b c=\"d e\" f='g'\n",
        "COPY <<E <<F /x/\na\nE\nb\nF\n",
        "RUN --mount=type=cache,target=/x --network=none [\"a\", \"b\"]\n",
        "FROM a AS b\nARG A=${B:-c}\nLABEL a b\n",
    ];
    for form in forms {
        let text = |count: usize| format!("FROM a\n{}", form.repeat(count));
        let (once, twice) = (text(4_000), text(8_000));
        // A machine may pause in just one of the two; it will not do so again and again.
        let linear = (0..5).any(|_| fastest(&twice) <= fastest(&once) * 3);
        assert!(linear, "{form:?} is not read in linear time");
    }
}

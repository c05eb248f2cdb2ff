//! `kiln history log`.

use std::collections::BTreeMap;
use std::io::{self, ErrorKind, Write};

use kiln::Error;
use kiln::history::{Content, Entry, Piece};
use kiln::progress::{StepId, Stream};

use crate::args::HistoryLogArgs;
use crate::env::Env;
use crate::exit::Exit;
use crate::failure::{Failure, Outcome};
use crate::text::{Lines, printable, size};
use crate::value::RecordFormat;

/// Prints what steps printed, piece by piece.
pub(super) fn run(args: &HistoryLogArgs, env: &Env) -> Outcome<Exit> {
    let history = super::open(&args.store, env)?;
    let (number, entry) = super::find(&history, args.number)?;
    if let (Some(step), Entry::Ended(record)) = (args.step, &entry)
        && !record.steps.iter().any(|known| known.id == step)
    {
        let message = format!("build {number} has no step {step}");
        let error = match record.steps.len() {
            0 => Error::input(message).hint("it ended before its steps were known"),
            steps => Error::input(message).hint(format!("it has the steps 1 to {steps}")),
        };
        return Err(error.into());
    }
    let pieces = history.log(number)?.filter(|piece| {
        let wanted = |piece: &Piece| args.step.is_none_or(|step| piece.step == step);
        piece.as_ref().map_or(true, wanted)
    });
    let mut printer = Printer {
        out: io::BufWriter::new(io::stdout().lock()),
        one_step: args.step.is_some(),
        lines: BTreeMap::new(),
    };
    for piece in pieces {
        let piece = piece.map_err(|e| Error::environment("cannot read the log").because(e))?;
        let printed = match args.format {
            RecordFormat::Text => printer.piece(piece),
            RecordFormat::Json => printer.json(&piece),
        };
        match printed {
            // `kiln history log | head` is no failure.
            Err(e) if e.kind() == ErrorKind::BrokenPipe => return Ok(Exit::Success),
            printed => printed.map_err(unwritable)?,
        }
    }
    match printer.finish() {
        Err(e) if e.kind() != ErrorKind::BrokenPipe => Err(unwritable(e)),
        _ => Ok(Exit::Success),
    }
}

fn unwritable(error: io::Error) -> Failure {
    Error::environment("cannot write to standard output").because(error).into()
}

struct Printer<W> {
    out: W,
    one_step: bool,
    lines: BTreeMap<(StepId, Stream), (u64, Lines)>,
}

impl<W: Write> Printer<W> {
    fn json(&mut self, piece: &Piece) -> io::Result<()> {
        serde_json::to_writer(&mut self.out, piece)?;
        self.out.write_all(b"\n")
    }

    fn piece(&mut self, piece: Piece) -> io::Result<()> {
        let Piece { step, ms, content } = piece;
        match content {
            Content::Output { stream, text } => {
                let (at, lines) = self.lines.entry((step, stream)).or_default();
                *at = ms;
                for line in lines.push(&text) {
                    line_of(&mut self.out, self.one_step, step, ms, &line)?;
                }
                Ok(())
            }
            Content::LeftOut { left_out } => {
                let text = format!("[{} of output left out]", size(left_out));
                line_of(&mut self.out, self.one_step, step, ms, &text)
            }
        }
    }

    fn finish(&mut self) -> io::Result<()> {
        for ((step, _), (ms, lines)) in &mut self.lines {
            if let Some(line) = lines.finish() {
                line_of(&mut self.out, self.one_step, *step, *ms, &line)?;
            }
        }
        self.out.flush()
    }
}

fn line_of(out: &mut impl Write, one_step: bool, step: StepId, ms: u64, line: &str) -> io::Result<()> {
    if one_step {
        return writeln!(out, "{}", printable(line));
    }
    let (seconds, hundredths) = (ms / 1000, ms % 1000 / 10);
    let line = format!("#{step} {seconds}.{hundredths:02} {}", printable(line));
    writeln!(out, "{}", line.trim_end())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_whole_and_harmless() {
        let output = |step, ms, stream, text: &str| Piece {
            step,
            ms,
            content: Content::Output { stream, text: text.to_owned() },
        };
        let pieces = [
            output(2, 10, Stream::Stdout, "a"),
            output(3, 1240, Stream::Stdout, "of three\n"),
            output(2, 2000, Stream::Stdout, "b\n\u{1b}[31mred"),
            Piece { step: 2, ms: 2000, content: Content::LeftOut { left_out: 5_000_000 } },
        ];
        let show = |one_step| {
            let mut printer = Printer { out: Vec::new(), one_step, lines: BTreeMap::new() };
            pieces.iter().for_each(|piece| printer.piece(piece.clone()).unwrap());
            printer.finish().unwrap();
            String::from_utf8(printer.out).unwrap()
        };
        assert_eq!(
            show(false),
            "#3 1.24 of three\n#2 2.00 ab\n#2 2.00 [5.0 MB of output left out]\n#2 2.00 red\n"
        );
        assert!(show(true).starts_with("of three\nab\n"));
    }
}

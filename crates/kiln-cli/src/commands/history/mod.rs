//! `kiln history`: what builds left behind.
//!
//! Reads the store without opening it, so that it works beside builds and on a store that cannot be written.

mod list;
mod log;
mod show;

use kiln::Error;
use kiln::history::{Entry, History};
use serde::Serialize;

use super::enter_store;
use crate::args::{HistoryArgs, HistoryCommand, HistoryRmArgs, StoreArgs};
use crate::env::Env;
use crate::exit::Exit;
use crate::failure::Outcome;
use crate::stdout;
use crate::value::BuildNumber;

/// Runs a command on the records.
pub(super) fn run(args: &HistoryArgs, env: &Env) -> Outcome<Exit> {
    match &args.command {
        None => list::run(&args.list, env),
        Some(HistoryCommand::Ls(args)) => list::run(args, env),
        Some(HistoryCommand::Show(args)) => show::run(args, env),
        Some(HistoryCommand::Log(args)) => log::run(args, env),
        Some(HistoryCommand::Rm(args)) => remove(args, env),
    }
}

pub(super) fn open(store: &StoreArgs, env: &Env) -> Outcome<History> {
    Ok(History::at(&enter_store(store, env)?))
}

/// Returns the build that was asked for and what there is of it.
pub(super) fn find(history: &History, wanted: BuildNumber) -> Outcome<(u64, Entry)> {
    let numbers = history.numbers()?;
    let number = match wanted {
        BuildNumber::Number(number) => Some(number),
        BuildNumber::Latest => numbers.last().copied(),
    };
    let found = number.and_then(|number| Some((number, history.entry(number)?)));
    found.ok_or_else(|| missing(number, &numbers).into())
}

fn missing(number: Option<u64>, numbers: &[u64]) -> Error {
    let message = match number {
        Some(number) => format!("there is no record of build {number}"),
        None => "no build has left a record here".to_owned(),
    };
    let error = Error::input(message);
    if numbers.is_empty() {
        return error
            .hint("records are in the store of the build: name it with `--store DIR` if it is another");
    }
    error.hint(format!("there are records of {}", ranges(numbers)))
}

/// Writes numbers as `1 to 5, 9`.
fn ranges(numbers: &[u64]) -> String {
    let mut runs: Vec<(u64, u64)> = Vec::new();
    for number in numbers {
        match runs.last_mut() {
            Some((_, last)) if *last + 1 == *number => *last = *number,
            _ => runs.push((*number, *number)),
        }
    }
    let run = |(first, last): &(u64, u64)| match last - first {
        0 => first.to_string(),
        1 => format!("{first}, {last}"),
        _ => format!("{first} to {last}"),
    };
    runs.iter().map(run).collect::<Vec<_>>().join(", ")
}

/// Removes records; each number that is none is reported, and the others are removed.
fn remove(args: &HistoryRmArgs, env: &Env) -> Outcome<Exit> {
    let history = open(&args.store, env)?;
    let mut failed = Vec::new();
    if args.all {
        for number in history.numbers()? {
            if history.entry(number) != Some(Entry::Running) {
                failed.extend(history.remove(number).err());
            }
        }
    }
    for wanted in &args.numbers {
        match find(&history, *wanted) {
            Ok((number, _)) => match history.remove(number) {
                Ok(()) => stdout::print(&format!("{number}\n"))?,
                Err(error) => failed.push(error),
            },
            Err(failure) => failed.push(failure.into_error()),
        }
    }
    match Error::first_of(failed) {
        None => Ok(Exit::Success),
        Some(error) => Err(error.into()),
    }
}

/// Writes a value as JSON for people who look at it.
pub(super) fn json<T: Serialize>(value: &T) -> Outcome<String> {
    let text = serde_json::to_string_pretty(value)
        .map_err(|e| Error::internal("cannot write a record as JSON").because(e))?;
    Ok(format!("{text}\n"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_told_in_ranges() {
        let check = |numbers: &[u64], expect: &str| assert_eq!(ranges(numbers), expect);
        check(&[1], "1");
        check(&[1, 2], "1, 2");
        check(&[1, 2, 3, 5, 7, 8, 9, 10], "1 to 3, 5, 7 to 10");
    }
}

//! How the cost of a build grows with its input: `xtask-bench growth`, started by `cargo xtask bench growth`.
//!
//! | module | what it does |
//! |---|---|
//! | `input` | makes contexts, the same on every machine |
//! | `cases` | builds them, each size after the other |
//! | `watch` | runs kiln once and measures it from outside |
//! | `data` | what was measured, as JSON |
//! | `statistics` | medians and exponents |
//! | `table`, `plot`, `axis` | the same numbers for people |
//!
//! It runs the real program, in a store of its own under the temporary directory, and pushes nothing. No number comes from
//! kiln itself but the size of the store.

mod axis;
mod cases;
mod data;
mod input;
mod plot;
mod statistics;
mod table;
mod watch;

use std::path::PathBuf;

use crate::Outcome;
use data::{Kind, Machine, Results};

pub(crate) const USAGE: &str =
    "growth HOST-BASE --kiln PATH [--out SVG] [--json FILE] [--only files,layer,steps] [--quick] [--draw]";

/// What was asked for.
struct Args {
    kiln: PathBuf,
    base: PathBuf,
    svg: Option<PathBuf>,
    json: Option<PathBuf>,
    only: Vec<Kind>,
    quick: bool,
    draw: bool,
}

/// Measures and shows; `args` are those behind `growth`.
pub(crate) fn run(args: &[&str]) -> Outcome {
    let args = parse(args)?;
    let earlier = match &args.json {
        Some(path) if path.exists() => Some(Results::parse(&std::fs::read_to_string(path)?)?),
        _ => None,
    };
    let mut results = match (args.draw, earlier) {
        (true, Some(earlier)) => earlier,
        (true, None) => return Err("`--draw` needs the file of an earlier run: `--json FILE`".into()),
        (false, earlier) => Results::new(Machine::this(&std::env::temp_dir())?, earlier)?,
    };
    for kind in args.only.iter().filter(|_| !args.draw) {
        results.replace(*kind, cases::run(*kind, &args.kiln, &args.base, args.quick)?);
        if let Some(path) = &args.json {
            std::fs::write(path, results.to_json()?)?;
        }
    }
    println!("{}\n\n{}", table::machine(&results), table::markdown(&results));
    if let Some(path) = &args.svg {
        std::fs::write(path, plot::svg(&results))?;
    }
    Ok(())
}

fn parse(args: &[&str]) -> Outcome<Args> {
    let [base, rest @ ..] = args else { return Err(format!("usage: {USAGE}").into()) };
    let (mut kiln, mut svg, mut json, mut only, mut quick, mut draw) = (None, None, None, None, false, false);
    let mut rest = rest.iter();
    while let Some(arg) = rest.next() {
        let mut value = || rest.next().copied().ok_or_else(|| format!("`{arg}` needs a value"));
        match *arg {
            "--kiln" => kiln = Some(std::path::absolute(value()?)?),
            "--out" => svg = Some(PathBuf::from(value()?)),
            "--json" => json = Some(PathBuf::from(value()?)),
            "--only" => only = Some(value()?.split(',').map(Kind::named).collect::<Outcome<_>>()?),
            "--quick" => quick = true,
            "--draw" => draw = true,
            _ => return Err(format!("`growth` does not know `{arg}`\nusage: {USAGE}").into()),
        }
    }
    Ok(Args {
        kiln: kiln.ok_or("`--kiln` is missing")?,
        base: std::path::absolute(base)?,
        svg,
        json,
        only: only.unwrap_or_else(|| Kind::ALL.to_vec()),
        quick,
        draw,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn documentation_shows_the_numbers_that_were_measured() {
        let docs = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../docs");
        let read = |name: &str| std::fs::read_to_string(docs.join(name)).unwrap();
        let results = Results::parse(&read("growth.json")).unwrap();
        assert!(read("growth.svg") == plot::svg(&results), "draw docs/growth.svg again with --draw");
        let page = read("performance.md");
        assert!(page.contains(&table::machine(&results)), "{}", table::machine(&results));
        assert!(page.contains(&table::markdown(&results)), "{}", table::markdown(&results));
    }

    #[test]
    fn arguments_say_what_is_measured() {
        let args = parse(&["base", "--kiln", "/k", "--only", "layer,steps", "--quick"]).unwrap();
        assert_eq!(args.only, [Kind::Layer, Kind::Steps]);
        assert!(args.quick && !args.draw && args.svg.is_none());
        for (bad, why) in [
            (&["base"][..], "`--kiln` is missing"),
            (&["base", "--kiln", "/k", "--only", "disk"], "`disk`"),
            (&["base", "--kiln"], "`--kiln` needs a value"),
        ] {
            assert!(parse(bad).err().unwrap().to_string().contains(why));
        }
    }
}

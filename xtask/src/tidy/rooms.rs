//! The rooms of the engine: each may use the rooms above it in [`ROOMS`], and none below.

use super::{Finding, SourceFile, code};

/// Where the rooms are.
const ENGINE: &str = "crates/kiln/src/";

/// The rooms in the order in which data flows: a room may use those above it.
///
/// The order is kept here because rustfmt sorts the list of modules in `lib.rs` by name.
const ROOMS: [&str; 26] = [
    "error",
    "key",
    "progress",
    "cancel",
    "address",
    "request",
    "store",
    "history",
    "snapshot",
    "rootfs",
    "graph",
    "frontend",
    "context",
    "engine",
    "fetch",
    "files",
    "mounts",
    "exec",
    "pin",
    "cache",
    "solve",
    "image",
    "export",
    "cache_mounts",
    "build",
    "check",
];

pub(super) fn check(sources: &[SourceFile]) -> Vec<Finding> {
    let lib = sources.iter().find(|s| s.path == format!("{ENGINE}lib.rs")).map_or("", |s| s.text.as_str());
    let mut found = modules(lib);
    let names = reexports(lib);
    for source in sources {
        let Some(inside) = source.path.strip_prefix(ENGINE).filter(|_| !super::is_test(&source.path)) else {
            continue;
        };
        let room = inside.split(['/', '.']).next().unwrap_or(inside);
        let Some(own) = position(room) else { continue };
        for (line, text) in code(&source.text) {
            for used in uses(text) {
                let used = names.iter().find(|(name, _)| *name == used).map_or(used, |(_, room)| room);
                if position(used).is_some_and(|used| used > own) {
                    let message =
                        format!("room `{room}` uses `{used}`, which is below it: `{}`", text.trim());
                    found.push(Finding::new(format!("{}:{line}", source.path), message));
                }
            }
        }
    }
    found
}

fn position(room: &str) -> Option<usize> {
    ROOMS.iter().position(|r| *r == room)
}

/// Compares the modules of `lib.rs` with the list of rooms.
fn modules(lib: &str) -> Vec<Finding> {
    let declared: Vec<&str> = lib
        .lines()
        .filter_map(|line| {
            line.strip_prefix("pub mod ").or_else(|| line.strip_prefix("mod "))?.strip_suffix(';')
        })
        .collect();
    let place = format!("{ENGINE}lib.rs");
    let new = declared.iter().filter(|m| position(m).is_none());
    let gone = ROOMS.iter().filter(|r| !declared.contains(r));
    new.map(|m| Finding::new(&place, format!("room `{m}` has no place in the order of rooms")))
        .chain(gone.map(|r| {
            Finding::new(&place, format!("room `{r}` is in the order of rooms, but does not exist"))
        }))
        .collect()
}

/// Returns the names that `lib.rs` passes on from a room: `pub use error::{Error, ErrorKind};`.
fn reexports(lib: &str) -> Vec<(&str, &str)> {
    let mut names = Vec::new();
    for line in lib.lines() {
        let path =
            line.strip_prefix("pub use ").and_then(|l| l.strip_suffix(';')).and_then(|l| l.split_once("::"));
        if let Some((room, items)) = path {
            let items = items.trim_matches(['{', '}']).split(',').map(str::trim);
            names.extend(items.filter(|item| position(item).is_none()).map(|item| (item, room)));
        }
    }
    names
}

/// Returns what follows `crate::` in a line.
fn uses(line: &str) -> Vec<&str> {
    let end = |rest: &str| rest.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(rest.len());
    line.match_indices("crate::")
        .map(|(at, word)| &line[at + word.len()..])
        .map(|rest| &rest[..end(rest)])
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(path: &str, text: &str) -> SourceFile {
        SourceFile { path: format!("{ENGINE}{path}"), text: text.to_owned() }
    }

    #[test]
    fn a_room_uses_the_rooms_above_it() {
        let mods: String = ROOMS.iter().map(|room| format!("mod {room};\n")).collect();
        let lib = file("lib.rs", &format!("{mods}pub use build::{{Receipt, build}};\n"));
        let check = |path: &str, text: &str, expect: usize| {
            let found = super::check(&[file("lib.rs", &lib.text), file(path, text)]);
            assert_eq!(found.len(), expect, "{text}: {found:?}");
        };
        check("store/mod.rs", "use crate::error::Error;", 0);
        check("store/mod.rs", "let x = crate::export::all();", 1);
        check("solve/step.rs", "// crate::build\nuse crate::Receipt;", 1);
        check("error.rs", "fn f() {}\n#[cfg(test)]\nmod tests { use crate::build; }", 0);
        check("attic.rs", "use crate::build;", 0);
    }

    #[test]
    fn every_module_has_its_place() {
        let found = modules("mod error;\nmod attic;\n");
        assert!(found.iter().any(|f| f.message.contains("`attic` has no place")), "{found:?}");
        assert!(found.iter().any(|f| f.message.contains("`build` is in the order")), "{found:?}");
    }
}

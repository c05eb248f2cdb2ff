//! `kiln cache`: cache mounts listed, written to an archive and taken from one.

use std::time::UNIX_EPOCH;

use kiln::Error;
use kiln::sandbox::Requested;
use kiln::store::{Store, StoredCache};
use serde::Serialize;

use super::{enter_namespace, enter_store, store_of};
use crate::args::{CacheCommand, CacheExportArgs, CacheImportArgs, CacheLsArgs};
use crate::env::Env;
use crate::exit::Exit;
use crate::failure::Outcome;
use crate::value::ListFormat;
use crate::{stdout, text};

/// One cache mount as it is listed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
struct Row {
    /// The id of the Dockerfile.
    id: String,
    /// What keeps it apart from caches of other projects.
    #[serde(skip_serializing_if = "String::is_empty")]
    namespace: String,
    /// Bytes on disk.
    size: u64,
    /// When a command got it last, in seconds since 1970.
    used: u64,
}

/// Runs a command on cache mounts.
pub(super) fn run(command: &CacheCommand, env: &Env) -> Outcome<Exit> {
    match command {
        CacheCommand::Ls(args) => list(args, env),
        CacheCommand::Export(args) => export(args, env),
        CacheCommand::Import(args) => import(args, env),
    }
}

fn list(args: &CacheLsArgs, env: &Env) -> Outcome<Exit> {
    let store = Store::open(&enter_store(&args.store, env)?)?;
    let rows: Vec<Row> = store.cache_mounts()?.iter().map(row).collect();
    let text = match args.format {
        ListFormat::Table => table(&rows),
        ListFormat::Json => serde_json::to_string_pretty(&rows)
            .map(|text| format!("{text}\n"))
            .map_err(|e| Error::internal("cannot write the list as JSON").because(e))?,
    };
    stdout::print(&text)?;
    Ok(Exit::Success)
}

fn export(args: &CacheExportArgs, env: &Env) -> Outcome<Exit> {
    let store = Store::open(&enter_store(&args.store, env)?)?;
    say("exported", &kiln::cache_mounts::export(&store, &args.id, &args.output)?)
}

fn import(args: &CacheImportArgs, env: &Env) -> Outcome<Exit> {
    let namespace = enter_namespace(Requested::Auto)?;
    let store = Store::open(&store_of(&args.store, env, &namespace)?)?;
    say("imported", &kiln::cache_mounts::import(&store, &namespace, &args.file)?)
}

fn say(done: &str, ids: &[String]) -> Outcome<Exit> {
    let lines: Vec<String> = ids.iter().map(|id| format!("{done} {}\n", text::printable(id))).collect();
    stdout::print(&lines.concat())?;
    Ok(Exit::Success)
}

fn row(cache: &StoredCache) -> Row {
    Row {
        id: cache.identity.id.clone(),
        namespace: cache.identity.namespace.clone(),
        size: cache.size(),
        used: cache.used.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs()),
    }
}

fn table(rows: &[Row]) -> String {
    let mut cells = vec![["ID", "SIZE", "USED"].map(str::to_owned)];
    cells.extend(rows.iter().map(|row| {
        let id = match row.namespace.as_str() {
            "" => row.id.clone(),
            namespace => format!("{} ({namespace})", row.id),
        };
        [id, text::size(row.size), kiln::image::rfc3339(i64::try_from(row.used).unwrap_or(i64::MAX))]
    }));
    text::table(&cells)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_names_the_namespace_where_there_is_one() {
        let row = |id: &str, namespace: &str| Row {
            id: id.to_owned(),
            namespace: namespace.to_owned(),
            size: 1_234_567,
            used: 0,
        };
        assert_eq!(
            table(&[row("/root/.cache", ""), row("a", "ours")]),
            "\
ID            SIZE    USED
/root/.cache  1.2 MB  1970-01-01T00:00:00Z
a (ours)      1.2 MB  1970-01-01T00:00:00Z
"
        );
    }
}

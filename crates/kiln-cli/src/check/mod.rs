//! What `kiln check` and `--call` print: pure functions from a look at a build to text.

mod buildkit;
mod json;
mod page;
mod people;
mod sarif;

use std::path::{Path, PathBuf};

use kiln::Checked;
use kiln::dockerfile::{Location, SourceMap};

pub(crate) use buildkit::{lint, outline, outline_table, targets, targets_table};
pub(crate) use json::json;
pub(crate) use page::entry;
pub(crate) use people::{people, summary};
pub(crate) use sarif::sarif;

/// A look at a build, with what is needed to show it.
#[derive(Debug)]
pub(crate) struct Page<'a> {
    /// What was found.
    pub(crate) checked: &'a Checked,
    /// The file, from where the user stands.
    pub(crate) file: String,
    map: SourceMap<'a>,
}

/// A piece of the file.
#[derive(Debug, Clone, Copy)]
struct Place {
    start: (Location, usize),
    end: (Location, usize),
}

impl<'a> Page<'a> {
    /// Prepares a page; `directory` is where the user stands.
    pub(crate) fn new(checked: &'a Checked, directory: Option<&Path>) -> Self {
        let shown = |path: &PathBuf| {
            let inside = directory.and_then(|directory| path.strip_prefix(directory).ok());
            let path = inside.unwrap_or(path);
            path.strip_prefix(".").unwrap_or(path).display().to_string()
        };
        let file = checked.path.as_ref().map_or_else(|| checked.file.clone(), shown);
        Self { checked, file, map: SourceMap::new(&checked.text) }
    }

    fn place(&self, start: usize, end: usize) -> Place {
        Place { start: (self.map.locate(start), start), end: (self.map.locate(end), end) }
    }
}

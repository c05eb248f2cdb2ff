//! Directories that hold everything a stack of layers adds up to, for commands that run where nothing can be mounted.
//!
//! A command works in such a directory, and what it leaves there is just what the next command of the stage starts from: its layers
//! and one more. So a directory is kept under the list of its layers, and who wants these layers takes it away, or takes one
//! with fewer layers and lays the others over it. Another branch of the build that wants the same copies the layers itself. The
//! directories are in this process's temporary folder, go with the build, and are few at any time.
//!
//! ```text
//! tmp/NAME/N/fs      the root
//!            work    scratch space on the same file system
//!            index   what every file was when the last command had ended
//! ```

use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use super::Engine;
use crate::error::{FileContext as _, Result};
use crate::progress::{StepId, Work, span};
use crate::snapshot::{Top, apply, record, remove_stubs, take_index};

/// So many directories wait for a command at most; they take the space of whole images.
const IDLE: usize = 4;

/// A directory for one command at a time; removed when dropped.
#[derive(Debug)]
pub(crate) struct WorkingRoot {
    dir: PathBuf,
}

impl WorkingRoot {
    /// Returns the root of the command.
    pub(crate) fn fs(&self) -> PathBuf {
        self.dir.join("fs")
    }

    /// Returns scratch space.
    pub(crate) fn work(&self) -> PathBuf {
        self.dir.join("work")
    }

    fn index(&self) -> PathBuf {
        self.dir.join("index")
    }

    /// Puts what the last command changed into `upper`, and is ready for the next. `stubs` are not of the command.
    pub(crate) fn record(&self, stubs: &[PathBuf], upper: &Path) -> Result<()> {
        remove_stubs(&self.fs(), stubs)?;
        let next = self.dir.join("next");
        record(&self.fs(), &self.index(), &next, upper, &self.work())?;
        std::fs::rename(&next, self.index()).on("rename", &next)?;
        self.settle()
    }

    /// Gives the root directory itself the look that it has at the beginning of every command.
    fn settle(&self) -> Result<()> {
        use std::os::unix::fs::PermissionsExt as _;
        let fs = self.fs();
        std::os::unix::fs::chown(&fs, Some(0), Some(0)).on("change the owner of", &fs)?;
        std::fs::set_permissions(&fs, std::fs::Permissions::from_mode(0o755)).on("change the mode of", &fs)
    }
}

impl Drop for WorkingRoot {
    fn drop(&mut self) {
        // What stays goes with the temporary folder.
        let _ = kiln_sandbox::remove_tree(&self.dir);
    }
}

/// Roots that no command is using, each with its layers, topmost first; the latest is last.
#[derive(Debug, Default)]
pub(crate) struct WorkingRoots(Mutex<Vec<(Vec<PathBuf>, WorkingRoot)>>);

impl WorkingRoots {
    /// Takes the root that has most of `layers` and nothing else; returns how many are missing.
    fn take(&self, layers: &[PathBuf]) -> Option<(WorkingRoot, usize)> {
        let mut idle = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let fitting = idle.iter().enumerate().filter(|(_, (of, _))| !of.is_empty() && layers.ends_with(of));
        let (place, _) = fitting.max_by_key(|(_, (of, _))| of.len())?;
        let (of, root) = idle.remove(place);
        Some((root, layers.len() - of.len()))
    }

    /// Keeps a root for the next command that wants these layers.
    fn keep(&self, layers: Vec<PathBuf>, root: WorkingRoot) {
        let mut idle = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        idle.push((layers, root));
        let oldest = (idle.len() > IDLE).then(|| idle.remove(0));
        drop(idle);
        // Deleting takes its time, and nobody shall wait for that.
        drop(oldest);
    }
}

impl Engine {
    /// Returns a root with what `layers` (topmost first) add up to.
    ///
    /// # Errors
    /// When a file cannot be copied, mostly because the disk is full.
    pub(crate) fn working_root(&self, layers: &[PathBuf], step: StepId) -> Result<WorkingRoot> {
        let (root, missing) = match self.roots.take(layers) {
            Some((root, 0)) => return Ok(root),
            Some(found) => found,
            None => (self.new_root()?, layers.len()),
        };
        span(&self.sink, Work::Unpack, "copy the layers below", Some(step), || -> Result<()> {
            self.lay_over(layers.get(..missing).unwrap_or_default(), &root.fs(), Top::Kept)?;
            take_index(&root.fs(), &root.index())?;
            Ok(())
        })?;
        root.settle()?;
        Ok(root)
    }

    fn new_root(&self) -> Result<WorkingRoot> {
        let dir = self.store.tmp_path();
        for folder in ["", "fs", "work"] {
            let path = dir.join(folder);
            std::fs::create_dir(&path).on("create", &path)?;
        }
        Ok(WorkingRoot { dir })
    }

    /// Lays `layers` (topmost first) over the directory `into` by copying.
    pub(crate) fn lay_over(&self, layers: &[PathBuf], into: &Path, top: Top) -> Result<()> {
        let go_on = || match self.cancel.is_cancelled() {
            true => Err(std::io::Error::other("the build was stopped")),
            false => Ok(()),
        };
        for layer in layers.iter().rev() {
            let done = apply(layer, into, top, &go_on);
            self.cancel.check()?;
            done?;
        }
        Ok(())
    }

    /// Keeps a root whose command has ended, which now has `layers`.
    pub(crate) fn keep_root(&self, root: WorkingRoot, layers: Vec<PathBuf>) {
        self.roots.keep(layers, root);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_root_with_most_layers_is_taken_and_others_stay() {
        let paths = |names: &[&str]| names.iter().map(PathBuf::from).collect::<Vec<_>>();
        let root = |name: &str| WorkingRoot { dir: PathBuf::from("/nonexistent").join(name) };
        let roots = WorkingRoots::default();
        roots.keep(paths(&["a"]), root("1"));
        roots.keep(paths(&["b", "a"]), root("2"));
        roots.keep(paths(&["x", "a"]), root("3"));
        let take =
            |names: &[&str]| roots.take(&paths(names)).map(|(root, missing)| (root.dir.clone(), missing));
        assert_eq!(take(&["z"]), None);
        assert_eq!(take(&["c", "b", "a"]), Some((PathBuf::from("/nonexistent/2"), 1)));
        assert_eq!(take(&["c", "b", "a"]), Some((PathBuf::from("/nonexistent/1"), 2)));
        assert_eq!(take(&["c", "b", "a"]), None);
        assert_eq!(take(&["x", "a"]), Some((PathBuf::from("/nonexistent/3"), 0)));
    }
}

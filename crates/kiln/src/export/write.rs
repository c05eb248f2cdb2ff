//! Writing what a user named: temporary name beside it, sync, rename.

use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

use crate::error::{FileContext as _, Result};
use crate::request::Destination;

/// A file, or standard output, that appears only when it is complete.
pub(crate) struct Target {
    out: BufWriter<Box<dyn Write + Send>>,
    file: Option<(File, PathBuf, PathBuf)>,
}

impl Target {
    /// Starts writing to `dest`.
    pub(crate) fn create(dest: &Destination, stdout: fn() -> Box<dyn Write + Send>) -> Result<Self> {
        let Destination::Path(path) = dest else {
            return Ok(Self { out: BufWriter::with_capacity(1 << 18, stdout()), file: None });
        };
        let parent = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
        fs::create_dir_all(parent).on("create", parent)?;
        let tmp = beside(path);
        let file = File::create(&tmp).on("create", &tmp)?;
        let handle = file.try_clone().on("open", &tmp)?;
        let out: Box<dyn Write + Send> = Box::new(handle);
        Ok(Self { out: BufWriter::with_capacity(1 << 18, out), file: Some((file, tmp, path.clone())) })
    }

    /// Gives the file its name.
    pub(crate) fn finish(mut self) -> Result<()> {
        let stdout = Path::new("standard output");
        self.out.flush().on("write", self.file.as_ref().map_or(stdout, |(_, tmp, _)| tmp))?;
        if let Some((file, tmp, path)) = self.file.take() {
            file.sync_all().on("sync", &tmp)?;
            fs::rename(&tmp, &path).on("rename", &path)?;
        }
        Ok(())
    }
}

impl Write for Target {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        self.out.write(buf)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

impl Drop for Target {
    fn drop(&mut self) {
        if let Some((_, tmp, _)) = &self.file {
            let _ = fs::remove_file(tmp);
        }
    }
}

/// Returns a temporary name in the same directory, so that a rename is possible.
pub(super) fn beside(path: &Path) -> PathBuf {
    let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    path.with_file_name(format!(".{name}.{}.kiln", std::process::id()))
}

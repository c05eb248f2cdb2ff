//! Writing what a user named: temporary name beside it, sync, rename.

use std::fs::{self, File};
use std::io::{self, BufRead as _, BufReader, BufWriter, Read as _, Seek as _, Write};
use std::path::{Path, PathBuf};

use crate::error::{FileContext as _, Result};
use crate::request::Destination;

/// Two blocks of zeros end a tar file.
pub(super) const TAR_END: [u8; 1024] = [0; 1024];

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

    /// Appends `size` bytes of a file; the kernel copies them, without their passing through this process.
    pub(super) fn append(&mut self, source: &mut io::Take<&mut File>, size: u64) -> io::Result<()> {
        self.out.flush()?;
        let copied = match &mut self.file {
            Some((file, ..)) => io::copy(source, file)?,
            None => io::copy(source, &mut self.out)?,
        };
        if copied == size { Ok(()) } else { Err(io::ErrorKind::UnexpectedEof.into()) }
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

/// An output that is written only where it differs from the file that has the name already.
///
/// What comes is compared with that file. As long as both are equal nothing is written; from the first difference on a new
/// file is made, and the equal part before it is copied by the kernel. Reading what is there is cheaper than writing it
/// again, above all than waiting for the disk to have it.
pub(super) struct Update<'a> {
    dest: &'a Destination,
    stdout: fn() -> Box<dyn Write + Send>,
    old: Option<BufReader<File>>,
    /// Bytes that are equal so far.
    same: u64,
    scratch: Vec<u8>,
    new: Option<Target>,
}

impl<'a> Update<'a> {
    /// Starts to write to `dest`.
    pub(super) fn create(dest: &'a Destination, stdout: fn() -> Box<dyn Write + Send>) -> Result<Self> {
        let mut update = Self { dest, stdout, old: None, same: 0, scratch: Vec::new(), new: None };
        match existing(dest) {
            Some(file) => update.old = Some(BufReader::with_capacity(1 << 18, file)),
            None => update.new = Some(Target::create(dest, stdout)?),
        }
        Ok(update)
    }

    /// Gives the file its name if it is another than before, and tells whether it is.
    pub(super) fn finish(mut self) -> Result<bool> {
        if self.new.is_none() {
            let ended = self.old.as_mut().is_some_and(|old| old.fill_buf().is_ok_and(<[u8]>::is_empty));
            if ended {
                return Ok(false);
            }
            self.new = Some(self.differs()?);
        }
        self.new.take().map_or(Ok(()), Target::finish)?;
        Ok(true)
    }

    /// Returns a new file that begins as the old one does.
    fn differs(&mut self) -> Result<Target> {
        let mut target = Target::create(self.dest, self.stdout)?;
        if let Some(old) = self.old.take() {
            let mut file = old.into_inner();
            let copied =
                file.rewind().and_then(|()| target.append(&mut (&mut file).take(self.same), self.same));
            copied.on("copy the beginning of", self.path())?;
        }
        Ok(target)
    }

    /// Returns what the output is called in an error.
    pub(super) fn path(&self) -> &'a Path {
        match self.dest {
            Destination::Path(path) => path,
            Destination::Stdout => Path::new("standard output"),
        }
    }

    fn is_same(&mut self, bytes: &[u8]) -> bool {
        let Some(old) = &mut self.old else { return false };
        self.scratch.resize(bytes.len(), 0);
        old.read_exact(&mut self.scratch).is_ok() && self.scratch == bytes
    }
}

impl Write for Update<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.new.is_none() {
            if self.is_same(bytes) {
                self.same += bytes.len() as u64;
                return Ok(bytes.len());
            }
            self.new = Some(self.differs().map_err(io::Error::other)?);
        }
        match &mut self.new {
            Some(new) => new.write(bytes),
            None => Ok(0),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        self.new.as_mut().map_or(Ok(()), Write::flush)
    }
}

/// Opens the regular file that `dest` names, if there is one: a pipe or a device would block or not come back.
pub(super) fn existing(dest: &Destination) -> Option<File> {
    let Destination::Path(path) = dest else { return None };
    fs::symlink_metadata(path).ok().filter(fs::Metadata::is_file)?;
    File::open(path).ok()
}

/// Returns a temporary name in the same directory, so that a rename is possible.
pub(super) fn beside(path: &Path) -> PathBuf {
    let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    path.with_file_name(format!(".{name}.{}.kiln", std::process::id()))
}

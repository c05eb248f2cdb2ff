//! Standard output: the result of a command.

use std::fs::File;
use std::io::{self, ErrorKind, Write};
use std::os::fd::AsFd as _;

use kiln::Error;

use crate::failure::Outcome;

/// Writes the result of a command.
///
/// # Errors
/// When it cannot be written for another reason than that nobody reads it.
pub(crate) fn print(text: &str) -> Outcome<()> {
    let mut out = io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        // `kiln images | head -1` is no failure.
        Err(e) if e.kind() == ErrorKind::BrokenPipe => Ok(()),
        Err(e) => Err(Error::environment("cannot write to standard output").because(e).into()),
        Ok(()) => Ok(()),
    }
}

/// Opens standard output for an image: without the buffer that looks for line breaks.
pub(crate) fn bytes() -> Box<dyn Write + Send> {
    match io::stdout().as_fd().try_clone_to_owned() {
        Ok(fd) => Box::new(File::from(fd)),
        Err(_) => Box::new(io::stdout()),
    }
}

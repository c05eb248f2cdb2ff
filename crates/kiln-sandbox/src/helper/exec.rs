//! Finds the command as a shell would, executes it, and says in a shell's numbers and plain words why it cannot.

use std::ffi::{CString, OsStr, OsString};
use std::fs::File;
use std::io::{Read as _, Seek as _, SeekFrom, Write as _};
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::path::{Path, PathBuf};

use rustix::io::Errno;

use crate::spec::ExecSpec;
use crate::{foreign, sys};

/// A shell's number for "found, but not executable".
const NOT_EXECUTABLE: i32 = 126;
/// A shell's number for "not found".
const NOT_FOUND: i32 = 127;

/// Used when the environment has no `PATH`, as in other builders.
const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Executes the command; returns the exit code only when that failed, with the reason on standard error.
pub(crate) fn execute(spec: &ExecSpec) -> i32 {
    let (code, reason) = attempt(spec);
    let name = spec.args.first().map(OsString::as_os_str).unwrap_or_default();
    // Nothing better can be done when even this fails.
    let _ = writeln!(std::io::stderr(), "kiln: cannot run `{}`: {reason}", name.display());
    code
}

fn attempt(spec: &ExecSpec) -> (i32, String) {
    let Some(name) = spec.args.first().filter(|name| !name.is_empty()) else {
        return (NOT_FOUND, "the command is empty".to_owned());
    };
    let c_string = |text: &OsStr| CString::new(text.as_bytes());
    let args: Result<Vec<_>, _> = spec.args.iter().map(|word| c_string(word)).collect();
    let env: Result<Vec<_>, _> = spec
        .env
        .iter()
        .map(|(name, value)| CString::new([name.as_bytes(), b"=", value.as_bytes()].concat()))
        .collect();
    let (Ok(args), Ok(env)) = (args, env) else {
        return (NOT_EXECUTABLE, "an argument or variable holds a null byte".to_owned());
    };
    let search = spec.env.iter().rev().find(|(name, _)| name == "PATH").map(|(_, value)| value.as_os_str());
    let search = search.unwrap_or(OsStr::new(DEFAULT_PATH));
    let mut worst: Option<(PathBuf, Errno)> = None;
    for candidate in candidates(name, search) {
        let Ok(path) = c_string(candidate.as_os_str()) else { continue };
        let errno = sys::execve(&path, &args, &env);
        let exists = rustix::fs::lstat(&candidate).is_ok();
        match errno {
            Errno::NOENT | Errno::NOTDIR if !exists => {}
            // As in a shell: a file that may not be executed hides no later one that may.
            Errno::ACCESS => worst = worst.or(Some((candidate, errno))),
            _ => {
                worst = Some((candidate, errno));
                break;
            }
        }
    }
    match worst {
        Some((path, errno)) => explain(&path, errno),
        None if name.as_bytes().contains(&b'/') => (NOT_FOUND, "no such file".to_owned()),
        None => (NOT_FOUND, format!("not found in PATH `{}`", search.display())),
    }
}

/// Returns the paths that a name may mean.
fn candidates(name: &OsStr, search: &OsStr) -> Vec<PathBuf> {
    if name.as_bytes().contains(&b'/') {
        return vec![PathBuf::from(name)];
    }
    search
        .as_bytes()
        .split(|&byte| byte == b':')
        // An empty entry means the working directory, as it always has.
        .map(|dir| Path::new(OsStr::from_bytes(if dir.is_empty() { b"." } else { dir })).join(name))
        .collect()
}

fn explain(path: &Path, errno: Errno) -> (i32, String) {
    let shown = path.display();
    match errno {
        Errno::NOENT | Errno::NOTDIR => match interpreter(path) {
            Some(interpreter) => (
                NOT_FOUND,
                format!("`{shown}` needs the interpreter `{}`, which the image lacks", interpreter.display()),
            ),
            None => (NOT_FOUND, format!("`{shown}` is a symlink to nowhere")),
        },
        Errno::NOEXEC => (NOT_EXECUTABLE, format!("`{shown}` {}", foreign(path))),
        Errno::ACCESS if path.is_dir() => (NOT_EXECUTABLE, format!("`{shown}` is a directory")),
        Errno::ACCESS => (NOT_EXECUTABLE, format!("`{shown}` may not be executed by this user")),
        _ => (NOT_EXECUTABLE, format!("`{shown}`: {}", std::io::Error::from(errno))),
    }
}

/// Returns the program that a script or a dynamic executable asks for.
pub(crate) fn interpreter(path: &Path) -> Option<PathBuf> {
    let mut file = File::open(path).ok()?;
    let mut head = [0; 256];
    let length = file.read(&mut head).ok()?;
    let head = &head[..length];
    if let Some(line) = head.strip_prefix(b"#!") {
        let line = line.split(|&byte| byte == b'\n').next()?.trim_ascii();
        let word = line.split(u8::is_ascii_whitespace).next()?;
        return Some(PathBuf::from(OsString::from_vec(word.to_vec())));
    }
    elf_interpreter(&mut file, head)
}

/// Reads PT_INTERP of a 64-bit little-endian ELF file.
fn elf_interpreter(file: &mut File, head: &[u8]) -> Option<PathBuf> {
    const PT_INTERP: u64 = 3;
    if !head.starts_with(b"\x7fELF\x02\x01") || head.len() < 64 {
        return None;
    }
    let number = |bytes: &[u8], at: usize, width: usize| {
        let field = bytes.get(at..at + width)?;
        Some(field.iter().rev().fold(0u64, |sum, &byte| sum << 8 | u64::from(byte)))
    };
    let (table, size, count) = (number(head, 32, 8)?, number(head, 54, 2)?, number(head, 56, 2)?);
    for index in 0..count {
        let mut entry = [0; 56];
        file.seek(SeekFrom::Start(table.checked_add(index * size)?)).ok()?;
        file.read_exact(&mut entry).ok()?;
        if number(&entry, 0, 4)? == PT_INTERP {
            file.seek(SeekFrom::Start(number(&entry, 8, 8)?)).ok()?;
            let mut text = Vec::new();
            file.take(number(&entry, 32, 8)?.min(4096)).read_to_end(&mut text).ok()?;
            text.truncate(text.iter().position(|&byte| byte == 0).unwrap_or(text.len()));
            return Some(PathBuf::from(OsString::from_vec(text)));
        }
    }
    None
}

/// Says what a file is that the kernel cannot execute, and what would help.
fn foreign(path: &Path) -> String {
    let mut head = [0; 4];
    let read = File::open(path).and_then(|mut file| file.read_exact(&mut head));
    if read.is_err() || head != *b"\x7fELF" {
        return "is no executable format that this kernel knows; a script needs a first line `#!/bin/sh`"
            .to_owned();
    }
    let here = std::env::consts::ARCH;
    match foreign::architecture_of(path) {
        Some(architecture) => format!(
            "is for {architecture}, and this machine is {here}: take a base image for this machine, or build \
             with `--platform linux/{architecture}`, which has qemu execute it"
        ),
        None => format!("is for another architecture than {here}, or damaged"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_with_a_slash_is_not_searched() {
        assert_eq!(candidates(OsStr::new("./x"), OsStr::new("/bin")), [PathBuf::from("./x")]);
        let expect = [PathBuf::from("/a/x"), PathBuf::from("./x"), PathBuf::from("/b/x")];
        assert_eq!(candidates(OsStr::new("x"), OsStr::new("/a::/b")), expect);
    }
}

//! Mount points that existed for one command only, taken out of its upper directory again.
//!
//! The directory becomes the lower one of later commands. What a layer does not tell must not be in it, or a later
//! command would see more in this build than in one that has the layer from elsewhere.

use std::path::{Path, PathBuf};

use rustix::fs::{self, AtFlags, CWD, FileType, Mode, OFlags, ResolveFlags, Timespec, Timestamps};
use rustix::io::Errno;

use super::error::{Result, Trying as _};

/// Removes those of `stubs`, paths of the container, that are still what they were made as: empty.
///
/// # Errors
/// When a directory cannot be looked into or changed.
pub fn remove_stubs(upper: &Path, stubs: &[PathBuf]) -> Result<()> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let root = fs::openat(CWD, upper, flags, Mode::empty()).trying("open", upper)?;
    let mut paths: Vec<&Path> =
        stubs.iter().map(|path| path.strip_prefix("/").unwrap_or(path.as_path())).collect();
    // What is in a directory goes before it.
    paths.sort_by_key(|path| std::cmp::Reverse(path.components().count()));
    for path in paths {
        let Some(name) = path.file_name() else { continue };
        let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
        // The command may have put a link where a directory was; whatever is behind it is none of ours.
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
        let dir = match fs::openat2(&root, parent, flags, Mode::empty(), resolve) {
            Ok(dir) => dir,
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => continue,
            Err(errno) => return Err(errno).trying("open", parent),
        };
        let stat = match fs::statat(&dir, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => stat,
            Err(Errno::NOENT) => continue,
            Err(errno) => return Err(errno).trying("inspect", path),
        };
        let how = match FileType::from_raw_mode(stat.st_mode) {
            FileType::Directory => AtFlags::REMOVEDIR,
            FileType::RegularFile if stat.st_size == 0 => AtFlags::empty(),
            _ => continue,
        };
        let before = fs::fstat(&dir).trying("inspect", parent)?;
        match fs::unlinkat(&dir, name, how) {
            Ok(()) => {}
            Err(Errno::NOTEMPTY | Errno::EXIST) => continue,
            Err(errno) => return Err(errno).trying("remove", path),
        }
        let time = |seconds, nanoseconds| Timespec { tv_sec: seconds, tv_nsec: nanoseconds };
        let times = Timestamps {
            last_access: time(before.st_atime as _, before.st_atime_nsec as _),
            last_modification: time(before.st_mtime as _, before.st_mtime_nsec as _),
        };
        fs::utimensat(&dir, ".", &times, AtFlags::empty()).trying("restore the time of", parent)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_empty_and_in_place_goes() {
        let top = std::env::temp_dir().join(format!("kiln-stubs-{}", std::process::id()));
        let upper = top.join("upper");
        std::fs::create_dir_all(upper.join("a/b/c")).unwrap();
        std::fs::create_dir_all(upper.join("kept/mount")).unwrap();
        std::fs::create_dir_all(top.join("outside/mount")).unwrap();
        std::os::unix::fs::symlink(top.join("outside"), upper.join("link")).unwrap();
        std::fs::write(upper.join("empty"), "").unwrap();
        std::fs::write(upper.join("full"), "x").unwrap();
        std::fs::write(upper.join("kept/file"), "x").unwrap();
        let before = std::fs::metadata(&upper).unwrap().modified().unwrap();
        let stubs =
            ["/a", "/a/b", "/a/b/c", "/kept", "/kept/mount", "/link/mount", "/empty", "/full", "/gone/x"];
        remove_stubs(&upper, &stubs.map(PathBuf::from)).unwrap();
        let names = |dir: &Path| {
            let mut names: Vec<_> =
                std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name()).collect();
            names.sort();
            names
        };
        assert_eq!(names(&upper), ["full", "kept", "link"]);
        assert_eq!(names(&upper.join("kept")), ["file"]);
        assert_eq!(names(&top.join("outside")), ["mount"]);
        assert_eq!(std::fs::metadata(&upper).unwrap().modified().unwrap(), before);
        std::fs::remove_dir_all(top).unwrap();
    }
}

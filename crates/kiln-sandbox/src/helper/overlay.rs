//! Mounts overlays over the stage's short names.

use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

use rustix::mount::MountFlags;

use crate::answers::{Step, explain};
use crate::error::{Context as _, Error};

/// Mount data must fit one page of the smallest size, with its final null.
const LONGEST: usize = 4095;

/// Mounts an overlay at `target`; all names are relative to the working directory.
pub(super) fn mount(
    layers: std::ops::Range<usize>,
    upper: &Path,
    work: &Path,
    target: &str,
) -> Result<(), Error> {
    const STEP: &str = "mount the overlay with upper directory";
    let data = options(layers, upper, work);
    if data.len() > LONGEST {
        return Err(Error::new(STEP).path(upper).cause("the names of its layers do not fit one page"));
    }
    let data = std::ffi::CString::new(data)
        .map_err(|_| Error::new(STEP).path(upper).cause("its path holds a null"))?;
    rustix::mount::mount("overlay", target, "overlay", MountFlags::empty(), data.as_c_str())
        .step_at(STEP, upper)
        .map_err(|error| explain(Step::Overlay, error))
}

/// Writes the mount data. `userxattr` is what a user namespace may use, and it keeps one store fit for all modes;
/// `volatile` leaves out the syncs, since a step that was interrupted is thrown away.
fn options(layers: std::ops::Range<usize>, upper: &Path, work: &Path) -> Vec<u8> {
    let mut data = b"userxattr,volatile,lowerdir=".to_vec();
    let names: Vec<String> = layers.map(|layer| layer.to_string()).collect();
    // The kernel wants one lower directory at least.
    data.extend(if names.is_empty() { "e".to_owned() } else { names.join(":") }.into_bytes());
    for (name, path) in [(&b",upperdir="[..], upper), (b",workdir=", work)] {
        data.extend_from_slice(name);
        for &byte in path.as_os_str().as_bytes() {
            if matches!(byte, b'\\' | b',' | b':') {
                data.push(b'\\');
            }
            data.push(byte);
        }
    }
    data
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn five_hundred_layers_fit_one_page() {
        let data = options(0..500, Path::new("u/diff"), Path::new("u/work/w"));
        assert!(data.len() < LONGEST, "{}", data.len());
    }

    #[test]
    fn separators_in_names_are_escaped() {
        let data = options(0..0, Path::new("u/a,b:c"), Path::new("u/w"));
        assert_eq!(data, b"userxattr,volatile,lowerdir=e,upperdir=u/a\\,b\\:c,workdir=u/w");
    }
}

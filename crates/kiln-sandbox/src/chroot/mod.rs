//! The rung of root in a default container: another root directory, guarded by Landlock.

use rustix::thread::CapabilitySet;

use crate::error::Error;
use crate::isolation::{Ids, Isolation, Mode, ProcMount, Wish, holds};

/// What a package manager does inside of a root directory, and what entering one takes.
const NEEDED: CapabilitySet = CapabilitySet::SYS_CHROOT
    .union(CapabilitySet::CHOWN)
    .union(CapabilitySet::FOWNER)
    .union(CapabilitySet::DAC_OVERRIDE)
    .union(CapabilitySet::SETUID)
    .union(CapabilitySet::SETGID);

/// Returns what this rung gives, untried.
pub(crate) fn expected() -> Result<Isolation, Error> {
    if !holds(NEEDED) {
        return Err(Error::new("isolate commands by another root directory")
            .cause("root lacks capabilities here that a default container has")
            .hint("leave CHOWN, DAC_OVERRIDE, FOWNER, SETUID, SETGID and SYS_CHROOT to the container"));
    }
    let (mode, ids, proc) = (Mode::Chroot, Ids::Natural, ProcMount::Absent);
    let lacking = vec!["process ids of its own".to_owned(), "/proc".to_owned()];
    Ok(Isolation { mode, ids, proc, lacking, unavailable: None, better: None })
}

/// Tries it.
pub(crate) fn prove(
    _candidate: &Isolation,
    _wish: Wish,
    _store: &std::path::Path,
) -> Result<Isolation, Error> {
    Err(Error::new("isolate commands by another root directory").cause("this version cannot"))
}

//! What a process may do: the capabilities that it would have, as capabilities(7) has them follow the user.
//!
//! The kernel's own are not what counts, since to the kernel every process stays root.

use rustix::io::Errno;
use rustix::thread::CapabilitySet as Set;

/// Capabilities of a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub(crate) struct Powers {
    pub(crate) effective: u64,
    pub(crate) permitted: u64,
    /// What root has after execve(2).
    bounding: u64,
    /// Whether giving up user 0 leaves the permitted ones: `PR_SET_KEEPCAPS`.
    keep: bool,
}

/// Those that the file system user id turns on and off.
const OF_FILES: u64 = Set::CHOWN
    .union(Set::DAC_OVERRIDE)
    .union(Set::DAC_READ_SEARCH)
    .union(Set::FOWNER)
    .union(Set::FSETID)
    .union(Set::LINUX_IMMUTABLE)
    .union(Set::MKNOD)
    .union(Set::MAC_OVERRIDE)
    .bits();

impl Powers {
    /// Returns what a user has at the start.
    pub(crate) fn new(uid: u32, bounding: Set) -> Self {
        let none = Self { bounding: bounding.bits(), ..Self::default() };
        none.executed(uid, uid)
    }

    pub(crate) fn may(self, what: Set) -> bool {
        self.effective & what.bits() == what.bits()
    }

    /// After a change of real, effective and saved user ids.
    pub(super) fn after(self, old: [u32; 3], new: [u32; 3]) -> Self {
        let mut powers = self;
        if old.contains(&0) && !new.contains(&0) && !self.keep {
            powers.permitted = 0;
            powers.effective = 0;
        }
        if old[1] == 0 && new[1] != 0 {
            powers.effective = 0;
        }
        if old[1] != 0 && new[1] == 0 {
            powers.effective = powers.permitted;
        }
        powers
    }

    /// After setfsuid(2).
    pub(super) fn after_fs(self, old: u32, new: u32) -> Self {
        let effective = match (old, new) {
            (0, 1..) => self.effective & !OF_FILES,
            (1.., 0) => self.effective | self.permitted & OF_FILES,
            _ => self.effective,
        };
        Self { effective, ..self }
    }

    /// After execve(2) with these real and effective user ids. Capabilities of files are left to the kernel.
    pub(super) fn executed(self, real: u32, effective: u32) -> Self {
        let permitted = if real == 0 || effective == 0 { self.bounding } else { 0 };
        let effective = if effective == 0 { permitted } else { 0 };
        Self { effective, permitted, keep: false, ..self }
    }

    /// `PR_SET_KEEPCAPS`.
    pub(crate) fn keeping(self, keep: bool) -> Self {
        Self { keep, ..self }
    }

    /// capset(2).
    pub(crate) fn set(self, effective: u64, permitted: u64) -> Result<Self, Errno> {
        if permitted & !self.permitted != 0 || effective & !permitted != 0 {
            return Err(Errno::PERM);
        }
        Ok(Self { effective, permitted, ..self })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SOME: Set = Set::CHOWN.union(Set::SETUID).union(Set::SETGID);

    #[test]
    fn capabilities_leave_with_root_unless_kept() {
        let root = Powers::new(0, SOME);
        assert!(root.may(SOME));
        assert!(!root.may(Set::MKNOD));
        let user = root.after([0; 3], [5; 3]);
        assert_eq!((user.effective, user.permitted), (0, 0));
        // As setpriv does: keep them, become a user, take them up again, change the group.
        let kept = root.keeping(true).after([0; 3], [5; 3]);
        assert!(!kept.may(Set::SETGID));
        assert!(kept.set(SOME.bits(), SOME.bits()).unwrap().may(Set::SETGID));
        assert_eq!(user.set(SOME.bits(), SOME.bits()), Err(Errno::PERM));
        assert_eq!(kept.executed(5, 5).permitted, 0);
    }

    #[test]
    fn borrowed_users_give_capabilities_back() {
        let borrowed = Powers::new(0, SOME).after([0; 3], [0, 5, 0]);
        assert_eq!((borrowed.effective, borrowed.permitted), (0, SOME.bits()));
        assert!(borrowed.after([0, 5, 0], [0; 3]).may(SOME));
        assert!(Powers::new(5, SOME).executed(5, 0).may(SOME));
        let fs = Powers::new(0, SOME).after_fs(0, 5);
        assert!(fs.may(Set::SETUID) && !fs.may(Set::CHOWN));
        assert_eq!(fs.after_fs(5, 0), Powers::new(0, SOME));
    }
}

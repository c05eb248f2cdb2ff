//! How much a sandbox needs to be emulated, and which ids it really has.

use super::records::Owner;
use crate::isolation::{Ids, Isolation};
use crate::spec::ResolvedUser;

/// What the kernel cannot do for a command; each level includes those before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Level {
    /// Owners beyond the map and devices are recorded when the command makes them. Nothing reads them back, and users are the
    /// kernel's.
    Records,
    /// Records of the layers below are shown to the command too.
    Visible,
    /// Users are emulated: every process is root to the kernel.
    Full,
}

impl Level {
    /// Returns the level for a step of `user`; `recorded` says whether a layer below has records.
    pub(crate) fn of(isolation: &Isolation, user: &ResolvedUser, recorded: bool) -> Self {
        let window = Window::of(isolation.ids);
        let mut ids = user.groups.iter().chain([&user.uid, &user.gid]);
        if isolation.ids == Ids::Single || ids.any(|&id| id >= window.count) {
            Self::Full
        } else if recorded {
            Self::Visible
        } else {
            Self::Records
        }
    }
}

/// The ids of the container that really exist, as the supervisor sees them: `count` from `first` on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Window {
    /// The container's root.
    pub(crate) first: u32,
    /// How many there are.
    pub(crate) count: u32,
}

/// What the kernel shows for an id that a namespace lacks.
const OVERFLOW: u32 = 65534;

impl Window {
    pub(crate) fn of(ids: Ids) -> Self {
        match ids {
            Ids::Idmapped { base, count } => Self { first: base, count },
            Ids::Nested { count } => Self { first: 1, count },
            Ids::Single | Ids::Owner(_) | Ids::Natural => Self { first: 0, count: 1 },
        }
    }

    /// Returns the ids to give a file so that the disk shows this owner; `None` when it cannot.
    pub(crate) fn outside(self, owner: Owner) -> Option<Owner> {
        let shift = |id: u32| (id < self.count).then(|| self.first.saturating_add(id));
        Some(Owner { uid: shift(owner.uid)?, gid: shift(owner.gid)? })
    }

    /// Returns the owner that the command sees on a file without a record.
    pub(crate) fn inside(self, owner: Owner) -> Owner {
        let shift = |id: u32| id.checked_sub(self.first).filter(|id| *id < self.count).unwrap_or(OVERFLOW);
        Owner { uid: shift(owner.uid), gid: shift(owner.gid) }
    }

    /// Returns the ids of the container's root.
    pub(crate) fn root(self) -> Owner {
        Owner { uid: self.first, gid: self.first }
    }

    /// Tells whether a new id of chown(2) exists, or none is asked for.
    pub(crate) fn has(self, id: Option<u32>) -> bool {
        id.is_none_or(|id| id < self.count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::isolation::{Mode, ProcMount};

    #[test]
    fn ids_pass_through_the_window() {
        let check = |ids, inside: (u32, u32), outside: Option<(u32, u32)>| {
            let owner = |(uid, gid)| Owner { uid, gid };
            let window = Window::of(ids);
            assert_eq!(window.outside(owner(inside)), outside.map(owner), "{ids:?}");
            if let Some(outside) = outside {
                assert_eq!(window.inside(owner(outside)), owner(inside), "{ids:?}");
            }
        };
        check(Ids::Single, (0, 0), Some((0, 0)));
        check(Ids::Single, (0, 33), None);
        check(Ids::Nested { count: 10 }, (0, 9), Some((1, 10)));
        check(Ids::Nested { count: 10 }, (10, 0), None);
        check(Ids::Idmapped { base: 1000, count: 2000 }, (33, 0), Some((1033, 1000)));
        assert_eq!(
            Window::of(Ids::Nested { count: 10 }).inside(Owner { uid: 0, gid: 11 }),
            Owner { uid: 65534, gid: 65534 }
        );
    }

    #[test]
    fn the_level_follows_from_ids_user_and_layers() {
        let check = |ids, uid, groups: &[u32], recorded, expect| {
            let isolation = Isolation {
                mode: Mode::Userns,
                ids,
                proc: ProcMount::Fresh,
                lacking: Vec::new(),
                unavailable: None,
                better: None,
            };
            let user = ResolvedUser { uid, gid: 0, groups: groups.to_vec() };
            assert_eq!(Level::of(&isolation, &user, recorded), expect, "{ids:?} {uid} {groups:?}");
        };
        check(Ids::Single, 0, &[], false, Level::Full);
        check(Ids::Nested { count: 65536 }, 1000, &[1000], false, Level::Records);
        check(Ids::Nested { count: 65536 }, 1000, &[], true, Level::Visible);
        check(Ids::Nested { count: 65536 }, 1_000_660_000, &[], false, Level::Full);
        check(Ids::Nested { count: 65536 }, 5, &[70_000], false, Level::Full);
    }
}

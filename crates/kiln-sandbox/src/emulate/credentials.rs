//! Who a process is, and what changes that: the rules of setuid(2) and its kin, on plain numbers.
//!
//! The rules are those of credentials(7) and of each call's manual page.

use rustix::io::Errno;
use rustix::thread::CapabilitySet;

use super::powers::Powers;
use super::records::Owner;

/// The four user ids, or group ids, of a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub(crate) struct Quartet {
    pub(crate) real: u32,
    pub(crate) effective: u32,
    pub(crate) saved: u32,
    /// What files are created and checked with.
    pub(crate) fs: u32,
}

/// Who a process is.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Default)]
pub(crate) struct Credentials {
    pub(crate) user: Quartet,
    pub(crate) group: Quartet,
    /// Supplementary groups.
    pub(crate) groups: Vec<u32>,
    pub(crate) powers: Powers,
}

/// Which of the two kinds of id a call is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    User,
    Group,
}

/// How many supplementary groups the kernel takes.
pub(crate) const MOST_GROUPS: usize = 65536;

impl Quartet {
    pub(crate) fn all(id: u32) -> Self {
        Self { real: id, effective: id, saved: id, fs: id }
    }

    fn settled(self) -> bool {
        self.effective == self.saved && self.effective == self.fs
    }

    fn three(self) -> [u32; 3] {
        [self.real, self.effective, self.saved]
    }
}

/// Returns the id that an argument asks for; -1 asks for none.
pub(crate) fn wanted(id: u32) -> Option<u32> {
    (id != u32::MAX).then_some(id)
}

impl Credentials {
    /// Returns who has just been started as `uid`, with these capabilities if that is root.
    pub(crate) fn new(uid: u32, gid: u32, groups: Vec<u32>, bounding: CapabilitySet) -> Self {
        let powers = Powers::new(uid, bounding);
        Self { user: Quartet::all(uid), group: Quartet::all(gid), groups, powers }
    }

    pub(crate) fn of(&self, kind: Kind) -> Quartet {
        match kind {
            Kind::User => self.user,
            Kind::Group => self.group,
        }
    }

    fn with(&self, kind: Kind, ids: Quartet) -> Self {
        let mut new = self.clone();
        match kind {
            Kind::User => {
                new.powers = self.powers.after(self.user.three(), ids.three());
                new.user = ids;
            }
            Kind::Group => new.group = ids,
        }
        new
    }

    fn may_become_anybody(&self, kind: Kind) -> bool {
        self.powers.may(match kind {
            Kind::User => CapabilitySet::SETUID,
            Kind::Group => CapabilitySet::SETGID,
        })
    }

    /// setuid(2), setgid(2).
    pub(crate) fn set(&self, kind: Kind, id: u32) -> Result<Self, Errno> {
        let ids = self.of(kind);
        let id = wanted(id).ok_or(Errno::INVAL)?;
        if self.may_become_anybody(kind) {
            Ok(self.with(kind, Quartet::all(id)))
        } else if id == ids.real || id == ids.saved {
            Ok(self.with(kind, Quartet { effective: id, fs: id, ..ids }))
        } else {
            Err(Errno::PERM)
        }
    }

    /// setreuid(2), setregid(2).
    pub(crate) fn set_real_effective(&self, kind: Kind, real: u32, effective: u32) -> Result<Self, Errno> {
        let ids = self.of(kind);
        let (real, effective) = (wanted(real), wanted(effective));
        let free = self.may_become_anybody(kind);
        if real.is_some_and(|id| !free && id != ids.real && id != ids.effective) {
            return Err(Errno::PERM);
        }
        if effective.is_some_and(|id| !free && ![ids.real, ids.effective, ids.saved].contains(&id)) {
            return Err(Errno::PERM);
        }
        let mut new = ids;
        new.real = real.unwrap_or(ids.real);
        new.effective = effective.unwrap_or(ids.effective);
        if real.is_some() || effective.is_some_and(|id| id != ids.real) {
            new.saved = new.effective;
        }
        new.fs = new.effective;
        Ok(self.with(kind, new))
    }

    /// setresuid(2), setresgid(2).
    pub(crate) fn set_three(&self, kind: Kind, three: [u32; 3]) -> Result<Self, Errno> {
        let ids = self.of(kind);
        let known = [ids.real, ids.effective, ids.saved];
        let [real, effective, saved] = three.map(wanted);
        if !self.may_become_anybody(kind)
            && [real, effective, saved].into_iter().flatten().any(|id| !known.contains(&id))
        {
            return Err(Errno::PERM);
        }
        let effective = effective.unwrap_or(ids.effective);
        Ok(self.with(
            kind,
            Quartet {
                real: real.unwrap_or(ids.real),
                effective,
                saved: saved.unwrap_or(ids.saved),
                fs: effective,
            },
        ))
    }

    /// setfsuid(2), setfsgid(2), which always answer with the id before and change nothing when they may not.
    pub(crate) fn set_fs(&self, kind: Kind, id: u32) -> Self {
        let ids = self.of(kind);
        let known = [ids.real, ids.effective, ids.saved, ids.fs];
        match wanted(id) {
            Some(id) if self.may_become_anybody(kind) || known.contains(&id) => {
                let mut new = self.with(kind, Quartet { fs: id, ..ids });
                if kind == Kind::User {
                    new.powers = self.powers.after_fs(ids.fs, id);
                }
                new
            }
            _ => self.clone(),
        }
    }

    /// setgroups(2).
    pub(crate) fn set_groups(&self, groups: Vec<u32>) -> Result<Self, Errno> {
        if !self.may_become_anybody(Kind::Group) {
            return Err(Errno::PERM);
        }
        if groups.contains(&u32::MAX) {
            return Err(Errno::INVAL);
        }
        Ok(Self { groups, ..self.clone() })
    }

    /// execve(2): the ids of a set-user-id or set-group-id file, and what was borrowed becomes saved.
    pub(crate) fn execute(&self, user: Option<u32>, group: Option<u32>) -> Self {
        let step = |ids: Quartet, new: Option<u32>| {
            let id = new.unwrap_or(ids.effective);
            Quartet { real: ids.real, effective: id, saved: id, fs: id }
        };
        let (user, group) = (step(self.user, user), step(self.group, group));
        let powers = self.powers.executed(user.real, user.effective);
        Self { user, group, groups: self.groups.clone(), powers }
    }

    /// Tells whether executing an ordinary file changes nothing.
    pub(crate) fn is_settled(&self) -> bool {
        self.user.settled()
            && self.group.settled()
            && self.powers == self.powers.executed(self.user.real, self.user.effective)
    }

    /// Tells whether chown(2) of a file of `owner` is allowed.
    pub(crate) fn may_chown(&self, owner: Owner, uid: Option<u32>, gid: Option<u32>) -> bool {
        if self.powers.may(CapabilitySet::CHOWN) {
            return true;
        }
        let own = owner.uid == self.user.fs;
        let member = |gid: u32| gid == self.group.fs || self.groups.contains(&gid);
        uid.is_none_or(|uid| own && uid == owner.uid)
            && gid.is_none_or(|gid| own && (gid == owner.gid || member(gid)))
    }

    /// Returns the owner of what this process creates in an ordinary directory.
    pub(crate) fn creates_as(&self) -> Owner {
        Owner { uid: self.user.fs, gid: self.group.fs }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NONE: u32 = u32::MAX;

    fn root() -> Credentials {
        Credentials::new(0, 0, Vec::new(), CapabilitySet::all())
    }

    fn user(real: u32, effective: u32, saved: u32) -> Credentials {
        let user = Quartet { real, effective, saved, fs: effective };
        Credentials { user, ..Credentials::new(1, 0, Vec::new(), CapabilitySet::all()) }
    }

    fn app() -> Credentials {
        Credentials::new(1000, 1000, vec![27], CapabilitySet::all())
    }

    fn users(of: Result<Credentials, Errno>) -> Result<[u32; 4], Errno> {
        of.map(|c| [c.user.real, c.user.effective, c.user.saved, c.user.fs])
    }

    #[test]
    fn setuid_of_root_is_for_good_and_of_others_is_a_way_back() {
        let check = |from: Credentials, id, expect| assert_eq!(users(from.set(Kind::User, id)), expect);
        check(root(), 33, Ok([33; 4]));
        check(user(33, 33, 33), 0, Err(Errno::PERM));
        check(user(33, 33, 0), 0, Ok([33, 0, 0, 0]));
        check(user(33, 5, 5), 33, Ok([33, 33, 5, 33]));
        check(root(), NONE, Err(Errno::INVAL));
    }

    #[test]
    fn setreuid_saves_what_it_must() {
        let check = |from: Credentials, real, effective, expect| {
            assert_eq!(users(from.set_real_effective(Kind::User, real, effective)), expect);
        };
        check(root(), NONE, 33, Ok([0, 33, 33, 33]));
        check(root(), 33, NONE, Ok([33, 0, 0, 0]));
        check(user(7, 8, 9), 8, 7, Ok([8, 7, 7, 7]));
        check(user(7, 8, 9), NONE, 7, Ok([7, 7, 9, 7]));
        check(user(7, 8, 9), 9, NONE, Err(Errno::PERM));
        check(user(7, 8, 9), NONE, 10, Err(Errno::PERM));
    }

    #[test]
    fn setresuid_takes_known_ids_from_others_than_root() {
        let check = |from: Credentials, three, expect| {
            assert_eq!(users(from.set_three(Kind::User, three)), expect);
        };
        check(root(), [1, 2, 3], Ok([1, 2, 3, 2]));
        check(user(1, 2, 3), [3, 1, 2], Ok([3, 1, 2, 1]));
        check(user(1, 2, 3), [NONE, NONE, 1], Ok([1, 2, 1, 2]));
        check(user(1, 2, 3), [4, NONE, NONE], Err(Errno::PERM));
        // What apt tries after it gave up root, and wants to see fail.
        let apt = root().set_three(Kind::User, [100; 3]).unwrap();
        assert_eq!(apt.set(Kind::User, 0), Err(Errno::PERM));
        assert_eq!(apt.set_groups(vec![0]), Err(Errno::PERM));
    }

    #[test]
    fn groups_go_by_the_user_that_one_is() {
        let new = root().set(Kind::Group, 50).unwrap();
        assert_eq!((new.group, new.user), (Quartet::all(50), Quartet::all(0)));
        assert_eq!(user(33, 33, 33).set(Kind::Group, 50), Err(Errno::PERM));
        assert_eq!(root().set_groups(vec![4, 5]).unwrap().groups, [4, 5]);
    }

    #[test]
    fn setfsuid_never_fails() {
        assert_eq!(root().set_fs(Kind::User, 33).user, Quartet { fs: 33, ..Quartet::all(0) });
        assert_eq!(user(33, 33, 33).set_fs(Kind::User, 0), user(33, 33, 33));
        assert_eq!(root().set_fs(Kind::User, NONE), root());
    }

    #[test]
    fn a_set_user_id_program_gives_its_owner() {
        let sudo = app().execute(Some(0), None);
        assert_eq!(sudo.user, Quartet { real: 1000, effective: 0, saved: 0, fs: 0 });
        assert_eq!((sudo.group, sudo.groups.as_slice()), (Quartet::all(1000), &[27][..]));
        let borrowed = root().set_real_effective(Kind::User, NONE, 33).unwrap();
        assert!(borrowed.execute(None, None).is_settled());
        assert!(root().is_settled() && app().is_settled());
        assert!(sudo.powers.may(CapabilitySet::SETGID) && sudo.is_settled());
        assert!(!root().set_three(Kind::User, [NONE, 33, NONE]).unwrap().is_settled());
    }

    #[test]
    fn only_root_gives_files_away() {
        let own = Owner { uid: 1000, gid: 1000 };
        assert!(root().may_chown(own, Some(5), Some(5)));
        let app = app();
        assert!(app.may_chown(own, None, Some(27)));
        assert!(app.may_chown(own, Some(1000), None));
        assert!(app.may_chown(Owner { uid: 0, gid: 0 }, None, None));
        assert!(!app.may_chown(own, Some(5), None));
        assert!(!app.may_chown(own, None, Some(28)));
        assert!(!app.may_chown(Owner { uid: 0, gid: 27 }, None, Some(27)));
    }
}

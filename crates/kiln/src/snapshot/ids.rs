//! Owners inside the image and owners on disk.

/// A user and a group.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Owner {
    /// User id.
    pub uid: u32,
    /// Group id.
    pub gid: u32,
}

/// Translates owners between the image and the disk, as the calling process sees the disk.
///
/// The two directions agree: what `to_disk` returns, `to_container` turns back.
pub trait Ids: Sync {
    /// Returns the owner on disk; `None` when the disk cannot show this owner, which is then recorded beside.
    fn to_disk(&self, container: Owner) -> Option<Owner>;

    /// Returns the owner inside the image; `None` when nobody there owns this.
    fn to_container(&self, disk: Owner) -> Option<Owner>;
}

/// Owners are the same on both sides: real root, and root of a user namespace looking at all it can own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct SameIds;

impl Ids for SameIds {
    fn to_disk(&self, container: Owner) -> Option<Owner> {
        Some(container)
    }

    fn to_container(&self, disk: Owner) -> Option<Owner> {
        Some(disk)
    }
}

/// Only root of the image exists on disk, as this one owner.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OneId(pub Owner);

impl Ids for OneId {
    fn to_disk(&self, container: Owner) -> Option<Owner> {
        (container == Owner::default()).then_some(self.0)
    }

    fn to_container(&self, disk: Owner) -> Option<Owner> {
        (disk == self.0).then_some(Owner::default())
    }
}

/// Ids that follow each other on both sides.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct IdRange {
    /// First id inside the image.
    pub container: u32,
    /// First id on disk.
    pub disk: u32,
    /// How many.
    pub count: u32,
}

/// Owners mapped by ranges, as in `/etc/subuid`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct IdRanges {
    /// Ranges of users.
    pub users: Vec<IdRange>,
    /// Ranges of groups.
    pub groups: Vec<IdRange>,
}

impl Ids for IdRanges {
    fn to_disk(&self, container: Owner) -> Option<Owner> {
        let find = |ranges: &[IdRange], id| shift(ranges.iter().map(|r| (r.container, r.disk, r.count)), id);
        Some(Owner { uid: find(&self.users, container.uid)?, gid: find(&self.groups, container.gid)? })
    }

    fn to_container(&self, disk: Owner) -> Option<Owner> {
        let find = |ranges: &[IdRange], id| shift(ranges.iter().map(|r| (r.disk, r.container, r.count)), id);
        Some(Owner { uid: find(&self.users, disk.uid)?, gid: find(&self.groups, disk.gid)? })
    }
}

fn shift(mut ranges: impl Iterator<Item = (u32, u32, u32)>, id: u32) -> Option<u32> {
    ranges.find_map(|(from, to, count)| {
        let step = id.checked_sub(from).filter(|step| *step < count)?;
        to.checked_add(step)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_translate_both_ways_and_know_their_ends() {
        let range = |container, disk, count| IdRange { container, disk, count };
        let ids = IdRanges {
            users: vec![range(0, 1000, 1), range(1, 100_000, 65_535)],
            groups: vec![range(0, 1000, 1), range(1, 200_000, 65_535)],
        };
        let check = |container: (u32, u32), disk: Option<(u32, u32)>| {
            let container = Owner { uid: container.0, gid: container.1 };
            let disk = disk.map(|(uid, gid)| Owner { uid, gid });
            assert_eq!(ids.to_disk(container), disk);
            if let Some(disk) = disk {
                assert_eq!(ids.to_container(disk), Some(container));
            }
        };
        check((0, 0), Some((1000, 1000)));
        check((33, 5), Some((100_032, 200_004)));
        check((65_535, 0), Some((165_534, 1000)));
        check((65_536, 0), None);
        check((0, 1_000_000), None);
    }
}

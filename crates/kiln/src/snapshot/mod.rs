//! Layers as directories: unpacked, compared, and looked into without a mount.
//!
//! A layer is kept as an overlay *lower directory*, so that a stack of them can be mounted as it is:
//!
//! ```text
//! tar                        directory
//! .wh.NAME                   NAME, a character device 0:0; where that cannot be made, a socket
//! .wh..wh..opq in DIR        DIR with user.overlay.opaque = "y"
//! owner that ids cannot show user.kiln.owner  = "UID:GID"        files and directories
//!                            the file `owners` beside            links, pipes, devices
//! device without the right   user.kiln.device = "c:MAJOR:MINOR"  on an empty file
//! ```
//!
//! [`unpack()`] goes from left to right, [`diff()`] from the upper directory of a step to the left side, and
//! [`View`] shows what a stack of directories adds up to, and [`merge()`] makes one directory of a run of them. None of them mounts anything, follows a link out of
//! a layer, or trusts a name. Extended attributes `user.overlay.*`, `trusted.overlay.*` and `user.kiln.*`
//! belong to this room: they never come from a layer and never go into one.

mod apply;
mod attributes;
mod copy;
mod diff;
mod error;
mod ids;
mod index;
mod merge;
mod owners;
mod record;
mod stubs;
mod tree;
mod unpack;
mod view;
mod walk;

#[cfg(test)]
mod tests;

pub use apply::{Top, apply, copy_into};
pub use attributes::Identity;
pub use diff::{Change, Changes, ClampMtime, Options, diff, pack};
pub use error::{Error, Result};
pub use ids::{IdRange, IdRanges, Ids, OneId, Owner, SameIds};
pub use merge::{LINK, merge};
pub use owners::{has_records, read_owners, record_owner, write_owners};
pub use record::{record, take_index};
pub use stubs::remove_stubs;
pub use unpack::{Unpacked, unpack};
pub use view::{FileType, Follow, Node, Resolved, View};
pub use walk::{Visited, Walk};

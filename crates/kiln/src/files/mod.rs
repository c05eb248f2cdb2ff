//! Changes to files that need no process: COPY, ADD, WORKDIR, heredocs, as one layer each.
//!
//! ```text
//! FileOp ──► source trees ──► sorted streams of items ──► merge by path ──► parents added ──► LayerWriter
//!            (context, stage)   (read lazily)              later wins        from destination
//! ```
//!
//! Nothing is written to a file system here but the files of an archive that ADD unpacks, and these go to the store's
//! temporary folder. The result is a tar stream; whoever needs the files unpacks it.

mod archive;
mod assume;
mod context;
mod dest;
mod digest;
mod emit;
mod index;
mod plan;
mod proof;
mod remote;
mod select;
mod shape;
mod stream;
mod tree;
mod users;
mod walk;
mod write;

pub(crate) use assume::Assumptions;
pub(crate) use context::ContextTree;
pub(crate) use dest::Destination;
pub(crate) use digest::digest;
pub(crate) use digest::{Mark, marks};
pub(crate) use emit::emit;
pub(crate) use index::{LayerIndex, LayerIndexes};
pub(crate) use plan::Plan;
pub(crate) use remote::{CommitTree, FileTree};
pub(crate) use select::{Selected, SourceTree, select, select_path};
pub(crate) use tree::{Tree, ViewTree};
pub(crate) use users::Accounts;
pub(crate) use write::write_tree;

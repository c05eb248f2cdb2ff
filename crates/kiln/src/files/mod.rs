//! Changes to files that need no process: COPY, ADD, WORKDIR, heredocs, as one layer each.
//!
//! ```text
//! FileOp ──► source trees ──► sorted streams of items ──► merge by path ──► parents added ──► LayerWriter
//!            (context, stage)   (read lazily)              later wins        from destination
//! ```
//!
//! Nothing is written to a file system here. The result is a tar stream; whoever needs the files unpacks it.

mod assume;
mod dest;
mod merge;
mod source;
mod tree;
mod users;

pub(crate) use assume::Assumptions;
pub(crate) use dest::{Destination, LayerIndex};
pub(crate) use merge::{Plan, emit};
pub(crate) use source::{SourceTree, digest, select};
pub(crate) use tree::{ContextTree, Tree, ViewTree};
pub(crate) use users::Accounts;

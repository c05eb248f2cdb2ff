//! The conformance corpus: one folder a case, what a Dockerfile means, and how a finished image is compared with it.
//!
//! `corpus/README.md` describes the folders. [`Case`] is a folder as data, [`Workspace`] its files on disk,
//! [`Observed`] what a builder made of them, and [`Case::compare`] the list of differences. Nothing here knows a
//! builder: the tests that run kiln or BuildKit do.

mod case;
mod compare;
mod observed;
mod server;
mod tree;
mod workspace;

pub use case::{Case, Difference, Expected, Extra, Failure};
pub use compare::Subject;
pub use observed::{Base, Observed};
pub use server::serve;
pub use tree::Tree;
pub use workspace::Workspace;

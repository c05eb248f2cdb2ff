//! The Dockerfile language: text to syntax tree and diagnostics, variable expansion, ignore files.
//!
//! Start at [`parse`]: it takes the text of a Dockerfile and returns a [`Dockerfile`] together with every
//! [`Diagnostic`] found on the way. A tree that came with an error is there for tools to look at; only a
//! tree without errors means what its author wrote.
//!
//! ```
//! let (dockerfile, diagnostics) = kiln_dockerfile::parse("FROM alpine AS base\nRUN apk add git\n");
//! assert!(diagnostics.is_empty());
//! assert_eq!(dockerfile.stages[0].name.as_ref().unwrap().value, "base");
//! ```
//!
//! What this crate does:
//!
//! - [`parse`] reads every instruction, flag, heredoc and directive of the stable language. Operands keep
//!   their variables: `$X` in the text is `$X` in the tree, because values are known to the engine only.
//! - [`expand`] replaces variables in one operand and removes its quotes, once the values are known.
//! - [`lint`] finds what is legal and probably not meant; [`describe`] lists what a file offers.
//! - [`ignore`] decides which paths of a context a `.dockerignore` file excludes; [`glob`] matches the
//!   wildcards of `COPY` sources.
//!
//! What it refuses to do: touch a file, a network, a clock or the environment; resolve a stage or an image;
//! panic; stop at the first fault; take more than linear time in the length of a Dockerfile.
//!
//! The rooms, in the order in which text flows through them: `line` joins continued lines, `flag`, `word`,
//! `json` and `heredoc` split one logical line, [`instruction`] gives the parts their meaning, and `parser`
//! puts instructions into stages.

#![cfg_attr(not(test), warn(clippy::indexing_slicing, clippy::string_slice))]
#![warn(missing_docs)]

mod csv;
pub mod describe;
mod diagnostic;
mod directive;
mod duration;
pub mod expand;
mod flag;
pub mod glob;
mod heredoc;
pub mod ignore;
pub mod instruction;
mod json;
mod line;
pub mod lint;
mod parser;
mod pattern;
mod source;
mod suggest;
mod word;

pub use diagnostic::{Diagnostic, Edit, Fix, Severity};
pub use directive::{Check, CheckRules, Directives, Escape, detect_syntax};
pub use duration::parse_duration;
pub use heredoc::Heredoc;
pub use instruction::Instruction;
pub use parser::{Dockerfile, Stage, Statement, decode, parse, parse_bytes, parse_trigger};
pub use source::{Location, SourceMap, Span, Spanned, locate};
pub use suggest::suggest;

#[cfg(test)]
mod tests;

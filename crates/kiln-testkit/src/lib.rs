//! What kiln's own tests stand on: an environment of their own for every test, a base image made from the
//! host's own tools, an embedded registry, and a reader of finished images.
//!
//! Nothing here needs a network or a package. What needs more (root, an ordinary user beside root, programs of a
//! distribution) is asked for through [`lane`], which says aloud what a test leaves out and why.

pub mod base;
pub mod container;
pub mod corpus;
mod env;
pub mod git;
mod image;
pub mod kubernetes;
pub mod lane;
pub mod pod_security;
pub mod seccomp;
pub mod web;

pub use env::{Outcome, Person, TestEnv};
pub use image::{Image, Listing};

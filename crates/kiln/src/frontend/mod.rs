//! From what a user wrote to a plan.

pub mod dockerfile;

//! What must hold for every input, one module for each fuzz target. A broken promise is a panic.

pub mod expand;
pub mod ignore;
pub mod parse;

//! The client against the embedded registry, and against a real one where it is installed.

#![expect(clippy::unwrap_used, clippy::print_stderr, reason = "helpers fail and report as tests do")]

mod auth;
mod faults;
mod hosts;
mod pull;
mod push;
mod real;
mod support;
mod web;

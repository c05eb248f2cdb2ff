//! Feeds bytes to [`kiln_fuzz::parse`].

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| kiln_fuzz::parse::check(data));

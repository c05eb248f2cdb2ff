//! Feeds bytes to [`kiln_fuzz::expand`].

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| kiln_fuzz::expand::check(data));

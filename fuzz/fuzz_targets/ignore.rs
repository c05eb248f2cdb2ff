//! Feeds bytes to [`kiln_fuzz::ignore`].

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| kiln_fuzz::ignore::check(data));

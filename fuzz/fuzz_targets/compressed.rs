#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| wardian_server::fuzzing::run("compressed", input));

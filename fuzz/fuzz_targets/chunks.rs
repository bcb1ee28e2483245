#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| wardian_store::fuzzing::run("chunks", input));

//! The `wardian` binary once more, so that Cargo builds it afresh for the tests that need a process to kill
//! and for the benchmarks: they could not know whether `target/release/wardian` is up to date.

use std::process::ExitCode;

fn main() -> ExitCode {
    wardian_server::cli::main()
}

//! The one binary.

use std::process::ExitCode;

fn main() -> ExitCode {
    wardian_server::cli::main()
}

//! `wardian config`: look at a configuration without starting anything.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Subcommand};

use crate::config::{Config, EXAMPLE};

/// Checks configuration files, or prints one with every key.
#[derive(Debug, Args)]
pub(crate) struct ConfigArgs {
    #[command(subcommand)]
    command: ConfigCommand,
}

#[derive(Debug, Subcommand)]
enum ConfigCommand {
    /// Reads a file and reports every problem in it, each with its key.
    Check {
        /// The TOML file.
        file: PathBuf,
    },
    /// Prints a commented file with every key and its default.
    Print,
}

/// Runs the command. Exit code 1 when there is a problem.
pub(crate) fn config(args: ConfigArgs) -> anyhow::Result<ExitCode> {
    match args.command {
        ConfigCommand::Print => print!("{EXAMPLE}"),
        ConfigCommand::Check { file } => {
            Config::load(Some(&file))?;
            println!("{}: no problems", file.display());
        }
    }
    Ok(ExitCode::SUCCESS)
}

//! The command line: one file for each command.

use std::process::ExitCode;

use clap::{Parser, Subcommand};

mod action;
mod cas;
mod config;
mod demo;
mod progress;
mod run;
mod serve;

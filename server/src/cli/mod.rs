//! The command line: one file for each command.

use std::io::{IsTerminal as _, Write as _};
use std::process::ExitCode;
use std::time::Duration;

use clap::{Parser, Subcommand};

mod action;
mod args;
mod audit;
mod cas;
mod config;
mod demo;
mod follow;
mod format;
mod operations;
mod progress;
mod report;
mod run;
mod serve;
mod store;
mod store_stats;
mod token;
mod toolchain;
mod tree_view;
mod usage;
mod worker;
mod workers;

pub(crate) use args::read_token;

/// How long work that nobody waits for any more may hold up the end of the process.
const SHUTDOWN_TIME_MAX: Duration = Duration::from_secs(2);

const ABOUT: &str = "\
Wardian runs build actions in sealed WebAssembly cases and serves the results over the Remote Execution API.

A compiler, a linker or any other tool that was compiled to WASI goes into the input tree of an action; a \
worker runs it with that tree and nothing else, so the result is the same bytes on any machine.";

const EXAMPLES: &str = "\
First steps:
  wardian demo                        compile, link and run a C program; needs no server
  wardian serve --data ./data         start a server on 127.0.0.1:8980
  wardian run --input . -- ./x.wasm   run a tool of this directory on the server
  wardian toolchain add clang         a C compiler by name
  wardian cas put ./src               store a directory and print its digest
  wardian action show HASH/SIZE       see what an action was made of

Every command explains itself: wardian run --help";

#[derive(Parser, Debug)]
#[command(name = "wardian", version, about = "Remote execution in sealed WebAssembly cases", long_about = ABOUT)]
#[command(after_help = EXAMPLES, max_term_width = 110)]
struct Cli {
    #[command(flatten)]
    remote: args::Remote,
    #[command(subcommand)]
    command: Command,
}

// Commands without a comment here are described where their arguments are.
#[derive(Subcommand, Debug)]
enum Command {
    /// Start a server, with workers in the same process.
    Serve(serve::ServeArgs),
    Run(run::RunArgs),
    Cas(cas::CasArgs),
    Action(action::ActionArgs),
    Audit(audit::AuditArgs),
    Operations(operations::OperationsArgs),
    Worker(worker::WorkerArgs),
    Workers(workers::WorkersArgs),
    Demo(demo::DemoArgs),
    /// Check or print the configuration.
    Config(config::ConfigArgs),
    Store(store::StoreArgs),
    Token(token::TokenArgs),
    Toolchain(toolchain::ToolchainArgs),
    /// What a worker starts to compile a module.
    #[command(hide = true)]
    CompileModule {
        /// The worker's request.
        arguments: Vec<String>,
    },
    /// What a worker starts to run a native command.
    #[command(hide = true)]
    RunNative,
    /// What bubblewrap starts for that.
    #[command(hide = true)]
    RunNativeInside {
        /// Numbers of open descriptors.
        descriptors: Vec<i32>,
    },
    /// What a worker starts to run a component.
    #[command(hide = true)]
    RunComponent {
        /// For whoever looks at the list of processes; the worker says everything through a socket.
        tier: String,
    },
}

/// Runs the program.
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    if let Command::CompileModule { arguments } = &cli.command {
        // Before there are threads: it gives up its rights first, for itself and every thread to come.
        return wardian_runtime::executor::wasm::compile::run_child(arguments);
    }
    if let Command::RunComponent { .. } = &cli.command {
        // As above.
        return wardian_runtime::executor::wasm::component::run_child();
    }
    #[cfg(target_os = "linux")]
    if matches!(cli.command, Command::RunNative) {
        // Before there are threads: what it makes is for processes that have none.
        return wardian_runtime::executor::native::run_child();
    }
    #[cfg(target_os = "linux")]
    if let Command::RunNativeInside { descriptors } = &cli.command {
        // As above.
        return wardian_runtime::executor::native::run_inside(descriptors);
    }
    start_log(&cli.command);
    if matches!(cli.command, Command::Serve(_) | Command::Worker(_)) {
        crate::allocator::give_back_in_background();
    }
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("error: cannot start threads: {error}");
            return ExitCode::FAILURE;
        }
    };
    let outcome = runtime.block_on(dispatch(cli));
    runtime.shutdown_timeout(SHUTDOWN_TIME_MAX);
    outcome.unwrap_or_else(|error| {
        eprintln!("error: {}", explain(&error));
        ExitCode::FAILURE
    })
}

/// Logs go to standard error; WARDIAN_LOG says what is logged, such as `debug` or `wardian_runtime=trace`.
fn start_log(command: &Command) {
    let default = if matches!(command, Command::Serve(_) | Command::Worker(_)) { "info" } else { "error" };
    let filter = tracing_subscriber::EnvFilter::try_from_env("WARDIAN_LOG");
    tracing_subscriber::fmt()
        .with_env_filter(filter.unwrap_or_else(|_| default.into()))
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .init();
}

async fn dispatch(cli: Cli) -> anyhow::Result<ExitCode> {
    match cli.command {
        Command::Serve(args) => serve::serve(args).await,
        Command::Run(args) => run::run(&cli.remote, args).await,
        Command::Cas(args) => cas::cas(&cli.remote, args).await,
        Command::Action(args) => action::action(&cli.remote, args).await,
        Command::Audit(args) => audit::audit(&cli.remote, args).await,
        Command::Operations(args) => operations::operations(&cli.remote, args).await,
        Command::Worker(args) => worker::worker(&cli.remote, args).await,
        Command::Workers(args) => workers::workers(&cli.remote, args).await,
        Command::Demo(args) => demo::demo(args).await,
        Command::Config(args) => config::config(args),
        Command::Store(args) => store::store(&cli.remote, args).await,
        Command::Token(args) => token::token(args),
        Command::Toolchain(args) => toolchain::toolchain(&cli.remote, args).await,
        Command::CompileModule { .. }
        | Command::RunComponent { .. }
        | Command::RunNative
        | Command::RunNativeInside { .. } => {
            unreachable!("done before anything else")
        }
    }
}

/// Returns an error with its causes, each said once.
fn explain(error: &anyhow::Error) -> String {
    let mut text = String::new();
    for cause in error.chain().map(ToString::to_string) {
        if text.is_empty() {
            text = cause;
        } else if !text.contains(&cause) {
            text = format!("{text}: {cause}");
        }
    }
    // A server's words are among them.
    format::plain_lines(&text)
}

/// Writes to standard output. A reader that has seen enough (`| head`) is no error.
fn print(bytes: impl AsRef<[u8]>) -> anyhow::Result<()> {
    let mut stdout = std::io::stdout().lock();
    match stdout.write_all(bytes.as_ref()).and_then(|()| stdout.flush()) {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => Err(error.into()),
        _ => Ok(()),
    }
}

/// Writes a value as indented JSON to standard output.
fn print_json(value: &impl serde::Serialize) -> anyhow::Result<()> {
    print(serde_json::to_string_pretty(value)? + "\n")
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn causes_are_said_once() {
        let io = std::io::Error::other("disk on fire");
        let error = anyhow::Error::new(io).context("a.txt: disk on fire").context("cannot store a.txt");
        assert_eq!(explain(&error), "cannot store a.txt: a.txt: disk on fire");
    }

    #[test]
    fn connection_flags_are_understood_before_and_after_the_command() {
        for line in ["wardian --server h:1 cas get X", "wardian cas get X --server h:1"] {
            let line = line.replace('X', &format!("{}/1", "0".repeat(64)));
            let cli = Cli::try_parse_from(line.split(' ')).unwrap();
            assert_eq!(cli.remote.server.unwrap().to_string(), "http://h:1");
        }
    }
}

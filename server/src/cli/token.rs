//! `wardian token`: what callers are known by.

use std::process::ExitCode;

use anyhow::Context as _;
use clap::{Args, Subcommand};

use crate::auth::{new_secret, parse_tokens, sha256_hex};

/// Makes tokens.
#[derive(Debug, Args)]
pub(crate) struct TokenArgs {
    #[command(subcommand)]
    command: TokenCommand,
}

#[derive(Debug, Subcommand)]
enum TokenCommand {
    /// Prints a new random token, and the lines by which a server knows it.
    #[command(after_help = "\
Examples:
  wardian token new ci                                 may run actions, on every instance
  wardian token new nightly --on main --verb ac-write
  wardian token new w1 --role worker                   for a worker on another machine
  wardian token new me --role admin                    registers toolchains, sees everybody's operations

The token is printed once and kept nowhere: the server's configuration has only its hash.")]
    New {
        /// What messages call whoever has it.
        name: String,
        /// Rights: client, worker, admin, metrics.
        #[arg(long, default_value = "client")]
        role: String,
        /// A further right: find, read, write, ac-read, ac-write, execute, asset-fetch, asset-push, worker, metrics, admin.
        #[arg(long = "verb", value_name = "VERB")]
        verbs: Vec<String>,
        /// Only on this instance; may be given several times. "" is the one without a name.
        #[arg(long = "on", value_name = "NAME")]
        instances: Vec<String>,
    },
}

/// Runs the command.
pub(crate) fn token(args: TokenArgs) -> anyhow::Result<ExitCode> {
    let TokenCommand::New { name, role, verbs, instances } = args.command;
    let secret = new_secret().context("no random bytes")?;
    let lines = lines(&name, &role, &verbs, &instances, &secret)?;
    super::print(format!("{secret}\n"))?;
    // Beside the token, so that `wardian token new ci > ci.token` keeps what a client needs and shows the rest.
    eprint!(
        "\nThe line above is the token: give it to whoever is to call, and keep it secret.\n\
         These lines go into the server's configuration:\n\n{lines}"
    );
    Ok(ExitCode::SUCCESS)
}

fn lines(
    name: &str,
    role: &str,
    verbs: &[String],
    instances: &[String],
    secret: &str,
) -> anyhow::Result<String> {
    let mut table = toml::Table::new();
    let list = |texts: &[String]| toml::Value::from(texts.to_vec());
    table.insert("name".into(), name.into());
    table.insert("sha256".into(), sha256_hex(secret).into());
    table.insert("role".into(), role.into());
    if !verbs.is_empty() {
        table.insert("verbs".into(), list(verbs));
    }
    if !instances.is_empty() {
        table.insert("instances".into(), list(instances));
    }
    // Read as the server will, so that what is printed works.
    parse_tokens(&[toml::Value::Table(table.clone())]).map_err(anyhow::Error::msg)?;
    Ok(format!("[[auth.tokens]]\n{table}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_printed_is_what_a_server_reads() {
        let lines = lines("ci", "client", &["ac-write".into()], &["main".into()], "secret").unwrap();
        assert!(!lines.contains("secret"), "{lines}");
        let config = crate::config::Config::parse(&lines).unwrap();
        assert_eq!(config.tokens.len(), 1);
        assert!(config.tokens[0].verbs.has(crate::auth::Verb::AcWrite));
    }

    #[test]
    fn a_role_that_is_none_is_refused() {
        let refusal = lines("ci", "king", &[], &[], "secret").unwrap_err().to_string();
        assert!(refusal.contains("king"), "{refusal}");
    }
}

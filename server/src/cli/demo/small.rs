//! The demo without a compiler: one module of a few hundred bytes, which is part of this program.

use anyhow::Context as _;

use super::super::progress::Progress;
use super::Next;
use super::job::{Job, Ran};
use super::table::{Round, Rounds};
use crate::client::Client;

const POSTCARD: &str = include_str!("../../../demo/postcard.wat");

/// Shows the demo and returns what to try next.
pub(super) async fn show(client: &Client, progress: &Progress) -> anyhow::Result<Next> {
    let module = wat::parse_str(POSTCARD).context("the module of the small demo")?;
    progress.say(&format!("\nThe tool is a WebAssembly module of {} bytes.", module.len()));
    let round = async |no_cache| -> anyhow::Result<Vec<Ran>> {
        let job = Job::new("write a postcard", "postcard.wasm", "postcard.txt");
        Ok(vec![job.source("postcard.wasm", module.clone())?.run(client, progress, no_cache).await?])
    };
    let first = round(false).await?;
    progress.say(String::from_utf8_lossy(&first[0].stdout).trim_end());
    let rounds = Rounds(vec![
        Round { name: "first time", steps: first },
        Round { name: "again", steps: round(false).await? },
        Round { name: "cache off", steps: round(true).await? },
    ]);
    progress.say(&rounds.table());
    progress.say(&rounds.verdict()?);
    let step = &rounds.0[0].steps[0];
    let commands = vec![
        (format!("action show {}", step.action), "what the action was made of".to_owned()),
        (format!("cas get {}", step.output), "the postcard that it wrote".to_owned()),
    ];
    Ok(Next { commands })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_module_is_valid_wat() {
        let module = wat::parse_str(POSTCARD).unwrap();
        assert!(module.starts_with(b"\0asm") && module.len() < 1000);
    }
}

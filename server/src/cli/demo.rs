//! `wardian demo`.
#[derive(clap::Args, Debug)]
pub(crate) struct DemoArgs {}
pub(crate) async fn demo(_: DemoArgs) -> anyhow::Result<std::process::ExitCode> { anyhow::bail!("later") }

//! `wardian toolchain add`: from a manifest to a toolchain that was tried.

use anyhow::{Context as _, bail};
use clap::Args;
use wardian_toolchains::{Builder, Clients, ImportLimits, Imported, Package, Source, built, fetch, import};

use super::super::demo::packages_folder;
use super::super::format;
use super::super::progress::Progress;
use super::{Given, build, smoke};
use crate::client::Client;

#[derive(Args, Debug)]
pub(super) struct AddArgs {
    /// NAME of a manifest inside of this program, or the path of one of your own.
    name: String,
    /// Run no package client; use the package only if it was fetched before.
    #[arg(long)]
    offline: bool,
    /// Do not have the modules compiled now; the first action waits for it then.
    #[arg(long)]
    no_warm: bool,
    /// Do not run the smoke test.
    #[arg(long)]
    no_smoke: bool,
}

/// Runs the command. Doing it again does nothing but the smoke test; after it was cut off, it goes on where it was.
pub(super) async fn add(client: &Client, args: &AddArgs, progress: &Progress) -> anyhow::Result<()> {
    let given = Given::read(&args.name)?;
    let manifest = &given.manifest;
    let label = manifest.label();
    let package = package(client, &given, args.offline, progress).await?;
    let imported = store(client, &package, progress).await?;
    let before = client.toolchains().await?.into_iter().any(|known| known.label() == label);
    let toolchain = client.put_toolchain(&manifest.toolchain(imported.root, imported.modules)).await?;
    let worked = async {
        if !args.no_warm {
            smoke::warm(client, &toolchain, progress).await?;
        }
        match &manifest.smoke {
            Some(test) if !args.no_smoke => smoke::run(client, &toolchain, test, progress).await,
            _ => Ok(()),
        }
    };
    if let Err(error) = worked.await {
        if !before {
            client.remove_toolchain(&toolchain.name, &toolchain.version).await?;
        }
        return Err(error.context(format!("{label} was not added")));
    }
    let tools: Vec<&str> = toolchain.tools.iter().map(|tool| tool.name.as_str()).collect();
    progress.say(&format!("{label} is registered; tools: {}", tools.join(", ")));
    Ok(())
}

/// The package, or the archive of what is built of it.
async fn package(
    client: &Client,
    given: &Given,
    offline: bool,
    progress: &Progress,
) -> anyhow::Result<Package> {
    let manifest = &given.manifest;
    let folder =
        packages_folder().context("there is no home folder to keep packages in; set XDG_CACHE_HOME")?;
    let clients = Clients::on_path(folder);
    let Some(recipe) = &manifest.build else { return fetched(given, &clients, offline, progress).await };
    if let Some(built) = built(manifest, &clients).await? {
        progress.say(&format!("{} was built before; it is at {}", manifest.label(), built.path().display()));
        return Ok(built);
    }
    if let Builder::Toolchain(name) = &recipe.builder
        && client.toolchain(name).await?.is_none()
    {
        progress.say(&format!("{} is built with {name}, which comes first", manifest.label()));
        let first = AddArgs { name: name.clone(), offline, no_warm: true, no_smoke: false };
        Box::pin(add(client, &first, progress)).await?;
    }
    let package = fetched(given, &clients, offline, progress).await?;
    build::build(client, &package, &clients, progress).await
}

async fn fetched(
    given: &Given,
    clients: &Clients,
    offline: bool,
    progress: &Progress,
) -> anyhow::Result<Package> {
    let manifest = &given.manifest;
    let kept = clients.package_path(manifest);
    let is_folder = matches!(manifest.source, Source::Dir { .. });
    if offline && !is_folder && !kept.exists() {
        bail!("--offline, and {} was not fetched before; it would be at {}", manifest.source, kept.display());
    }
    let doing = if is_folder || kept.exists() { "checking" } else { "fetching" };
    let task = progress.spinner(&format!("{doing} {}", manifest.source));
    let package = fetch(manifest, clients, given.beside.as_deref()).await?;
    task.finish(&format!("{} is at {}", manifest.source, package.path().display()));
    Ok(package)
}

/// Stores a toolchain as any client would: through the API, only what the server lacks.
async fn store(client: &Client, package: &Package, progress: &Progress) -> anyhow::Result<Imported> {
    let label = package.manifest().label();
    let task = progress.bytes(&format!("storing {label}"), 1);
    let report =
        |at: wardian_toolchains::Progress| task.set_position(at.package_bytes_done, at.package_bytes);
    let imported = import(client.store(), package, ImportLimits::default(), &report).await?;
    task.finish(&format!(
        "{label} is in the store: {} files, {}, {} blobs sent, tree {}",
        imported.files,
        format::size(imported.bytes),
        imported.blobs_uploaded,
        format::short(&imported.root)
    ));
    Ok(imported)
}

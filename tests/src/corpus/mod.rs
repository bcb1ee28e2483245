//! Runs the corpus: small real actions over real toolchains, at each tier of machine code, several times, under load,
//! and compares every digest with the one that is written down.

mod case;
mod load;
mod measure;

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};
use bytes::Bytes;
use wardian_proto::{Digest, DigestFunction, RelPath, reapi};
use wardian_server::client::{ActionSpec, Client, LocalTree, Outcome, Step, logged_bytes, upload};
use wardian_store::tree_builder::TreeBuilder;

use case::{Case, Expected};
pub use load::Load;
pub use measure::measure;

/// The tiers of machine code.
pub const TIERS: [&str; 3] = ["baseline", "optimized", "metered"];

/// How long one action may take; compiling its module is part of it.
const ACTION_TIME_MAX: Duration = Duration::from_secs(900);

/// Bytes of standard error that are shown of an action that failed.
const STDERR_SHOWN_MAX: usize = 2000;

/// The cases of a folder, those first that others take their inputs from.
pub struct Corpus {
    folder: PathBuf,
    cases: Vec<Case>,
}

/// What came of a case at a tier.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Every digest is the expected one, every time. How long the last run took.
    Same(Duration),
    /// The compiler of this tier does not know what the module needs.
    NotAtThisTier,
    /// What is not as expected.
    Different(String),
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Same(time) => write!(f, "same ({} ms)", time.as_millis()),
            Self::NotAtThisTier => f.write_str("not at this tier"),
            Self::Different(why) => write!(f, "DIFFERENT: {why}"),
        }
    }
}

/// What one run printed and made.
struct Made {
    expected: Expected,
    files: BTreeMap<RelPath, reapi::OutputFile>,
}

impl Corpus {
    /// Reads every case below a folder.
    pub fn read(folder: &Path) -> anyhow::Result<Self> {
        let mut unsorted = Vec::new();
        for group in sorted(folder)?.into_iter().filter(|path| path.is_dir()) {
            for file in
                sorted(&group)?.into_iter().filter(|path| path.extension().is_some_and(|e| e == "toml"))
            {
                unsorted.push(Case::read(folder, &file)?);
            }
        }
        let mut cases: Vec<Case> = Vec::new();
        while !unsorted.is_empty() {
            let known =
                |case: &Case| case.inputs.values().all(|(from, _)| cases.iter().any(|c| c.name == *from));
            let Some(next) = unsorted.iter().position(known) else {
                bail!(
                    "{}: its inputs name a case that is not there, or go round in a circle",
                    unsorted[0].name
                );
            };
            cases.push(unsorted.remove(next));
        }
        Ok(Self { folder: folder.to_owned(), cases })
    }

    /// Keeps the cases with one of `texts` in their name, and those that they need.
    pub fn keep(&mut self, texts: &[String]) {
        let mut wanted: Vec<String> = Vec::new();
        for case in self.cases.iter().rev() {
            if texts.iter().any(|text| case.name.contains(text)) || wanted.contains(&case.name) {
                wanted.extend(case.inputs.values().map(|(from, _)| from.clone()));
                wanted.push(case.name.clone());
            }
        }
        self.cases.retain(|case| wanted.contains(&case.name));
    }

    /// The toolchains that the cases name.
    pub fn toolchains(&self) -> Vec<String> {
        let mut names: Vec<String> = self.cases.iter().filter_map(|case| case.toolchain.clone()).collect();
        names.sort();
        names.dedup();
        names
    }

    /// How many cases there are.
    pub fn len(&self) -> usize {
        self.cases.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.cases.is_empty()
    }

    /// Runs every case at a tier, `times` times, and tells each verdict.
    pub async fn run(
        &self,
        client: &Client,
        tier: &str,
        times: usize,
        mut tell: impl FnMut(&str, Verdict),
    ) -> anyhow::Result<()> {
        let mut made: BTreeMap<String, BTreeMap<RelPath, reapi::OutputFile>> = BTreeMap::new();
        for case in &self.cases {
            let mut verdict = Verdict::NotAtThisTier;
            for _ in 0..times {
                let start = Instant::now();
                let run = match run(client, case, Some(tier), &made).await {
                    // What it makes is the same at another tier, and others need it.
                    Ok(None) => run(client, case, None, &made).await.map(|run| (run, true)),
                    run => run.map(|run| (run, false)),
                };
                verdict = match run {
                    Err(error) => Verdict::Different(format!("{error:#}")),
                    Ok((None, _)) => bail!("{}: no tier can run it", case.name),
                    Ok((Some(run), elsewhere)) => {
                        made.insert(case.name.clone(), run.files);
                        match case.expected.difference(&run.expected) {
                            Some(difference) => Verdict::Different(difference),
                            None if elsewhere => Verdict::NotAtThisTier,
                            None => Verdict::Same(start.elapsed()),
                        }
                    }
                };
                if matches!(verdict, Verdict::Different(_)) {
                    break;
                }
            }
            tell(&case.name, verdict);
        }
        Ok(())
    }

    /// Writes the digests of this server into the cases. Returns the names of those that changed.
    pub async fn bless(&self, client: &Client) -> anyhow::Result<Vec<String>> {
        let (mut made, mut changed) = (BTreeMap::new(), Vec::new());
        for case in &self.cases {
            let run = run(client, case, None, &made).await.with_context(|| case.name.clone())?;
            let run = run.with_context(|| format!("{}: no tier can run it", case.name))?;
            if case.expected != run.expected {
                let file = self.folder.join(format!("{}.toml", case.name));
                std::fs::write(&file, case.with_digests(&std::fs::read_to_string(&file)?, &run.expected))?;
                changed.push(case.name.clone());
            }
            made.insert(case.name.clone(), run.files);
        }
        Ok(changed)
    }
}

fn sorted(folder: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let entries = std::fs::read_dir(folder).with_context(|| folder.display().to_string())?;
    let mut paths = entries.map(|entry| Ok(entry?.path())).collect::<std::io::Result<Vec<_>>>()?;
    paths.sort();
    Ok(paths)
}

/// Runs a case once, never from the cache. `None` when this tier cannot.
async fn run(
    client: &Client,
    case: &Case,
    tier: Option<&str>,
    made: &BTreeMap<String, BTreeMap<RelPath, reapi::OutputFile>>,
) -> anyhow::Result<Option<Made>> {
    let mut local = LocalTree { tree: TreeBuilder::new(), ..LocalTree::default() };
    for (path, text) in &case.files {
        let bytes = Bytes::from(text.clone());
        let digest = DigestFunction::Sha256.digest(&bytes);
        local.tree.file(path, digest, false)?;
        local.blobs.add_bytes(digest, bytes);
    }
    for (path, (from, output)) in &case.inputs {
        let file = made.get(from).and_then(|files| files.get(output));
        let file = file.with_context(|| format!("{from} made no {output}"))?;
        let digest = Digest::from_wire(DigestFunction::Sha256, file.digest.as_ref())?;
        local.tree.file(path, digest, file.is_executable)?;
    }
    let property = |name: &str, value: &str| (name.to_owned(), value.to_owned());
    let mut platform = std::collections::BTreeSet::from([property("OSFamily", "wasi")]);
    platform.extend(case.toolchain.as_deref().map(|name| property("toolchain", name)));
    platform.extend(tier.map(|tier| property("wasm-tier", tier)));
    let spec = ActionSpec {
        arguments: case.arguments.clone(),
        environment: case.environment.clone(),
        outputs: case.expected.outputs.keys().cloned().collect(),
        platform,
        ..ActionSpec::default()
    };
    let (root, mut blobs) = local.finish();
    let action = spec.encode(root);
    action.add_to(&mut blobs);
    upload(client.store(), &blobs, &|_| ()).await?;
    let outcome = tokio::time::timeout(ACTION_TIME_MAX, end(client, action.digest)).await??;
    if let Some(failure) = outcome.failure {
        // Winch does not know exceptions and some other things.
        let refused =
            failure.code == tonic::Code::InvalidArgument as i32 && failure.message.contains("is not valid");
        let cannot = tier == Some("baseline") && refused;
        return if cannot { Ok(None) } else { Err(failure.into()) };
    }
    compared(client, case, outcome.result.context("the server sent no result")?).await.map(Some)
}

/// Follows an action to its end.
async fn end(client: &Client, action: Digest) -> anyhow::Result<Outcome> {
    let mut execution = client.execute(action, true);
    loop {
        if let Step::Done(outcome) = execution.next().await? {
            return Ok(*outcome);
        }
    }
}

/// What is compared of a result.
async fn compared(client: &Client, case: &Case, result: reapi::ActionResult) -> anyhow::Result<Made> {
    let store = client.store();
    let stdout = logged_bytes(store, &result.stdout_raw, result.stdout_digest.as_ref()).await?;
    let stderr = logged_bytes(store, &result.stderr_raw, result.stderr_digest.as_ref()).await?;
    let said = String::from_utf8_lossy(&stderr[..stderr.len().min(STDERR_SHOWN_MAX)]);
    ensure!(
        result.exit_code == case.exit_code,
        "exit code {} instead of {}: {said}",
        result.exit_code,
        case.exit_code
    );
    let mut files = BTreeMap::new();
    for file in result.output_files {
        files.insert(RelPath::parse(&file.path)?, file);
    }
    let mut outputs = BTreeMap::new();
    for path in case.expected.outputs.keys() {
        let file = files.get(path).with_context(|| format!("no {path} was made: {said}"))?;
        let digest = Digest::from_wire(DigestFunction::Sha256, file.digest.as_ref())?;
        outputs.insert(path.clone(), digest.hash_hex());
    }
    let stdout = DigestFunction::Sha256.digest(&stdout).hash_hex();
    Ok(Made { expected: Expected { stdout, outputs }, files })
}

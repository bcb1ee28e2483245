//! An Action and its Command, read from the store and checked.

use std::collections::{BTreeSet, HashSet};
use std::time::Duration;

use prost::Message;
use wardian_proto::{Digest, PATH_BYTES_MAX, RelPath, reapi};
use wardian_scheduler::Platform;
use wardian_store::{BlobStore, StoreError};

use crate::executor::wasm::WasmSettings;
use crate::{Failure, Limits, test_setup};

#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod fuzz;

/// Folders that PATH may have.
const PATH_FOLDERS_MAX: usize = 1000;

/// Which outputs a Command names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum OutputSpec {
    /// `output_paths`: the kind is found after the run.
    Paths(Vec<OutputPath>),
    /// The older `output_files` and `output_directories`: the kind is part of the request.
    Typed {
        /// Paths that must be files when they are there.
        files: Vec<OutputPath>,
        /// Paths that must be directories when they are there.
        directories: Vec<OutputPath>,
    },
}

impl OutputSpec {
    /// Every path, whatever its kind.
    pub fn all(&self) -> impl Iterator<Item = &OutputPath> {
        let (first, second) = match self {
            Self::Paths(paths) => (paths, &[][..]),
            Self::Typed { files, directories } => (files, &directories[..]),
        };
        first.iter().chain(second)
    }

    /// The directories that hold the outputs, as far as they are not the input root itself.
    pub fn parents(&self) -> Vec<RelPath> {
        self.all().filter_map(|output| output.path.parent()).filter(|parent| !parent.is_root()).collect()
    }
}

/// An output as the client wrote it, and where that is below the input root.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OutputPath {
    /// The text that results repeat.
    pub requested: String,
    /// The same from the input root.
    pub path: RelPath,
}

/// What to run and what to keep of it. All paths are inside the input root.
#[derive(Clone, Debug)]
#[allow(missing_docs)]
pub struct ActionSpec {
    pub action: Digest,
    pub input_root: Digest,
    pub platform: Platform,
    /// What the platform says about a WebAssembly guest.
    pub(crate) wasm: WasmSettings,
    pub timeout: Duration,
    pub arguments: Vec<String>,
    pub environment: Vec<(String, String)>,
    pub working_directory: RelPath,
    pub outputs: OutputSpec,
    pub directory_format: DirectoryFormat,
    /// Directories that are there when the command starts, beside those that hold outputs. A module can open them
    /// by their absolute paths whatever its working directory is.
    pub directories: Vec<RelPath>,
}

impl ActionSpec {
    /// Every directory that is made before the command starts.
    pub(crate) fn made_directories(&self) -> Vec<RelPath> {
        self.outputs.parents().into_iter().chain(self.directories.iter().cloned()).collect()
    }
}

/// How output directories are reported.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct DirectoryFormat {
    pub tree: bool,
    pub root_directory: bool,
}

/// Reads and decodes an Action. Used before queueing, for its platform and policy.
pub async fn read_action(
    store: &dyn BlobStore,
    digest: &Digest,
    limits: &Limits,
) -> Result<reapi::Action, Failure> {
    read_message(store, digest, limits, "Action").await
}

/// The digests of an action's Command and of its input root.
pub fn inputs(action: &reapi::Action, function_of: &Digest) -> Result<(Digest, Digest), Failure> {
    let command = parse_digest(function_of, action.command_digest.as_ref(), "Action.command_digest")?;
    let root = parse_digest(function_of, action.input_root_digest.as_ref(), "Action.input_root_digest")?;
    Ok((command, root))
}

/// The platform an action asks for: the Action's own, else the one in its Command.
pub async fn read_platform(
    store: &dyn BlobStore,
    action: &reapi::Action,
    function_of: &Digest,
    limits: &Limits,
) -> Result<Platform, Failure> {
    let wire = match &action.platform {
        Some(platform) => Some(platform.clone()),
        None => read_command(store, action, function_of, limits).await?.1,
    };
    let platform = Platform::from_wire(wire.as_ref()).map_err(|e| Failure::InvalidArgument(e.to_string()))?;
    // What cannot be obeyed is said before anything waits.
    WasmSettings::parse(&platform, limits)?;
    Ok(platform)
}

/// Checks the timeout against the server's limit; none asks for the limit itself.
pub fn timeout(action: &reapi::Action, limits: &Limits) -> Result<Duration, Failure> {
    let max = limits.action_timeout_max;
    let Some(wire) = action.timeout else { return Ok(max) };
    let asked = Duration::try_from(wire).ok().filter(|_| wire.seconds >= 0);
    let asked =
        asked.ok_or_else(|| Failure::InvalidArgument("Action.timeout is negative or out of range".into()))?;
    if asked > max {
        return Err(Failure::InvalidArgument(format!(
            "Action.timeout is {} s; limit action_timeout_max is {} s",
            asked.as_secs(),
            max.as_secs()
        )));
    }
    // The API knows no other "no timeout" than an absent one, but clients send zero for it.
    Ok(if asked.is_zero() { max } else { asked })
}

/// Reads and decodes an action's Command, with the platform in it.
#[allow(deprecated)]
pub async fn read_command(
    store: &dyn BlobStore,
    action: &reapi::Action,
    function_of: &Digest,
    limits: &Limits,
) -> Result<(reapi::Command, Option<reapi::Platform>), Failure> {
    let (digest, _) = inputs(action, function_of)?;
    let command: reapi::Command = read_message(store, &digest, limits, "Command").await?;
    let platform = command.platform.clone();
    Ok((command, platform))
}

/// Reads everything about an action except its input tree.
pub async fn read(store: &dyn BlobStore, digest: Digest, limits: &Limits) -> Result<ActionSpec, Failure> {
    let action = read_action(store, &digest, limits).await?;
    let (_, input_root) = inputs(&action, &digest)?;
    let (command, command_platform) = read_command(store, &action, &digest, limits).await?;
    let platform = action.platform.as_ref().or(command_platform.as_ref());
    let platform = Platform::from_wire(platform).map_err(|e| Failure::InvalidArgument(e.to_string()))?;
    let bad_path = |what: &str, error: wardian_proto::PathError| {
        Failure::InvalidArgument(format!("Command.{what}: {error}"))
    };
    let working_directory =
        RelPath::parse(&command.working_directory).map_err(|e| bad_path("working_directory", e))?;
    check_arguments(&command, limits)?;
    if let Some(name) = command.output_node_properties.first() {
        return Err(Failure::InvalidArgument(format!(
            "Command.output_node_properties: {name:?} is not supported; this server supports none"
        )));
    }
    let mut spec = ActionSpec {
        action: digest,
        input_root,
        wasm: WasmSettings::parse(&platform, limits)?,
        platform,
        timeout: timeout(&action, limits)?,
        outputs: outputs(&command, &working_directory, limits)?,
        directory_format: directory_format(command.output_directory_format),
        environment: environment(&command)?,
        arguments: command.arguments,
        working_directory,
        directories: Vec::new(),
    };
    if spec.wasm.is_bazel_test {
        test_setup::replace(&mut spec)?;
    }
    Ok(spec)
}

fn check_arguments(command: &reapi::Command, limits: &Limits) -> Result<(), Failure> {
    if command.arguments.first().is_none_or(String::is_empty) {
        return Err(Failure::InvalidArgument("Command.arguments is empty: there is nothing to run".into()));
    }
    let environment = command.environment_variables.iter().map(|v| v.name.len() + v.value.len());
    let bytes: usize = command.arguments.iter().map(String::len).chain(environment).sum();
    if bytes > limits.arguments_bytes_max {
        return Err(Failure::InvalidArgument(format!(
            "arguments and environment have {bytes} bytes; limit arguments_bytes_max is {}",
            limits.arguments_bytes_max
        )));
    }
    if command.arguments[0].len() > PATH_BYTES_MAX {
        return Err(Failure::InvalidArgument(format!(
            "Command.arguments[0] is longer than {PATH_BYTES_MAX} bytes, so it names no tool"
        )));
    }
    let path = command.environment_variables.iter().find(|variable| variable.name == "PATH");
    if path.is_some_and(|path| path.value.split(':').nth(PATH_FOLDERS_MAX).is_some()) {
        return Err(Failure::InvalidArgument(format!("PATH has more than {PATH_FOLDERS_MAX} folders")));
    }
    if command.arguments.iter().any(|argument| argument.contains('\0')) {
        return Err(Failure::InvalidArgument("Command.arguments holds a NUL byte".into()));
    }
    Ok(())
}

fn environment(command: &reapi::Command) -> Result<Vec<(String, String)>, Failure> {
    let mut names = BTreeSet::new();
    let mut variables = Vec::new();
    for variable in &command.environment_variables {
        let (name, value) = (&variable.name, &variable.value);
        if name.is_empty() || name.contains(['=', '\0']) || value.contains('\0') {
            return Err(Failure::InvalidArgument(format!(
                "Command.environment_variables: {name:?} is no variable, or its value holds a NUL byte"
            )));
        }
        if !names.insert(name) {
            return Err(Failure::InvalidArgument(format!(
                "Command.environment_variables: {name:?} is given twice"
            )));
        }
        variables.push((name.clone(), value.clone()));
    }
    Ok(variables)
}

#[allow(deprecated)]
fn outputs(
    command: &reapi::Command,
    working_directory: &RelPath,
    limits: &Limits,
) -> Result<OutputSpec, Failure> {
    let parse = |field: &str, texts: &[String]| -> Result<Vec<OutputPath>, Failure> {
        if texts.len() > limits.outputs_max {
            return Err(Failure::InvalidArgument(format!(
                "Command.{field} has {} paths; limit outputs_max is {}",
                texts.len(),
                limits.outputs_max
            )));
        }
        let mut seen = BTreeSet::new();
        let mut paths = Vec::new();
        for text in texts {
            let path = working_directory
                .resolve(text)
                .map_err(|error| Failure::InvalidArgument(format!("Command.{field}: {error}")))?;
            if text.ends_with('/') {
                return Err(Failure::InvalidArgument(format!("Command.{field}: {text:?} ends with a slash")));
            }
            if seen.insert(text) {
                paths.push(OutputPath { requested: text.clone(), path });
            }
        }
        Ok(paths)
    };
    if !command.output_paths.is_empty() {
        return Ok(OutputSpec::Paths(parse("output_paths", &command.output_paths)?));
    }
    let files = parse("output_files", &command.output_files)?;
    let directories = parse("output_directories", &command.output_directories)?;
    check_overlap(&files, &directories)?;
    Ok(OutputSpec::Typed { files, directories })
}

/// An output file may not be the parent of another, nor the same as a directory.
fn check_overlap(files: &[OutputPath], directories: &[OutputPath]) -> Result<(), Failure> {
    // With the slash below every other letter, whatever lies below a path follows it directly.
    let key = |output: &OutputPath| output.path.as_str().replace('/', "\0");
    let mut sorted: Vec<(String, &OutputPath)> = files.iter().map(|file| (key(file), file)).collect();
    sorted.sort_unstable_by(|a, b| a.0.cmp(&b.0));
    let is_below = |pair: &&[(String, &OutputPath)]| pair[1].1.path.starts_with(&pair[0].1.path);
    let nested = sorted.windows(2).find(is_below).map(|pair| (pair[0].1, pair[1].1));
    let known: HashSet<&RelPath> = directories.iter().map(|directory| &directory.path).collect();
    let same = files.iter().find(|file| known.contains(&file.path)).map(|file| (file, file));
    match nested.or(same) {
        None => Ok(()),
        Some((file, other)) => Err(Failure::InvalidArgument(format!(
            "Command.output_files: {:?} is the same as or a parent of output {:?}",
            file.requested, other.requested
        ))),
    }
}

fn directory_format(value: i32) -> DirectoryFormat {
    use reapi::command::OutputDirectoryFormat as Wire;
    match Wire::try_from(value).unwrap_or(Wire::TreeOnly) {
        Wire::TreeOnly => DirectoryFormat { tree: true, root_directory: false },
        Wire::DirectoryOnly => DirectoryFormat { tree: false, root_directory: true },
        Wire::TreeAndDirectory => DirectoryFormat { tree: true, root_directory: true },
    }
}

fn parse_digest(
    function_of: &Digest,
    wire: Option<&reapi::Digest>,
    field: &'static str,
) -> Result<Digest, Failure> {
    Digest::from_wire(function_of.function(), wire)
        .map_err(|error| Failure::InvalidArgument(format!("{field}: {error}")))
}

async fn read_message<M: Message + Default>(
    store: &dyn BlobStore,
    digest: &Digest,
    limits: &Limits,
    what: &'static str,
) -> Result<M, Failure> {
    let bytes = match store.get(digest, limits.message_bytes_max).await {
        Ok(bytes) => bytes,
        Err(StoreError::NotFound(digest)) => return Err(Failure::MissingBlobs(vec![digest])),
        Err(error) => return Err(error.into()),
    };
    M::decode(bytes).map_err(|error| Failure::InvalidArgument(format!("blob {digest} is no {what}: {error}")))
}

/// Whether a platform says that its commands are WebAssembly, or that they are not; `None` when that is for the tool to
/// show.
pub fn is_wasm_by_platform(platform: &Platform) -> Option<bool> {
    match (platform.get("OSFamily"), platform.get("ISA")) {
        (Some(family), _) => Some(family == "wasi"),
        (None, Some(isa)) => Some(isa == "wasm32"),
        (None, None) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(command: reapi::Command, directory: &str) -> Result<OutputSpec, Failure> {
        outputs(&command, &RelPath::parse(directory).unwrap(), &Limits::default())
    }

    fn texts(values: &[&str]) -> Vec<String> {
        values.iter().map(|v| (*v).to_owned()).collect()
    }

    #[test]
    fn output_paths_win_and_resolve_against_the_working_directory() {
        #[allow(deprecated)]
        let command = reapi::Command {
            output_paths: texts(&["out", "../other", "out"]),
            output_files: texts(&["/ignored"]),
            ..Default::default()
        };
        let OutputSpec::Paths(paths) = spec(command, "work").unwrap() else { panic!("not paths") };
        let resolved: Vec<_> = paths.iter().map(|p| p.path.as_str()).collect();
        assert_eq!(resolved, ["work/out", "other"]);
        assert_eq!(paths[1].requested, "../other");
    }

    #[test]
    fn outputs_that_leave_the_input_root_are_refused() {
        for path in ["/etc/passwd", "../../x", "a/../../../x", "a/"] {
            let command = reapi::Command { output_paths: texts(&[path]), ..Default::default() };
            assert!(matches!(spec(command, "work"), Err(Failure::InvalidArgument(_))), "{path}");
        }
    }

    #[test]
    fn typed_outputs_may_not_overlap() {
        #[allow(deprecated)]
        let command = |files: &[&str], directories: &[&str]| reapi::Command {
            output_files: texts(files),
            output_directories: texts(directories),
            ..Default::default()
        };
        assert!(spec(command(&["a", "b/c"], &["d"]), "").is_ok());
        assert!(spec(command(&["a", "a/b"], &[]), "").is_err());
        assert!(spec(command(&["a"], &["a"]), "").is_err());
        assert!(spec(command(&["a", "a-b", "a/b"], &[]), "").is_err(), "a-b sorts between the two");
        assert!(spec(command(&["a-b", "ab", "a.b"], &["a"]), "").is_ok());
        let many: Vec<String> = (0..=Limits::default().outputs_max).map(|i| i.to_string()).collect();
        let many: Vec<&str> = many.iter().map(String::as_str).collect();
        assert!(spec(command(&many, &[]), "").unwrap_err().to_string().contains("outputs_max"));
    }

    #[test]
    fn timeouts_are_bounded() {
        let limits = Limits { action_timeout_max: Duration::from_secs(10), ..Limits::default() };
        let with = |seconds| reapi::Action {
            timeout: Some(prost_types::Duration { seconds, nanos: 0 }),
            ..Default::default()
        };
        assert_eq!(timeout(&reapi::Action::default(), &limits).unwrap(), Duration::from_secs(10));
        assert_eq!(timeout(&with(3), &limits).unwrap(), Duration::from_secs(3));
        assert_eq!(timeout(&with(0), &limits).unwrap(), Duration::from_secs(10));
        assert!(timeout(&with(-1), &limits).is_err());
        assert!(timeout(&with(11), &limits).unwrap_err().to_string().contains("action_timeout_max"));
    }
}

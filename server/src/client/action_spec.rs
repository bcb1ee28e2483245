//! An action as a person thinks of it, and the two canonical messages it becomes.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use bytes::Bytes;
use prost::Message;
use wardian_proto::{Digest, DigestFunction, RelPath, reapi};

use super::Blobs;

/// What to run. The sorted collections make equal actions equal bytes.
#[derive(Clone, Debug, Default)]
pub struct ActionSpec {
    /// The tool and its arguments.
    pub arguments: Vec<String>,
    /// The environment; nothing else is in it.
    pub environment: BTreeMap<String, String>,
    /// Platform properties by name, then value. A name may occur more than once.
    pub platform: BTreeSet<(String, String)>,
    /// Files and directories to bring back, relative to the working directory.
    pub outputs: BTreeSet<RelPath>,
    /// Where the tool starts, below the input root.
    pub working_directory: RelPath,
    /// How long the tool may run; `None` leaves it to the server.
    pub timeout: Option<Duration>,
}

/// The messages of an action, ready to be stored.
#[derive(Clone, Debug)]
pub struct EncodedAction {
    /// The digest that Execute takes.
    pub digest: Digest,
    action: Bytes,
    command: (Digest, Bytes),
}

impl ActionSpec {
    /// Returns the canonical messages for an input root.
    pub fn encode(&self, input_root: Digest) -> EncodedAction {
        let function = input_root.function();
        let command = Bytes::from(self.command().encode_to_vec());
        let command_digest = function.digest(&command);
        let action = Bytes::from(self.action(input_root, command_digest).encode_to_vec());
        EncodedAction { digest: function.digest(&action), action, command: (command_digest, command) }
    }

    // The platform goes into both messages: servers before API 2.2 read the Command's.
    #[allow(deprecated)]
    fn command(&self) -> reapi::Command {
        let variable = |(name, value): (&String, &String)| reapi::command::EnvironmentVariable {
            name: name.clone(),
            value: value.clone(),
        };
        reapi::Command {
            arguments: self.arguments.clone(),
            environment_variables: self.environment.iter().map(variable).collect(),
            output_paths: self.outputs.iter().map(|path| path.as_str().to_owned()).collect(),
            platform: self.platform(),
            working_directory: self.working_directory.as_str().to_owned(),
            ..Default::default()
        }
    }

    fn action(&self, input_root: Digest, command: Digest) -> reapi::Action {
        reapi::Action {
            command_digest: Some(command.to_wire()),
            input_root_digest: Some(input_root.to_wire()),
            timeout: self.timeout.map(|timeout| prost_types::Duration {
                seconds: i64::try_from(timeout.as_secs()).unwrap_or(i64::MAX),
                nanos: i32::try_from(timeout.subsec_nanos()).expect("less than a second"),
            }),
            platform: self.platform(),
            ..Default::default()
        }
    }

    fn platform(&self) -> Option<reapi::Platform> {
        let property = |(name, value): &(String, String)| reapi::platform::Property {
            name: name.clone(),
            value: value.clone(),
        };
        let properties: Vec<_> = self.platform.iter().map(property).collect();
        (!properties.is_empty()).then_some(reapi::Platform { properties })
    }
}

impl EncodedAction {
    /// Adds the messages to what has to be stored.
    pub fn add_to(&self, blobs: &mut Blobs) {
        blobs.add_bytes(self.digest, self.action.clone());
        blobs.add_bytes(self.command.0, self.command.1.clone());
    }
}

/// The digest function of everything that this client makes.
pub(crate) const DIGEST_FUNCTION: DigestFunction = DigestFunction::Sha256;

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(properties: &[(&str, &str)], outputs: &[&str], environment: &[(&str, &str)]) -> ActionSpec {
        let pair = |(a, b): &(&str, &str)| ((*a).to_owned(), (*b).to_owned());
        ActionSpec {
            arguments: vec!["tool".to_owned()],
            environment: environment.iter().map(pair).collect(),
            platform: properties.iter().map(pair).collect(),
            outputs: outputs.iter().map(|o| RelPath::parse(o).unwrap()).collect(),
            ..ActionSpec::default()
        }
    }

    #[test]
    fn order_of_flags_does_not_change_the_action() {
        let root = Digest::empty(DIGEST_FUNCTION);
        let one = spec(&[("b", "2"), ("a", "1"), ("b", "1")], &["z", "a", "z"], &[("Y", ""), ("X", "1")]);
        let two = spec(&[("b", "1"), ("b", "2"), ("a", "1")], &["a", "z"], &[("X", "1"), ("Y", "")]);
        assert_eq!(one.encode(root).digest, two.encode(root).digest);
        let names: Vec<_> =
            one.platform().unwrap().properties.into_iter().map(|p| p.name + &p.value).collect();
        assert_eq!(names, ["a1", "b1", "b2"]);
    }

    #[test]
    fn platform_is_in_both_messages_and_absent_when_empty() {
        let root = Digest::empty(DIGEST_FUNCTION);
        let encoded = spec(&[("OSFamily", "wasi")], &[], &[]).encode(root);
        let action = reapi::Action::decode(encoded.action.clone()).unwrap();
        #[allow(deprecated)]
        let in_command = reapi::Command::decode(encoded.command.1.clone()).unwrap().platform;
        assert!(action.platform.is_some());
        assert_eq!(action.platform, in_command);
        assert_eq!(spec(&[], &[], &[]).platform(), None);
    }
}

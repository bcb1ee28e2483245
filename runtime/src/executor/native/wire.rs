//! What a worker and the process that runs a command for it say to each other, over one socket: the worker one
//! [`Request`], the process one [`End`], each with its length before it.

use prost::Message;

/// What to run, where, and within which bounds. Zero stands for no bound.
#[derive(Clone, PartialEq, Message)]
pub(super) struct Request {
    /// Path of the staged input root.
    #[prost(bytes = "vec", tag = "1")]
    pub(super) root: Vec<u8>,
    /// Path of an empty folder that becomes /tmp.
    #[prost(bytes = "vec", tag = "2")]
    pub(super) tmp: Vec<u8>,
    #[prost(string, tag = "3")]
    pub(super) working_directory: String,
    #[prost(string, repeated, tag = "4")]
    pub(super) arguments: Vec<String>,
    /// Names and values in turn.
    #[prost(string, repeated, tag = "5")]
    pub(super) environment: Vec<String>,
    /// Whether the input root is the whole system.
    #[prost(bool, tag = "6")]
    pub(super) chroot: bool,
    /// Whether the command has the machine's network.
    #[prost(bool, tag = "7")]
    pub(super) network: bool,
    /// Further paths of the machine that the command can read.
    #[prost(bytes = "vec", repeated, tag = "8")]
    pub(super) read_only_paths: Vec<Vec<u8>>,
    #[prost(uint64, tag = "9")]
    pub(super) memory_bytes_max: u64,
    #[prost(uint64, tag = "10")]
    pub(super) processes_max: u64,
    #[prost(uint64, tag = "11")]
    pub(super) cpu_seconds_max: u64,
    /// Only find out whether all this can be had; nothing is run.
    #[prost(bool, tag = "12")]
    pub(super) probe: bool,
    /// Whether the command may make all system calls that a process without rights may make.
    #[prost(bool, tag = "13")]
    pub(super) all_system_calls: bool,
    /// The file of the control group to join; empty for none.
    #[prost(bytes = "vec", tag = "14")]
    pub(super) group: Vec<u8>,
    /// Path of the program that makes the namespaces; empty for this one itself.
    #[prost(bytes = "vec", tag = "15")]
    pub(super) bubblewrap: Vec<u8>,
}

/// How it ended.
#[derive(Clone, PartialEq, Message)]
pub(super) struct End {
    #[prost(oneof = "How", tags = "1, 2, 3, 4")]
    pub(super) how: Option<How>,
}

#[derive(Clone, PartialEq, prost::Oneof)]
pub(super) enum How {
    /// The command ended with this code.
    #[prost(sint32, tag = "1")]
    Exited(i32),
    /// This signal ended it.
    #[prost(sint32, tag = "2")]
    Signalled(i32),
    /// There is no such tool.
    #[prost(string, tag = "3")]
    NoTool(String),
    /// The sandbox could not be made.
    #[prost(string, tag = "4")]
    Failed(String),
}

//! One call as a case writes it down, and how its arguments come to be in the guest's memory.

use std::fmt;
use std::ops::Range;

use super::functions::{FUNCTIONS, Function};
use super::memory::Memory;
use super::poll::{FD_OFFSET, Subscription};
use super::types::{APPEND, CREAT, DIRECTORY, DSYNC, EXCL, RSYNC, SYMLINK_FOLLOW, SYNC, TRUNC, rights};

/// How much of a path a message shows.
const SHOWN_MAX: usize = 60;

/// A descriptor: a number, or what a call returned into memory.
#[derive(Clone, Copy, Debug)]
pub enum Fd {
    Number(u32),
    At(u32),
}

pub const STDIN: Fd = Fd::Number(0);
pub const STDOUT: Fd = Fd::Number(1);
pub const STDERR: Fd = Fd::Number(2);
/// The root of the input tree, preopened as `/`.
pub const ROOT: Fd = Fd::Number(3);
/// The working directory, preopened as `.`.
pub const CWD: Fd = Fd::Number(4);
/// A number that no descriptor has.
pub const NO_FD: Fd = Fd::Number(4242);

/// An argument as a C programmer sees it; some are two parameters of the function.
#[derive(Clone, Debug)]
pub enum Arg {
    I32(u32),
    I64(u64),
    Fd(Fd),
    /// 8 bytes that an earlier call left at this address.
    Load64(u32),
    /// Pointer and length of bytes to read.
    Path(Vec<u8>),
    /// Pointer to room for a result.
    Out(u32),
    /// Pointer and length of room for a result.
    Buffer(u32),
    /// Pointer to and number of buffers to be filled.
    Iovecs(Vec<u32>),
    /// Pointer to and number of buffers to be read.
    Ciovecs(Vec<Vec<u8>>),
    /// Pointer to and number of buffers that lie where they are told to.
    RawIovecs(Vec<(u32, u32)>),
    Subscriptions(Vec<Subscription>),
}

impl From<u64> for Arg {
    fn from(value: u64) -> Self {
        Self::I64(value)
    }
}

/// A call under construction.
#[derive(Clone, Debug)]
pub struct Call {
    pub function: &'static Function,
    args: Vec<Arg>,
    changes: Vec<(usize, Change)>,
}

#[derive(Clone, Copy, Debug)]
enum Change {
    Set(u64),
    Or(u64),
    Clear(u64),
}

/// The call with its arguments, for a message.
impl fmt::Display for Call {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let args: Vec<_> = self.args.iter().filter_map(Arg::shown).collect();
        write!(f, "{}({})", self.function.name, args.join(", "))?;
        let names: Vec<_> = self.function.parameters.split_ascii_whitespace().collect();
        for (index, change) in &self.changes {
            let (sign, value) = match change {
                Change::Set(value) => ("", value),
                Change::Or(value) => ("+", value),
                Change::Clear(value) => ("-", value),
            };
            write!(f, " {}={sign}{value:#x}", names[*index])?;
        }
        Ok(())
    }
}

impl Arg {
    /// As text; room for results is not shown.
    fn shown(&self) -> Option<String> {
        Some(match self {
            Self::I32(value) => value.to_string(),
            Self::I64(value) => value.to_string(),
            Self::Fd(Fd::Number(number)) => format!("fd {number}"),
            Self::Fd(Fd::At(_)) => "fd".into(),
            Self::Load64(_) => "cookie".into(),
            Self::Path(bytes) => {
                format!("{:?}", String::from_utf8_lossy(&bytes[..bytes.len().min(SHOWN_MAX)]))
            }
            Self::Out(_) => return None,
            Self::Buffer(len) => format!("[{len}]"),
            Self::Iovecs(lens) => format!("{lens:?}"),
            Self::Ciovecs(buffers) => format!("{} buffers", buffers.len()),
            Self::RawIovecs(buffers) => format!("{buffers:x?}"),
            Self::Subscriptions(subscriptions) => format!("{subscriptions:?}"),
        })
    }
}

/// What is pushed for a parameter.
#[derive(Clone, Copy, Debug)]
enum Operand {
    I32(u32),
    I64(u64),
    Load32(u32),
    Load64(u32),
}

/// A call that is ready to be written into the module.
pub struct Lowered {
    /// The instructions; they leave the error number on the stack.
    pub instructions: String,
    /// Where in memory the results are.
    pub outs: Vec<Range<u32>>,
}

impl Call {
    pub fn new(name: &'static str, args: impl IntoIterator<Item = Arg>) -> Self {
        let function =
            FUNCTIONS.iter().find(|f| f.name == name).expect("only functions of preview 1 are called");
        Self { function, args: args.into_iter().collect(), changes: Vec::new() }
    }

    fn change(mut self, parameter: &str, change: Change) -> Self {
        let mut names = self.function.parameters.split_ascii_whitespace();
        let index = names.position(|name| name.eq_ignore_ascii_case(parameter));
        let index = index.unwrap_or_else(|| panic!("{} has no {parameter}", self.function.name));
        self.changes.push((index, change));
        self
    }

    /// With this for a parameter, whatever it would have been.
    pub fn with(self, parameter: &str, value: u64) -> Self {
        self.change(parameter, Change::Set(value))
    }

    /// With buffers of these addresses and lengths.
    pub fn buffers(mut self, buffers: &[(u32, u32)]) -> Self {
        let is_buffers = |arg: &&mut Arg| matches!(arg, Arg::Iovecs(_) | Arg::Ciovecs(_));
        *self.args.iter_mut().find(is_buffers).expect("a function with buffers") =
            Arg::RawIovecs(buffers.to_vec());
        self
    }

    pub fn oflags(self, bits: u64) -> Self {
        self.change("oflags", Change::Or(bits))
    }

    pub fn creat(self) -> Self {
        self.oflags(CREAT)
    }

    pub fn directory(self) -> Self {
        self.oflags(DIRECTORY)
    }

    pub fn excl(self) -> Self {
        self.oflags(EXCL)
    }

    pub fn trunc(self) -> Self {
        self.oflags(TRUNC)
    }

    pub fn fdflags(self, bits: u64) -> Self {
        self.change("fdflags", Change::Or(bits))
    }

    pub fn append(self) -> Self {
        self.fdflags(APPEND)
    }

    pub fn synchronous(self) -> Self {
        self.fdflags(DSYNC | RSYNC | SYNC)
    }

    pub fn write_only(self) -> Self {
        self.with("BASE", rights::WRITE_ONLY)
    }

    pub fn read_write(self) -> Self {
        self.with("BASE", rights::READ_WRITE)
    }

    pub fn follow(self) -> Self {
        self.change("lookupflags", Change::Or(SYMLINK_FOLLOW))
    }

    pub fn nofollow(self) -> Self {
        self.change("lookupflags", Change::Clear(SYMLINK_FOLLOW))
    }

    /// Lays the arguments out in memory and writes the instructions.
    pub fn lower(&self, memory: &mut Memory) -> Lowered {
        let mut lowering =
            Lowering { memory, operands: Vec::new(), outs: Vec::new(), prepare: String::new() };
        for arg in &self.args {
            lowering.arg(arg);
        }
        let Lowering { mut operands, outs, prepare, .. } = lowering;
        let parameters = self.function.parameters.split_ascii_whitespace();
        assert_eq!(operands.len(), parameters.clone().count(), "arguments of {}", self.function.name);
        for (index, change) in &self.changes {
            let wide =
                parameters.clone().nth(*index).is_some_and(|name| name.starts_with(char::is_uppercase));
            operands[*index] = operands[*index].changed(*change, wide);
        }
        let pushes: String = operands.iter().map(|operand| operand.push()).collect();
        Lowered { instructions: format!("{prepare}{pushes} call ${}", self.function.name), outs }
    }
}

impl Operand {
    fn changed(self, change: Change, wide: bool) -> Self {
        let value = match (self, change) {
            (_, Change::Set(value)) => value,
            (Self::I32(old), Change::Or(bits)) => u64::from(old) | bits,
            (Self::I32(old), Change::Clear(bits)) => u64::from(old) & !bits,
            _ => panic!("only flags are changed bit by bit"),
        };
        if wide { Self::I64(value) } else { Self::I32(value.try_into().expect("32 bits")) }
    }

    fn push(self) -> String {
        match self {
            Self::I32(value) => format!("(i32.const {value})"),
            Self::I64(value) => format!("(i64.const {value})"),
            Self::Load32(address) => format!("(i32.load (i32.const {address}))"),
            Self::Load64(address) => format!("(i64.load (i32.const {address}))"),
        }
    }
}

struct Lowering<'a> {
    memory: &'a mut Memory,
    operands: Vec<Operand>,
    outs: Vec<Range<u32>>,
    prepare: String,
}

impl Lowering<'_> {
    fn arg(&mut self, arg: &Arg) {
        match arg {
            Arg::I32(value) => self.operands.push(Operand::I32(*value)),
            Arg::I64(value) => self.operands.push(Operand::I64(*value)),
            Arg::Fd(Fd::Number(number)) => self.operands.push(Operand::I32(*number)),
            Arg::Fd(Fd::At(address)) => self.operands.push(Operand::Load32(*address)),
            Arg::Load64(address) => self.operands.push(Operand::Load64(*address)),
            Arg::Path(bytes) => self.pointer_and_len(bytes, bytes.len()),
            Arg::Out(len) => {
                let pointer = self.out(*len);
                self.operands.push(Operand::I32(pointer));
            }
            Arg::Buffer(len) => {
                let pointer = self.out(*len);
                self.operands.extend([Operand::I32(pointer), Operand::I32(*len)]);
            }
            Arg::Iovecs(lens) => {
                let buffers: Vec<_> = lens.iter().map(|len| (self.out(*len), *len)).collect();
                self.iovecs(&buffers);
            }
            Arg::Ciovecs(buffers) => {
                let len = |bytes: &Vec<u8>| u32::try_from(bytes.len()).expect("small");
                let buffers: Vec<_> = buffers.iter().map(|b| (self.memory.data(b), len(b))).collect();
                self.iovecs(&buffers);
            }
            Arg::RawIovecs(buffers) => self.iovecs(buffers),
            Arg::Subscriptions(subscriptions) => self.subscriptions(subscriptions),
        }
    }

    fn out(&mut self, len: u32) -> u32 {
        let range = self.memory.out(len);
        self.outs.push(range.clone());
        range.start
    }

    fn pointer_and_len(&mut self, bytes: &[u8], len: usize) {
        let pointer = self.memory.data(bytes);
        self.operands.extend([Operand::I32(pointer), Operand::I32(len.try_into().expect("small"))]);
    }

    fn iovecs(&mut self, buffers: &[(u32, u32)]) {
        let words = buffers.iter().flat_map(|(pointer, len)| [*pointer, *len]);
        let bytes: Vec<u8> = words.flat_map(u32::to_le_bytes).collect();
        self.pointer_and_len(&bytes, buffers.len());
    }

    /// Pushes the pointer only: the number comes after the pointer to the events.
    fn subscriptions(&mut self, subscriptions: &[Subscription]) {
        let bytes: Vec<u8> = subscriptions.iter().flat_map(Subscription::encode).collect();
        let mut address = self.memory.data(&bytes);
        self.operands.push(Operand::I32(address));
        for subscription in subscriptions {
            let number = match subscription.fd() {
                Some(Fd::Number(number)) => Operand::I32(number),
                Some(Fd::At(address)) => Operand::Load32(address),
                None => Operand::I32(0),
            };
            if subscription.fd().is_some() {
                let field = address + FD_OFFSET as u32;
                self.prepare += &format!("(i32.store (i32.const {field}) {})", number.push());
            }
            address += super::poll::SUBSCRIPTION_BYTES as u32;
        }
    }
}

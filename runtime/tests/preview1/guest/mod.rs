//! A small language for guests: a case says which calls are made and what they must come to.
//!
//! ```text
//! g.file("a", "hello");                                  the input tree
//! let a = g.open(path_open(ROOT, "a").read_write());     a call that must succeed, and its descriptor
//! g.gives(fd_read(a, &[9]), "hello");                    a call and its result
//! g.fails(fd_seek(a, -1, whence::SET), Errno::INVAL);    a call and its error number
//! ```
//!
//! The module that comes of it makes the calls one after the other, whatever each returns, and at the end
//! writes the stretch of memory that holds all results to standard output. Expectations are judged
//! outside, by what preview 1 and POSIX say. Where wasmtime-wasi rightly or wrongly does otherwise, a step
//! says so with the reason.

pub mod call;
pub mod check;
pub mod functions;
pub mod memory;
mod module;
pub mod poll;
mod setup;
pub mod types;
mod verdict;

use std::ops::Range;

use call::{Arg, Call, Fd, Lowered};
use check::{Check, Outs};
use functions::*;
use memory::Memory;
pub use setup::{Entry, Setup};
use types::Errno;
pub use verdict::Outcome;

/// How a guest came to its end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum End {
    /// It returned (0) or left with a code.
    Exit(i32),
    /// It trapped, with this text.
    Trap(String),
}

/// What a host says of a guest that it ran.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ended {
    pub end: End,
    pub stdout: Vec<u8>,
    pub stderr: Vec<u8>,
}

/// Which host: expectations may differ between them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Host {
    /// wasmtime-wasi's own host, over a folder.
    Wasmtime,
    /// Our host, over a workspace.
    Ours,
}

/// What a call must come to.
pub enum Expectation {
    /// Success or any error, but no trap.
    Anything,
    Success,
    Gives(Check),
    /// One of these error numbers.
    Fails(Vec<Errno>),
    Traps,
    Exits(i32),
    /// The guest has come to its end before.
    Never,
}

/// Whether the call succeeds does not matter.
pub fn anything() -> Expectation {
    Expectation::Anything
}

/// The call ends the guest with a trap.
pub fn traps() -> Expectation {
    Expectation::Traps
}

/// The call is not reached.
pub fn never() -> Expectation {
    Expectation::Never
}

/// The call fails with this error number.
pub fn fails(errno: Errno) -> Expectation {
    Expectation::Fails(vec![errno])
}

/// The call succeeds with this result.
pub fn gives(result: impl Into<Check>) -> Expectation {
    Expectation::Gives(result.into())
}

/// One call and what is expected of it.
struct Step {
    call: Call,
    lowered: Lowered,
    errno: Range<u32>,
    expected: Expectation,
    /// What is expected of wasmtime-wasi instead, and why.
    wasmtime: Option<(Expectation, &'static str)>,
}

impl Step {
    fn expected(&self, host: Host) -> &Expectation {
        match (&self.wasmtime, host) {
            (Some((expected, _)), Host::Wasmtime) => expected,
            _ => &self.expected,
        }
    }

    fn may_end_the_guest(&self) -> bool {
        let ends = |e: &Expectation| matches!(e, Expectation::Traps | Expectation::Exits(_));
        ends(self.expected(Host::Ours)) || ends(self.expected(Host::Wasmtime))
    }
}

/// Names a call that was written down, so that its results can be used.
#[derive(Clone, Copy, Debug)]
pub struct StepId(usize);

/// The call written down last: what there is to add to it.
pub struct Written<'a> {
    guest: &'a mut Guest,
    id: StepId,
}

impl Written<'_> {
    /// On wasmtime-wasi it comes to something else, for this reason.
    pub fn wasmtime(self, expected: Expectation, why: &'static str) -> Self {
        self.guest.steps[self.id.0].wasmtime = Some((expected, why));
        self
    }

    pub fn id(self) -> StepId {
        self.id
    }
}

type Comparison = Box<dyn Fn(&[Outs<'_>]) -> bool + Send + Sync>;

/// A guest under construction.
#[derive(Default)]
pub struct Guest {
    pub setup: Setup,
    /// Why wasmtime-wasi cannot be asked.
    pub only_ours: Option<&'static str>,
    memory: Memory,
    steps: Vec<Step>,
    comparisons: Vec<(&'static str, Vec<StepId>, Comparison)>,
    report_to_stderr: bool,
    stderr: Option<&'static str>,
}

/// Calls.
impl Guest {
    pub fn expect(&mut self, call: Call, expected: Expectation) -> Written<'_> {
        let lowered = call.lower(&mut self.memory);
        let errno = self.memory.out(4);
        self.steps.push(Step { call, lowered, errno, expected, wasmtime: None });
        let id = StepId(self.steps.len() - 1);
        Written { guest: self, id }
    }

    /// The call succeeds.
    pub fn ok(&mut self, call: Call) -> Written<'_> {
        self.expect(call, Expectation::Success)
    }

    /// The call succeeds with this result.
    pub fn gives(&mut self, call: Call, result: impl Into<Check>) -> Written<'_> {
        self.expect(call, gives(result))
    }

    /// The call fails with this error number.
    pub fn fails(&mut self, call: Call, errno: Errno) -> Written<'_> {
        self.expect(call, fails(errno))
    }

    /// The call fails with one of these error numbers.
    pub fn fails_with_one_of(&mut self, call: Call, errnos: &[Errno]) -> Written<'_> {
        self.expect(call, Expectation::Fails(errnos.to_vec()))
    }

    /// Whether the call succeeds does not matter here.
    pub fn attempt(&mut self, call: Call) -> StepId {
        self.expect(call, Expectation::Anything).id()
    }

    /// The call ends the guest with a trap.
    pub fn traps(&mut self, call: Call) -> Written<'_> {
        self.expect(call, Expectation::Traps)
    }

    /// The call ends the guest with an exit code.
    pub fn exits(&mut self, call: Call, code: i32) -> Written<'_> {
        self.expect(call, Expectation::Exits(code))
    }

    /// Opens something that can be opened.
    pub fn open(&mut self, call: Call) -> Fd {
        let id = self.ok(call).id();
        self.opened(id)
    }

    /// Opens something that perhaps cannot be opened; then the descriptor is a bad one.
    pub fn try_open(&mut self, call: Call) -> Fd {
        let id = self.attempt(call);
        self.opened(id)
    }

    /// The descriptor that an opening call returned, if it did.
    pub fn opened(&self, id: StepId) -> Fd {
        Fd::At(self.steps[id.0].lowered.outs[0].start)
    }

    /// The cookie behind an entry that begins at `offset` in the listing of an earlier call.
    pub fn cookie(&self, listing: StepId, offset: u32) -> Arg {
        Arg::Load64(self.steps[listing.0].lowered.outs[0].start + offset)
    }

    /// The results of some calls must be so.
    pub fn compare<const N: usize>(
        &mut self,
        what: &'static str,
        steps: [StepId; N],
        holds: impl Fn([Outs<'_>; N]) -> bool + Send + Sync + 'static,
    ) {
        let holds = move |outs: &[Outs<'_>]| holds(std::array::from_fn(|index| outs[index]));
        self.comparisons.push((what, steps.to_vec(), Box::new(holds)));
    }
}

/// Calls that often come together.
impl Guest {
    /// The file at a path below the root holds this.
    pub fn holds(&mut self, path: &str, content: &str) {
        let len = u32::try_from(content.len()).expect("small") + 8;
        let fd = self.open(path_open(call::ROOT, path));
        self.gives(fd_read(fd, &[len]), content);
        self.ok(fd_close(fd));
    }

    /// Makes or replaces a file below the root.
    pub fn write_file(&mut self, path: &str, content: &str) {
        let fd = self.open(path_open(call::ROOT, path).creat().trunc().write_only());
        self.gives(fd_write(fd, &[content]), content.len() as u64);
        self.ok(fd_close(fd));
    }

    /// There is nothing at a path below the root.
    pub fn absent(&mut self, path: &str) {
        self.fails(path_filestat_get(call::ROOT, path).nofollow(), Errno::NOENT);
    }

    /// A directory below the root has exactly these entries.
    pub fn lists(&mut self, path: &str, expected: &[&str]) {
        let expected = [&[".", ".."], expected].concat();
        let fd = self.open(path_open(call::ROOT, path).directory());
        self.gives(fd_readdir(fd, 4096, 0), check::names(&expected));
        self.ok(fd_close(fd));
    }
}

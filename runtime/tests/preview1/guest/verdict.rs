//! The verdict on how a guest ran, and what its case covers.

use std::fmt;

use super::call::Call;
use super::check::Outs;
use super::memory::{OUTS, UNTOUCHED};
use super::types::{ERRNOS, Errno};
use super::{End, Ended, Expectation, Guest, Host, Step, StepId};

/// What a call is expected to come to, as the table of coverage counts it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Outcome {
    Errno(Errno),
    /// A host may choose.
    OneOfSeveral,
    /// A trap or an exit.
    End,
}

impl Outcome {
    fn of(expected: &Expectation) -> Option<Self> {
        match expected {
            Expectation::Anything | Expectation::Never => None,
            Expectation::Success | Expectation::Gives(_) => Some(Self::Errno(Errno::SUCCESS)),
            Expectation::Fails(errnos) if errnos.len() > 1 => Some(Self::OneOfSeveral),
            Expectation::Fails(errnos) => Some(Self::Errno(errnos[0])),
            Expectation::Traps | Expectation::Exits(_) => Some(Self::End),
        }
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Errno(errno) => write!(f, "{errno:?}"),
            Self::OneOfSeveral => f.write_str("one of several"),
            Self::End => f.write_str("end"),
        }
    }
}

impl Guest {
    /// What is wrong with how the guest ran on a host.
    pub fn complaints(&self, host: Host, ended: &Ended) -> Vec<String> {
        let stream = if self.report_to_stderr { &ended.stderr } else { &ended.stdout };
        let Some(start) = stream.len().checked_sub(self.memory.outs().len()) else {
            return vec![format!("no report; the guest ended with {:?}", ended.end)];
        };
        let report = &stream[start..];
        let judged = |(index, step): (usize, &Step)| {
            let verdict = step.judge(host, report, &ended.end);
            verdict.err().map(|why| format!("step {index}, {}: {why}", step.call))
        };
        let mut complaints: Vec<_> = self.steps.iter().enumerate().filter_map(judged).collect();
        complaints.extend(self.unexpected_end(host, &ended.end));
        if self.stderr.is_some_and(|expected| ended.stderr != expected.as_bytes()) {
            complaints.push(format!("standard error is {:?}", String::from_utf8_lossy(&ended.stderr)));
        }
        for (what, steps, holds) in &self.comparisons {
            let outs: Vec<_> = steps.iter().map(|id| self.steps[id.0].outs(report)).collect();
            if !holds(&outs) {
                complaints.push(format!("it does not hold that {what}"));
            }
        }
        complaints
    }

    /// A call that was written down.
    pub fn call(&self, id: StepId) -> &Call {
        &self.steps[id.0].call
    }

    /// What a call came to in a run that went through to the end.
    pub fn result<T>(&self, id: StepId, ended: &Ended, as_seen: fn(&Call, Errno, Outs<'_>) -> T) -> T {
        let step = &self.steps[id.0];
        let start = ended.stdout.len().checked_sub(self.memory.outs().len());
        let report = &ended.stdout[start.unwrap_or_else(|| panic!("the guest ended with {:?}", ended.end))..];
        as_seen(&step.call, step.returned(report).expect("every call returned"), step.outs(report))
    }

    fn unexpected_end(&self, host: Host, end: &End) -> Option<String> {
        let ending = |step: &Step| matches!(step.expected(host), Expectation::Traps | Expectation::Exits(_));
        let ends_early = self.steps.iter().any(ending);
        (!ends_early && *end != End::Exit(0)).then(|| format!("the guest ended with {end:?}"))
    }

    /// Each function that is called, with what must come of it on our host.
    pub fn covered(&self) -> impl Iterator<Item = (&'static str, Outcome)> {
        self.steps.iter().filter_map(|step| Some((step.call.function.name, Outcome::of(&step.expected)?)))
    }

    /// Each call that comes to something else on wasmtime-wasi, and why.
    pub fn differences(&self) -> impl Iterator<Item = (&'static str, &'static str)> {
        self.steps.iter().filter_map(|step| Some((step.call.function.name, step.wasmtime.as_ref()?.1)))
    }
}

impl Step {
    fn outs<'a>(&'a self, report: &'a [u8]) -> Outs<'a> {
        Outs { report, ranges: &self.lowered.outs, counted: self.call.function.counts_bytes() }
    }

    fn returned(&self, report: &[u8]) -> Option<Errno> {
        let start = (self.errno.start - OUTS) as usize;
        let errno: [u8; 4] = report[start..start + 4].try_into().expect("4 bytes");
        (errno != [UNTOUCHED; 4]).then(|| ERRNOS[u32::from_le_bytes(errno) as usize])
    }

    fn judge(&self, host: Host, report: &[u8], end: &End) -> Result<(), String> {
        match (self.expected(host), self.returned(report)) {
            (Expectation::Traps, None) if matches!(end, End::Trap(_)) => Ok(()),
            (Expectation::Exits(code), None) if *end == End::Exit(*code) => Ok(()),
            (Expectation::Traps | Expectation::Exits(_), None) => {
                Err(format!("the guest ended with {end:?}"))
            }
            (Expectation::Never, None) => Ok(()),
            (_, None) => Err("was not reached or did not return".into()),
            (Expectation::Anything, Some(_)) | (Expectation::Success, Some(Errno::SUCCESS)) => Ok(()),
            (Expectation::Gives(check), Some(Errno::SUCCESS)) => check.run(self.outs(report)),
            (Expectation::Fails(errnos), Some(errno)) if errnos.contains(&errno) => Ok(()),
            (Expectation::Fails(errnos), Some(errno)) => Err(format!("returned {errno:?}, not {errnos:?}")),
            (_, Some(errno)) => Err(format!("returned {errno:?}")),
        }
    }
}

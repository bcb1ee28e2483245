//! The verdict on how a guest ran, and what its case covers.

use super::check::Outs;
use super::memory::{OUTS, UNTOUCHED};
use super::types::{ERRNOS, Errno};
use super::{End, Ended, Expectation, Guest, Host, Step};

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

    fn unexpected_end(&self, host: Host, end: &End) -> Option<String> {
        let ending = |step: &Step| matches!(step.expected(host), Expectation::Traps | Expectation::Exits(_));
        let ends_early = self.steps.iter().any(ending);
        (!ends_early && *end != End::Exit(0)).then(|| format!("the guest ended with {end:?}"))
    }

    /// Each function that is called with what must come of it on our host; `None` is the end of the guest.
    pub fn covered(&self) -> impl Iterator<Item = (&'static str, Option<Errno>)> {
        self.steps.iter().flat_map(|step| {
            let outcomes = match &step.expected {
                Expectation::Anything | Expectation::Never => vec![],
                Expectation::Success | Expectation::Gives(_) => vec![Some(Errno::SUCCESS)],
                Expectation::Fails(errnos) => errnos.iter().copied().map(Some).collect(),
                Expectation::Traps | Expectation::Exits(_) => vec![None],
            };
            outcomes.into_iter().map(|outcome| (step.call.function.name, outcome))
        })
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

    fn judge(&self, host: Host, report: &[u8], end: &End) -> Result<(), String> {
        let start = (self.errno.start - OUTS) as usize;
        let errno: [u8; 4] = report[start..start + 4].try_into().expect("4 bytes");
        let returned = (errno != [UNTOUCHED; 4]).then(|| ERRNOS[u32::from_le_bytes(errno) as usize]);
        match (self.expected(host), returned) {
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

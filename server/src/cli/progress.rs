//! What is going on, on standard error: drawn on a terminal, plain lines or nothing elsewhere.

use std::io::{IsTerminal as _, stderr};
use std::time::{Duration, Instant};

use indicatif::{MultiProgress, ProgressBar, ProgressStyle};

use super::format;

/// How often a spinner moves.
const TICK: Duration = Duration::from_millis(100);

/// A task that ends sooner is not worth a number.
const ELAPSED_MIN: Duration = Duration::from_millis(100);

/// Shows tasks while they run.
pub(crate) struct Progress {
    drawn: Option<MultiProgress>,
    lines: bool,
}

impl Progress {
    /// Draws on a terminal; says nothing elsewhere.
    pub(crate) fn quiet_elsewhere() -> Self {
        Self { drawn: stderr().is_terminal().then(MultiProgress::new), lines: false }
    }

    /// Draws on a terminal; prints a line for each beginning and end elsewhere.
    pub(crate) fn lines_elsewhere() -> Self {
        Self { lines: true, ..Self::quiet_elsewhere() }
    }

    /// Starts a task of unknown length.
    pub(crate) fn spinner(&self, text: &str) -> Task {
        self.task(text, ProgressBar::new_spinner(), "{spinner:.green} {elapsed:.dim} {wide_msg}")
    }

    /// Starts a task that moves a known number of bytes.
    pub(crate) fn bytes(&self, text: &str, total: u64) -> Task {
        let template = "{spinner:.green} {msg} [{bar:30.green/dim}] {percent:>3} % {eta:.dim}";
        self.task(text, ProgressBar::new(total), template)
    }

    /// Starts a task of a known number of parts.
    pub(crate) fn count(&self, text: &str, parts: usize) -> Task {
        let template = "{spinner:.green} {elapsed:.dim} {msg} [{bar:30.green/dim}] {pos}/{len}";
        self.task(text, ProgressBar::new(parts as u64), template)
    }

    fn task(&self, text: &str, bar: ProgressBar, template: &str) -> Task {
        let task = Task {
            bar: self.drawn.as_ref().map(|multi| multi.add(bar)),
            lines: self.lines && self.drawn.is_none(),
            started: Instant::now(),
        };
        if task.lines {
            eprintln!("... {text}");
        }
        if let Some(bar) = &task.bar {
            let style = ProgressStyle::with_template(template).expect("the templates above are valid");
            bar.set_style(style.progress_chars("━╸─"));
            bar.set_message(text.to_owned());
            bar.enable_steady_tick(TICK);
        }
        task
    }

    /// Leaves a line on standard error, above what is drawn; nothing where nothing is shown.
    pub(crate) fn note(&self, text: &str) {
        match &self.drawn {
            Some(multi) => multi.suspend(|| eprintln!("ok  {text}")),
            None if self.lines => eprintln!("ok  {text}"),
            None => {}
        }
    }

    /// Prints text on standard output, above what is drawn.
    pub(crate) fn say(&self, text: &str) {
        match &self.drawn {
            Some(multi) => multi.suspend(|| println!("{text}")),
            None => println!("{text}"),
        }
    }
}

/// One thing that is going on. Dropping it takes it off the screen.
pub(crate) struct Task {
    bar: Option<ProgressBar>,
    lines: bool,
    started: Instant,
}

impl Task {
    /// Says on a terminal what is going on now; in a log only beginning and end are worth a line.
    pub(crate) fn set_text(&self, text: &str) {
        if let Some(bar) = &self.bar {
            bar.set_message(text.to_owned());
        }
    }

    /// Says how much more is done.
    pub(crate) fn advance(&self, done: u64) {
        if let Some(bar) = &self.bar {
            bar.inc(done);
        }
    }

    /// Sets how much is done and how much there is.
    pub(crate) fn set_position(&self, done: u64, total: u64) {
        if let Some(bar) = &self.bar {
            bar.set_length(total);
            bar.set_position(done);
        }
    }

    /// Ends the task and leaves a line about it.
    pub(crate) fn finish(&self, text: &str) {
        let elapsed = self.started.elapsed();
        let line = match elapsed < ELAPSED_MIN {
            true => format!("ok  {text}"),
            false => format!("ok  {text} ({})", format::duration(elapsed)),
        };
        if let Some(bar) = &self.bar {
            bar.println(line);
            bar.finish_and_clear();
        } else if self.lines {
            eprintln!("{line}");
        }
    }
}

impl Drop for Task {
    fn drop(&mut self) {
        if let Some(bar) = self.bar.as_ref().filter(|bar| !bar.is_finished()) {
            bar.finish_and_clear();
        }
    }
}

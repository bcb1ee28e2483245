//! What the processes that a worker starts make sure of before they run anything.

use std::fs;
use std::io;

/// How much sooner than the worker what it runs goes when the machine runs out of memory: a part of a thousand of
/// the machine's memory that the kernel takes it to have beside its own.
const OUT_OF_MEMORY_SCORE_MORE: i32 = 500;

/// The most there is.
const OUT_OF_MEMORY_SCORE_MAX: i32 = 1000;

/// Fails when this process has more threads than one: most of what it gives up next, only the thread that does so
/// gives up.
#[cfg(target_os = "linux")]
pub(super) fn ensure_one_thread() -> io::Result<()> {
    // Some containers have no /proc.
    let Ok(threads) = fs::read_dir("/proc/self/task") else { return Ok(()) };
    match threads.count() {
        1 => Ok(()),
        count => Err(io::Error::other(format!("this process has {count} threads where it must have one"))),
    }
}

/// Makes a process, and all that it starts from now on, go before this one when the machine runs out of memory. It is
/// `self`, or the number of one.
pub(super) fn goes_first(process: &str) {
    // Raising it needs no rights; where it cannot be done, as without /proc, everything else is as ever.
    let Ok(own) = fs::read_to_string("/proc/self/oom_score_adj") else { return };
    let Ok(own) = own.trim().parse::<i32>() else { return };
    let score = own.saturating_add(OUT_OF_MEMORY_SCORE_MORE).min(OUT_OF_MEMORY_SCORE_MAX);
    let _ = fs::write(format!("/proc/{process}/oom_score_adj"), score.to_string());
}

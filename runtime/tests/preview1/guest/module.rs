//! The text of the module that makes the calls and reports what came of them.

use std::collections::BTreeSet;

use super::call::Lowered;
use super::functions::FUNCTIONS;
use super::memory::{PAGES, UNTOUCHED};
use super::{Guest, Step};

impl Guest {
    /// The text of the module.
    pub fn module(&self) -> String {
        let mut functions: BTreeSet<_> = self.steps.iter().map(|step| step.call.function.name).collect();
        functions.insert("fd_write");
        let imports: String = functions.iter().map(|name| import(name)).collect();
        let steps: String =
            self.steps.iter().enumerate().map(|(index, step)| function(index, step)).collect();
        let start: String = self.steps.iter().enumerate().map(|(index, step)| start(index, step)).collect();
        let outs = self.memory.outs();
        let fill = format!(
            "(memory.fill (i32.const {}) (i32.const {UNTOUCHED}) (i32.const {}))",
            outs.start,
            outs.len()
        );
        format!(
            "(module\n{imports}(memory (export \"memory\") {PAGES} {PAGES})\n{}{}{steps}\
             (func (export \"_start\") {fill}\n{start} (call $report)))",
            self.memory.segments(),
            self.report(),
        )
    }

    /// The function that writes all results out, as often as it takes.
    fn report(&self) -> String {
        let outs = self.memory.outs();
        let fd = if self.report_to_stderr { 2 } else { 1 };
        let (start, len) = (outs.start, outs.len());
        // 16 is an iovec, 24 the number of bytes that were written.
        format!(
            "(func $report (local $at i32) (local $left i32)
                (local.set $at (i32.const {start}))
                (local.set $left (i32.const {len}))
                (loop $more
                    (i32.store (i32.const 16) (local.get $at))
                    (i32.store (i32.const 20) (local.get $left))
                    (if (call $fd_write (i32.const {fd}) (i32.const 16) (i32.const 1) (i32.const 24))
                        (then unreachable))
                    (local.set $at (i32.add (local.get $at) (i32.load (i32.const 24))))
                    (local.set $left (i32.sub (local.get $left) (i32.load (i32.const 24))))
                    (br_if $more (local.get $left))))"
        )
    }
}

fn import(name: &str) -> String {
    let function = FUNCTIONS.iter().find(|f| f.name == name).expect("a function of preview 1");
    let wide = |name: &str| name.starts_with(char::is_uppercase);
    let parameter = |name| if wide(name) { " i64" } else { " i32" };
    let parameters: String = function.parameters.split_ascii_whitespace().map(parameter).collect();
    let result = if name == "proc_exit" { "" } else { "(result i32)" };
    format!("(import \"wasi_snapshot_preview1\" \"{name}\" (func ${name} (param{parameters}) {result}))\n")
}

/// Each call is made in a function of its own, whose name a backtrace shows.
fn function(index: usize, step: &Step) -> String {
    let Lowered { instructions, .. } = &step.lowered;
    let name = step.call.function.name;
    let errno = step.errno.start;
    if name == "proc_exit" {
        return format!("(func $step_{index}_{name} {instructions})\n");
    }
    format!("(func $step_{index}_{name} i32.const {errno} (block (result i32) {instructions}) i32.store)\n")
}

fn start(index: usize, step: &Step) -> String {
    let report = if step.may_end_the_guest() { "(call $report) " } else { "" };
    format!(" {report}(call $step_{index}_{})\n", step.call.function.name)
}

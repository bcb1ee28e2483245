//! wasmtime-wasi's own host over a folder: the second opinion.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::sync::LazyLock;

use wasmtime::{Linker, Module, Store};
use wasmtime_wasi::filesystem::FsPerms;
use wasmtime_wasi::p1::{self, WasiP1Ctx};
use wasmtime_wasi::p2::pipe::MemoryOutputPipe;
use wasmtime_wasi::{I32Exit, WasiCtxBuilder};

use super::{ENGINE, STREAM_BYTES_MAX};
use crate::guest::{End, Ended, Entry, Setup};

static LINKER: LazyLock<Linker<WasiP1Ctx>> = LazyLock::new(|| {
    let mut linker = Linker::new(&ENGINE);
    p1::add_to_linker_sync(&mut linker, |context| context).expect("nothing else is in the linker");
    linker
});

/// Lays the input tree out in a folder and runs a guest over it.
pub(super) fn run(root: &Path, module: &Module, setup: &Setup) -> Ended {
    stage(root, setup);
    let (stdout, stderr) = (MemoryOutputPipe::new(STREAM_BYTES_MAX), MemoryOutputPipe::new(STREAM_BYTES_MAX));
    let mut wasi = WasiCtxBuilder::new();
    wasi.allow_blocking_current_thread(true).args(&setup.arguments).envs(&setup.environment);
    wasi.stdout(stdout.clone()).stderr(stderr.clone());
    let working_directory = root.join(&setup.working_directory);
    wasi.preopened_dir(root, "/", FsPerms::ReadWrite).expect("the root was just made");
    wasi.preopened_dir(working_directory, ".", FsPerms::ReadWrite).expect("the working directory is staged");
    let end = start(module, wasi.build_p1());
    Ended { end, stdout: stdout.contents().into(), stderr: stderr.contents().into() }
}

fn start(module: &Module, context: WasiP1Ctx) -> End {
    let mut store = Store::new(&ENGINE, context);
    let mut run = || {
        let instance = LINKER.instantiate(&mut store, module)?;
        instance.get_typed_func::<(), ()>(&mut store, "_start")?.call(&mut store, ())
    };
    match run() {
        Ok(()) => End::Exit(0),
        Err(error) => match error.downcast_ref::<I32Exit>() {
            Some(exit) => End::Exit(exit.0),
            None => End::Trap(format!("{error:#}")),
        },
    }
}

fn stage(root: &Path, setup: &Setup) {
    fs::create_dir_all(root.join(&setup.working_directory)).expect("the folder can be written");
    for (path, entry) in &setup.entries {
        let path = root.join(path);
        fs::create_dir_all(path.parent().expect("entries are below the root")).expect("no clash of names");
        match entry {
            Entry::File(content) => fs::write(&path, content),
            Entry::Symlink(target) => symlink(target, &path),
            Entry::Directory => fs::create_dir_all(&path),
        }
        .expect("no clash of names");
    }
}

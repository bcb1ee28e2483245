//! The allocator of every process of this program, and the thread that servers and workers have for it.

/// What ten thousand clients held at once would otherwise stay with the process for good: the system's allocator returns
/// only what is at the end of its heaps.
#[cfg(target_os = "linux")]
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

/// Gives the memory of a burst back within seconds, from now on: by a thread, so that a process that has become idle
/// does it too. Only for processes that serve: those that confine themselves, and those that make sandboxes, must have
/// one thread.
#[cfg(target_os = "linux")]
pub(crate) fn give_back_in_background() {
    let mut on = true;
    // SAFETY: the name ends with a NUL, nothing is read, and the value is the `bool` that this switch takes and lives until
    // the call returns.
    let error = unsafe {
        tikv_jemalloc_sys::mallctl(
            c"background_thread".as_ptr(),
            std::ptr::null_mut(),
            std::ptr::null_mut(),
            (&raw mut on).cast(),
            size_of::<bool>(),
        )
    };
    if error != 0 {
        let error = std::io::Error::from_raw_os_error(error);
        tracing::warn!(%error, "memory is given back only by threads that ask for some");
    }
}

#[cfg(not(target_os = "linux"))]
pub(crate) fn give_back_in_background() {}

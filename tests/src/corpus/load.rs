//! Other work for the processors while something is proved.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// Threads that keep the processors busy until they are dropped.
pub struct Load(Arc<AtomicBool>);

impl Load {
    /// One thread for each processor.
    pub fn start() -> Self {
        let on = Arc::new(AtomicBool::new(true));
        for _ in 0..std::thread::available_parallelism().map_or(2, usize::from) {
            let on = Arc::clone(&on);
            std::thread::spawn(move || {
                while on.load(Ordering::Relaxed) {
                    std::hint::spin_loop();
                }
            });
        }
        Self(on)
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.0.store(false, Ordering::Relaxed);
    }
}

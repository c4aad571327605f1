//! When a client process of the demo starts and stops: told by its parent, or by the time.

use crate::report::Report;
use crate::shared::say;
use std::io::BufRead;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

const PROGRESS_INTERVAL: Duration = Duration::from_millis(250);

/// The end of the work: its deadline, or standard input closed before that.
#[derive(Debug)]
pub(crate) struct Stop {
    deadline: Instant,
    closed: Arc<AtomicBool>,
    next_progress: Instant,
}

impl Stop {
    /// Says `ready` and waits for the parent's line. The work then lasts `seconds`.
    pub(crate) fn when_told(seconds: u32) -> Stop {
        say::line("ready");
        let mut line = String::new();
        let told = std::io::stdin().lock().read_line(&mut line).is_ok_and(|bytes| bytes > 0);
        let closed = Arc::new(AtomicBool::new(!told));
        let flag = closed.clone();
        std::thread::spawn(move || {
            let _ = std::io::copy(&mut std::io::stdin().lock(), &mut std::io::sink());
            flag.store(true, Ordering::Relaxed);
        });
        let now = Instant::now();
        let deadline = now + Duration::from_secs(seconds.into());
        Stop { deadline, closed, next_progress: now + PROGRESS_INTERVAL }
    }

    /// Whether to stop; from time to time reports progress to the parent.
    pub(crate) fn reached(&mut self, report: &Report) -> bool {
        let now = Instant::now();
        if now >= self.next_progress {
            self.next_progress = now + PROGRESS_INTERVAL;
            say::line(&format!("progress {}", report.requests));
        }
        now >= self.deadline || self.closed.load(Ordering::Relaxed)
    }
}

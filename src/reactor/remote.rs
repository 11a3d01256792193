//! What reaches a reactor from other threads.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, Sender};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::metrics::Metrics;
use crate::net::Wake;

/// A handle to a reactor for other threads: [`Reactor::remote`](super::Reactor::remote). Clones refer to the same reactor.
#[derive(Clone)]
pub struct Remote {
    shared: Arc<RemoteShared>,
    wake: Arc<dyn Wake>,
}

#[derive(Default)]
struct RemoteShared {
    stop: AtomicBool,
    metrics_wanted: Mutex<Vec<Sender<Metrics>>>,
}

impl RemoteShared {
    fn wanted(&self) -> MutexGuard<'_, Vec<Sender<Metrics>>> {
        self.metrics_wanted.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Remote {
    pub(super) fn new(wake: Arc<dyn Wake>) -> Remote {
        Remote { shared: Arc::default(), wake }
    }

    pub(super) fn is_stopped(&self) -> bool {
        self.shared.stop.load(Ordering::Acquire)
    }

    /// Gives the counters to whoever wants them.
    pub(super) fn answer(&self, metrics: &Metrics) {
        for answer in self.shared.wanted().drain(..) {
            // Whoever asked may have given up.
            let _ = answer.send(metrics.clone());
        }
    }

    /// Makes the reactor's current or next wait return immediately.
    pub fn wake(&self) {
        self.wake.wake();
    }

    /// Makes [`Reactor::run`](super::Reactor::run) return after the current turn.
    pub fn stop(&self) {
        self.shared.stop.store(true, Ordering::Release);
        self.wake.wake();
    }

    /// The reactor's counters as of its next turn; `None` if it does not turn within `patience`, or does not exist any more.
    pub fn metrics(&self, patience: Duration) -> Option<Metrics> {
        let (answer, answered) = mpsc::channel();
        self.shared.wanted().push(answer);
        self.wake.wake();
        answered.recv_timeout(patience).ok()
    }
}

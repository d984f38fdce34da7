//! Ctrl-C and termination, seen by the lab's main thread between its steps.

use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use tokio::signal::unix::{SignalKind, signal};

use super::error::LabError;

/// Set once, by SIGINT, SIGTERM or SIGHUP.
#[derive(Clone, Default)]
pub(super) struct Interrupt(Arc<(Mutex<bool>, Condvar)>);

impl Interrupt {
    /// Takes the signals over from now on.
    pub(super) fn install() -> Result<Interrupt, LabError> {
        let interrupt = Interrupt::default();
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(LabError::io("cannot start the signal thread"))?;
        let mut signals = Vec::new();
        {
            let _context = runtime.enter();
            for kind in [
                SignalKind::interrupt(),
                SignalKind::terminate(),
                SignalKind::hangup(),
            ] {
                signals.push(signal(kind).map_err(LabError::io("cannot take a signal over"))?);
            }
        }
        let raised = interrupt.clone();
        thread::spawn(move || {
            runtime.block_on(async {
                let [a, b, c] = &mut signals[..] else { return };
                tokio::select! { _ = a.recv() => {}, _ = b.recv() => {}, _ = c.recv() => {} }
            });
            raised.raise();
            // The runtime stays, so that a second Ctrl-C does not cut the cleaning up short.
            runtime.block_on(std::future::pending::<()>());
        });
        Ok(interrupt)
    }

    fn raise(&self) {
        let (flag, changed) = &*self.0;
        *flag.lock().unwrap_or_else(PoisonError::into_inner) = true;
        changed.notify_all();
    }

    /// Waits for that long, or until a signal; true if there was one.
    pub(super) fn wait(&self, time: Duration) -> bool {
        let (flag, changed) = &*self.0;
        let raised = flag.lock().unwrap_or_else(PoisonError::into_inner);
        let (raised, _) = changed
            .wait_timeout_while(raised, time, |raised| !*raised)
            .unwrap_or_else(PoisonError::into_inner);
        *raised
    }

    /// An error if a signal came.
    pub(super) fn check(&self) -> Result<(), LabError> {
        if self.wait(Duration::ZERO) {
            return Err(LabError::Interrupted);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_raised_interrupt_ends_the_wait() {
        let interrupt = Interrupt::default();
        assert!(interrupt.check().is_ok());
        interrupt.raise();
        assert!(interrupt.wait(Duration::from_secs(60)));
        assert!(interrupt.check().is_err());
    }
}

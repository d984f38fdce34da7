//! The thread beside the gateway, and the signals that end a share.

use std::io;
use std::sync::Arc;
use std::thread::JoinHandle;

use gate64_dns64::Synthesize;
use tokio::runtime::Runtime;
use tokio::signal::unix::{Signal, SignalKind, signal};

use super::Common;
use super::attend::Attending;
use crate::config::{Config, ShareSettings};
use crate::exit::Failure;

/// Why it has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// A signal, or the gateway's end.
    Stopped,
    /// The upstream's IPv6 is another: the network has to be chosen anew.
    ChooseAnew,
}

/// The thread. At its end it hands back what hears the signals.
pub struct Attendant {
    thread: JoinHandle<(Result<Ended, Failure>, Listening)>,
}

/// A runtime that has the signals already: taken before the host is changed, so that none ends the
/// process before it has put everything back.
pub struct Listening {
    runtime: Runtime,
    signals: Signals,
}

impl Listening {
    /// From now on signals wait to be heard.
    pub fn begin() -> Result<Listening, Failure> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(failed("start a thread"))?;
        let signals = {
            let _context = runtime.enter();
            Signals::listen().map_err(failed("wait for signals"))?
        };
        Ok(Listening { runtime, signals })
    }
}

impl Attendant {
    /// Starts it; from then on signals end the share in good order.
    pub fn start(
        listening: Listening,
        config: &Config,
        settings: &ShareSettings,
        common: Arc<Common>,
    ) -> Result<Attendant, Failure> {
        let option_108 = settings.dhcpv4_option_108;
        let synthesize = config
            .dns64
            .as_ref()
            .map_or(Synthesize::Missing, |dns64| dns64.synthesize);
        let thread = std::thread::Builder::new()
            .name("share".to_owned())
            .spawn(move || {
                let mut listening = listening;
                let Listening { runtime, signals } = &mut listening;
                let stop = common.stop.clone();
                let done = runtime.block_on(async {
                    let mut attending = Attending::begin(common, option_108, synthesize).await?;
                    let done = attending.run(signals).await;
                    attending.leave().await;
                    done
                });
                stop.send_replace(true);
                (done, listening)
            })
            .map_err(failed("start a thread"))?;
        Ok(Attendant { thread })
    }

    /// Waits for its end.
    ///
    /// # Errors
    /// What kept it from going on.
    pub fn join(self) -> Result<(Ended, Listening), Failure> {
        let bug = |_| Failure::Failed("the advertising thread panicked".to_owned());
        let (done, listening) = self.thread.join().map_err(bug)?;
        done.map(|ended| (ended, listening))
    }
}

pub fn failed(what: &'static str) -> impl FnOnce(io::Error) -> Failure {
    move |error| Failure::Failed(format!("cannot {what}: {error}"))
}

/// What ends a share.
pub struct Signals([Signal; 3]);

impl Signals {
    fn listen() -> io::Result<Signals> {
        Ok(Signals([
            signal(SignalKind::interrupt())?,
            signal(SignalKind::terminate())?,
            signal(SignalKind::hangup())?,
        ]))
    }

    pub async fn any(&mut self) {
        let [interrupt, terminate, hangup] = &mut self.0;
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
            _ = hangup.recv() => {}
        }
    }
}

//! The signals that reach a service, and what each does. Those that tell of a fault in the process itself, such as SIGSEGV,
//! and those that no process can catch are left as they are; so are those that suspend and continue it.

use std::io;

use libc::c_int;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::mpsc;

/// What a signal does to the node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    /// The node finishes what is under way and ends. A second one ends it at once.
    End,
    /// The node reads its tokens and certificates anew.
    Reload,
    /// Nothing. A write that SIGXFSZ or SIGPIPE is sent for fails with an error, which its caller is told.
    Nothing,
}

/// Signals whose default would end the process without its shutdown.
pub const SIGNALS: [(c_int, Effect); 15] = [
    (libc::SIGINT, Effect::End),
    (libc::SIGTERM, Effect::End),
    (libc::SIGQUIT, Effect::End),
    // The power fails; the limit of processor time is reached.
    (libc::SIGPWR, Effect::End),
    (libc::SIGXCPU, Effect::End),
    // Also sent when the terminal hangs up.
    (libc::SIGHUP, Effect::Reload),
    (libc::SIGPIPE, Effect::Nothing),
    (libc::SIGXFSZ, Effect::Nothing),
    (libc::SIGALRM, Effect::Nothing),
    (libc::SIGVTALRM, Effect::Nothing),
    (libc::SIGPROF, Effect::Nothing),
    (libc::SIGUSR1, Effect::Nothing),
    (libc::SIGUSR2, Effect::Nothing),
    (libc::SIGIO, Effect::Nothing),
    (libc::SIGSTKFLT, Effect::Nothing),
];

/// Installs handlers for the signals that do nothing. A handler, unlike an ignored signal, is not inherited by the processes
/// that this one starts.
pub fn disregard() -> io::Result<()> {
    let named = SIGNALS.iter().filter(|(_, effect)| *effect == Effect::Nothing).map(|(number, _)| *number);
    for number in named.chain(libc::SIGRTMIN()..=libc::SIGRTMAX()) {
        // The handler stays when the stream is dropped.
        drop(signal(SignalKind::from_raw(number))?);
    }
    Ok(())
}

/// The signals that have an effect, as they come.
pub struct Signals(mpsc::Receiver<Effect>);

/// Signals that wait to be acted on; the system itself keeps one of each kind.
const WAITING_MAX: usize = SIGNALS.len();

impl Signals {
    /// Installs the handlers. From then on these signals do not end the process by themselves.
    pub fn listen() -> io::Result<Self> {
        let (sender, receiver) = mpsc::channel(WAITING_MAX);
        for (number, effect) in SIGNALS.into_iter().filter(|(_, effect)| *effect != Effect::Nothing) {
            tokio::spawn(pass_on(signal(SignalKind::from_raw(number))?, effect, sender.clone()));
        }
        Ok(Self(receiver))
    }

    pub async fn next(&mut self) -> Option<Effect> {
        self.0.recv().await
    }
}

async fn pass_on(mut signal: Signal, effect: Effect, to: mpsc::Sender<Effect>) {
    while signal.recv().await.is_some() && to.send(effect).await.is_ok() {}
}

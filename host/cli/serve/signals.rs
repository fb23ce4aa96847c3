//! Signals of a service, and their effects. Signals of a fault in the process itself, such as
//! SIGSEGV, keep their default, as do those that no process can catch, and those that suspend and
//! continue it.

use std::io;

use libc::c_int;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::mpsc;

/// Effect of a signal on the node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SignalEffect {
    /// Graceful shutdown. A second such signal ends the node at once.
    End,
    /// Reloads the tokens and the certificate.
    Reload,
    /// Nothing. A write that raises SIGXFSZ or SIGPIPE then fails with an error, which its caller
    /// gets.
    Nothing,
}

/// Signals whose default would end the process without a graceful shutdown.
pub const SIGNALS: [(c_int, SignalEffect); 15] = [
    (libc::SIGINT, SignalEffect::End),
    (libc::SIGTERM, SignalEffect::End),
    (libc::SIGQUIT, SignalEffect::End),
    // Power failure; limit of processor time.
    (libc::SIGPWR, SignalEffect::End),
    (libc::SIGXCPU, SignalEffect::End),
    // Also sent when the terminal hangs up.
    (libc::SIGHUP, SignalEffect::Reload),
    (libc::SIGPIPE, SignalEffect::Nothing),
    (libc::SIGXFSZ, SignalEffect::Nothing),
    (libc::SIGALRM, SignalEffect::Nothing),
    (libc::SIGVTALRM, SignalEffect::Nothing),
    (libc::SIGPROF, SignalEffect::Nothing),
    (libc::SIGUSR1, SignalEffect::Nothing),
    (libc::SIGUSR2, SignalEffect::Nothing),
    (libc::SIGIO, SignalEffect::Nothing),
    (libc::SIGSTKFLT, SignalEffect::Nothing),
];

/// Installs handlers for the signals without effect. Unlike an ignored signal, a handler is not
/// inherited by child processes.
pub fn disregard() -> io::Result<()> {
    let named = SIGNALS.iter().filter(|(_, effect)| *effect == SignalEffect::Nothing).map(|(number, _)| *number);
    for number in named.chain(libc::SIGRTMIN()..=libc::SIGRTMAX()) {
        // The handler stays when the stream is dropped.
        drop(signal(SignalKind::from_raw(number))?);
    }
    Ok(())
}

/// The signals with an effect, in order of arrival.
pub struct Signals(mpsc::Receiver<SignalEffect>);

/// Capacity of the channel; the system itself queues one signal of each kind.
const WAITING_MAX: usize = SIGNALS.len();

impl Signals {
    /// Installs the handlers. After that, these signals do not end the process by themselves.
    pub fn listen() -> io::Result<Self> {
        let (sender, receiver) = mpsc::channel(WAITING_MAX);
        for (number, effect) in SIGNALS.into_iter().filter(|(_, effect)| *effect != SignalEffect::Nothing) {
            tokio::spawn(pass_on(signal(SignalKind::from_raw(number))?, effect, sender.clone()));
        }
        Ok(Self(receiver))
    }

    pub async fn next(&mut self) -> Option<SignalEffect> {
        self.0.recv().await
    }
}

async fn pass_on(mut signal: Signal, effect: SignalEffect, to: mpsc::Sender<SignalEffect>) {
    while signal.recv().await.is_some() && to.send(effect).await.is_ok() {}
}

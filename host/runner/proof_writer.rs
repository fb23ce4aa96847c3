//! End of a run: its proof is signed, then made durable, then sent to the caller, in this order.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::oneshot;

use super::answer::{CacheSource, RunAnswer, RunError, UnsignedResult};
use super::single_flight::Leader;
use super::{Name, RunStep, RunnerCore};
use crate::store::StoreError;

/// The pending reply to one caller and to its followers.
pub struct PendingReply {
    pub core: Arc<RunnerCore>,
    pub lead: Leader<Name, RunAnswer>,
    pub reply: oneshot::Sender<RunStep>,
}

impl PendingReply {
    pub fn fulfil(self, result: Result<RunAnswer, RunError>) {
        let Self { core, lead, reply } = self;
        if let Ok(answer) = &result {
            core.results.insert(lead.key().clone(), answer.finished.clone());
            lead.complete(answer.clone());
            core.tally.count(answer.source);
        }
        // Drop the runner before the reply: a caller with the last answer may close the runner and
        // open its store again.
        drop(core);
        // Ignored: the caller may have left.
        let _ = reply.send(RunStep::Done(result));
    }

    /// Signs a new proof, makes it durable, then sends it. If there already is a proof, the new one
    /// must make the same claim.
    pub fn keep(self, ended: UnsignedResult, known: Option<RunAnswer>) {
        if known.as_ref().is_some_and(|known| *known.finished.claim() != ended.claim) {
            let (_, id) = self.lead.key().clone();
            return self.fulfil(Err(RunError::NotReproduced(id)));
        }
        let signed = ended.sign(&self.core.signer.key());
        let finished = match signed {
            Ok(finished) => Arc::new(finished),
            Err(error) => return self.fulfil(Err(error.into())),
        };
        let answer = RunAnswer { finished, source: CacheSource::Run };
        if self.core.store.is_none() || known.is_some() {
            return self.fulfil(Ok(answer));
        }
        let keeping = self.core.keeping.clone();
        keeping.add(self, answer);
    }
}

/// Group commit of new proofs. While one thread writes a batch, further answers collect, and the
/// same thread then writes them together. One thread for each answer would wake up only to wait.
/// The number of answers is bounded by the number of active requests.
#[derive(Default)]
pub struct ProofWriter(Mutex<ProofBatch>);

#[derive(Default)]
struct ProofBatch {
    answers: Vec<(PendingReply, RunAnswer)>,
    /// Whether a writer thread is active, which will take these answers too.
    is_kept: bool,
}

impl ProofWriter {
    fn add(self: Arc<Self>, duty: PendingReply, answer: RunAnswer) {
        let mut gathered = self.gathered();
        gathered.answers.push((duty, answer));
        if !std::mem::replace(&mut gathered.is_kept, true) {
            drop(gathered);
            let shift = WriterGuard { keeping: self, is_over: false };
            drop(tokio::task::spawn_blocking(move || shift.work()));
        }
    }

    fn gathered(&self) -> MutexGuard<'_, ProofBatch> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Guard of the writer thread, which runs until no answers are left.
struct WriterGuard {
    keeping: Arc<ProofWriter>,
    is_over: bool,
}

impl WriterGuard {
    fn work(mut self) {
        loop {
            let answers = {
                let mut gathered = self.keeping.gathered();
                gathered.is_kept = !gathered.answers.is_empty();
                self.is_over = !gathered.is_kept;
                std::mem::take(&mut gathered.answers)
            };
            if self.is_over {
                return;
            }
            let kept = keep(&answers).map_err(Arc::new);
            for (duty, answer) in answers {
                let kept = kept.clone().map_err(|error| RunError::Store(StoreError::Shared(error)));
                duty.fulfil(kept.map(|()| answer));
            }
        }
    }
}

impl Drop for WriterGuard {
    /// Reports the pending answers as lost, if the writer never started because the runtime is
    /// shutting down, or if it panicked.
    fn drop(&mut self) {
        if !self.is_over {
            let lost = std::mem::take(&mut *self.keeping.gathered());
            drop(lost);
        }
    }
}

/// Makes the proofs durable. All answers must belong to one runner.
fn keep(answers: &[(PendingReply, RunAnswer)]) -> Result<(), StoreError> {
    let proofs: Vec<_> = answers.iter().map(|(duty, answer)| (&duty.lead.key().0, &answer.finished.proof)).collect();
    match answers.first().and_then(|(duty, _)| duty.core.store.as_ref()) {
        Some(store) => store.keep(&proofs),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_no_thread_will_keep_is_let_go_and_the_next_is_kept_again() {
        let keeping = Arc::<ProofWriter>::default();
        keeping.gathered().is_kept = true;
        drop(WriterGuard { keeping: keeping.clone(), is_over: false });
        assert!(!keeping.gathered().is_kept, "the next answer has a thread again");
        keeping.gathered().is_kept = true;
        WriterGuard { keeping: keeping.clone(), is_over: false }.work();
        assert!(!keeping.gathered().is_kept);
        keeping.gathered().is_kept = true;
        drop(WriterGuard { keeping: keeping.clone(), is_over: true });
        assert!(keeping.gathered().is_kept, "a shift that is over says nothing of the one after it");
    }
}

//! End of a run: its proof is signed, then made durable, then sent to the caller, in this order.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::oneshot;

use super::answer::{Answer, Ended, RunError, Source};
use super::flights::Lead;
use super::{Core, Name, Served};
use crate::store::StoreError;

/// The pending reply to one caller and to its followers.
pub struct Duty {
    pub core: Arc<Core>,
    pub lead: Lead<Name, Answer>,
    pub reply: oneshot::Sender<Served>,
}

impl Duty {
    pub fn fulfil(self, result: Result<Answer, RunError>) {
        let Self { core, lead, reply } = self;
        if let Ok(answer) = &result {
            core.results.insert(lead.key().clone(), answer.finished.clone());
            lead.land(answer.clone());
            core.tally.count(answer.source);
        }
        // Drop the runner before the reply: a caller with the last answer may close the runner and
        // open its store again.
        drop(core);
        // Ignored: the caller may have left.
        let _ = reply.send(Served::Done(result));
    }

    /// Signs a new proof, makes it durable, then sends it. If there already is a proof, the new one
    /// must make the same claim.
    pub fn keep(self, ended: Ended, known: Option<Answer>) {
        if known.as_ref().is_some_and(|known| *known.finished.claim() != ended.claim) {
            let (_, id) = self.lead.key().clone();
            return self.fulfil(Err(RunError::NotReproduced(id)));
        }
        let signed = ended.sign(&self.core.signer.key());
        let finished = match signed {
            Ok(finished) => Arc::new(finished),
            Err(error) => return self.fulfil(Err(error.into())),
        };
        let answer = Answer { finished, source: Source::Run };
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
pub struct Keeping(Mutex<Gathered>);

#[derive(Default)]
struct Gathered {
    answers: Vec<(Duty, Answer)>,
    /// Whether a writer thread is active, which will take these answers too.
    is_kept: bool,
}

impl Keeping {
    fn add(self: Arc<Self>, duty: Duty, answer: Answer) {
        let mut gathered = self.gathered();
        gathered.answers.push((duty, answer));
        if !std::mem::replace(&mut gathered.is_kept, true) {
            drop(gathered);
            let shift = Shift { keeping: self, is_over: false };
            drop(tokio::task::spawn_blocking(move || shift.work()));
        }
    }

    fn gathered(&self) -> MutexGuard<'_, Gathered> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Guard of the writer thread, which runs until no answers are left.
struct Shift {
    keeping: Arc<Keeping>,
    is_over: bool,
}

impl Shift {
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

impl Drop for Shift {
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
fn keep(answers: &[(Duty, Answer)]) -> Result<(), StoreError> {
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
        let keeping = Arc::<Keeping>::default();
        keeping.gathered().is_kept = true;
        drop(Shift { keeping: keeping.clone(), is_over: false });
        assert!(!keeping.gathered().is_kept, "the next answer has a thread again");
        keeping.gathered().is_kept = true;
        Shift { keeping: keeping.clone(), is_over: false }.work();
        assert!(!keeping.gathered().is_kept);
        keeping.gathered().is_kept = true;
        drop(Shift { keeping: keeping.clone(), is_over: true });
        assert!(keeping.gathered().is_kept, "a shift that is over says nothing of the one after it");
    }
}

//! Upload of a slice: its bytes are staged as they arrive, and the task is reported as accepted
//! when everything is on disk.

use std::sync::Arc;

use super::content::{self, ASSETS, BlobWriter, SLICE};
use super::task::Task;
use super::{TaskStore, WaitingTask};
use crate::slice::Tenant;
use crate::store::StoreError;
use crate::store::database::lock;
use crate::store::retention::Amount;
use crate::workload::Asset;

/// Reason why a slice is not accepted. Nothing of it is stored then.
#[derive(Debug, thiserror::Error)]
pub enum AcceptError {
    #[error(
        "{entries} slices with {bytes} bytes have been accepted and wait, and there is room for no more of yours; wait until \
         some have ended, or have this node's owner raise `queue.entries_max` or `queue.bytes_max` in config.toml"
    )]
    Full { entries: u64, bytes: u64 },
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// An upload in progress. Dropping it discards everything that was staged.
pub struct StagedTask {
    reserved: Reserved,
    slice: BlobWriter,
}

impl TaskStore {
    /// Starts an upload of a slice in `scope`.
    pub fn begin(self: &Arc<Self>, scope: &Tenant) -> Result<StagedTask, AcceptError> {
        let mut reserved = Reserved { store: self.clone(), scope: scope.clone(), taken: Amount::default() };
        reserved.take(Amount::entry())?;
        Ok(StagedTask { reserved, slice: BlobWriter::default() })
    }
}

impl StagedTask {
    /// Appends bytes to the slice. Writes to disk.
    pub fn write(&mut self, bytes: &[u8]) -> Result<(), AcceptError> {
        self.reserved.take(Amount::bytes(bytes.len() as u64))?;
        Ok(self.slice.write(&self.reserved.store.files, bytes)?)
    }

    /// Returns an error if the quota has less than `bytes` left.
    pub fn check_room(&self, bytes: u64) -> Result<(), AcceptError> {
        let mut probe =
            Reserved { taken: Amount::default(), scope: self.scope().clone(), store: self.reserved.store.clone() };
        probe.take(Amount::bytes(bytes))
    }

    pub const fn scope(&self) -> &Tenant {
        &self.reserved.scope
    }

    /// Returns the number of bytes written so far.
    pub const fn bytes(&self) -> u64 {
        self.slice.bytes()
    }

    /// Returns when the task and all its input are on disk. The task gets the scope of
    /// [`TaskStore::begin`].
    pub fn finish(self, task: &Task, args: &[u8], assets: &[Asset]) -> Result<WaitingTask, AcceptError> {
        let Self { mut reserved, slice } = self;
        let store = reserved.store.clone();
        let brought = content::brought(args, assets);
        reserved.take(Amount::bytes(brought.iter().map(|piece| piece.len() as u64).sum()))?;
        let task = Task { scope: reserved.scope.clone(), ..task.clone() };
        let keep = || {
            let mut writer = BlobWriter::default();
            brought.iter().try_for_each(|piece| writer.write(&store.files, piece))?;
            let directory = store.files_directory();
            let brought = writer.finish(&directory, &task.id, ASSETS)?;
            let slice = slice.finish(&directory, &task.id, SLICE)?;
            store.accept(&task, brought, slice)
        };
        let number = keep().inspect_err(|_| store.withdraw(&task.id))?;
        // From here on, the reservation belongs to the task.
        let mut index = lock(&store.index);
        index.unsure.remove(&task.id);
        index.hand_over(&task.scope, std::mem::take(&mut reserved.taken));
        drop(index);
        Ok(WaitingTask { number, scope: task.scope, id: task.id })
    }
}

/// A reservation, released on drop.
struct Reserved {
    store: Arc<TaskStore>,
    scope: Tenant,
    taken: Amount,
}

impl Reserved {
    fn take(&mut self, more: Amount) -> Result<(), AcceptError> {
        self.store.reserve.get().map_or(Ok(()), |reserve| reserve.check(more.bytes))?;
        let mut index = lock(&self.store.index);
        index.take(&self.scope, more).map_err(|_| {
            let Amount { entries, bytes } = index.room.all();
            AcceptError::Full { entries, bytes }
        })?;
        self.taken = self.taken.and(more);
        Ok(())
    }
}

impl Drop for Reserved {
    fn drop(&mut self) {
        let mut index = lock(&self.store.index);
        index.hand_over(&self.scope, self.taken);
        index.room.release(&self.scope, self.taken);
    }
}

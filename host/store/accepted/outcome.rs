//! Ending of a task: the ending and the guest's output are on disk before they are reported.
//! Evictions run when the quota is exceeded.

use super::content::{self, BlobWriter, OUTPUT, StoredBlob, TAKEN_IN};
use super::index::TaskIndex;
use super::record::EndRecord;
use super::task::{TaskId, TaskOutcome, TaskOutput};
use super::{TaskChange, TaskStore, UnflushedChange, record_key};
use crate::slice::Tenant;
use crate::store::StoreError;
use crate::store::database::lock;
use crate::store::record::encode;
use crate::store::retention::{Amount, Evicted, Eviction};

enum TaskEnd {
    Now { scope: Tenant, takes: Amount, order: u64, output_bytes: u64 },
    Before(TaskOutcome),
}

impl TaskStore {
    /// Ends a task and returns its ending when that is on disk. If the task had already ended, its
    /// first ending counts. Deletes its slice, arguments and assets. Stores the guest's output if
    /// `output` contains it and the quota has space for it.
    pub fn finish(&self, id: &TaskId, ending: &TaskOutcome, output: Option<&[u8]>) -> Result<TaskOutcome, StoreError> {
        let damaged = || StoreError::TaskDamaged { id: *id };
        let (_, known) = self.record(id)?.ok_or_else(damaged)?;
        let outputs_bytes_max = self.quota.outputs_bytes_max;
        let kept = match (ending, output) {
            (TaskOutcome::Done { .. }, Some(bytes))
                if known.ended.is_none() && bytes.len() as u64 <= outputs_bytes_max =>
            {
                let mut writer = BlobWriter::default();
                writer.write(&self.files, bytes)?;
                Some(writer.finish(&self.files_directory(), id, OUTPUT)?)
            }
            _ => None,
        };
        let ends = |index: &TaskIndex, change: &mut TaskChange| {
            let number = *index.numbers.get(id).ok_or_else(damaged)?;
            let mut record = self.record_at(number)?.ok_or_else(damaged)?;
            if let Some(ended) = &record.ended {
                return Ok(TaskEnd::Before(ended.ending().ok_or_else(damaged)?));
            }
            let (scope, takes, order) = (record.task().ok_or_else(damaged)?.scope, record.takes(), change.tally.ended);
            change.remove_pieces(number, &record);
            record.ended = Some(EndRecord::new(order, ending));
            let mut output_bytes = 0;
            if let Some((part, held)) = &kept {
                record.set_output(*part);
                change.insert_pieces(OUTPUT, number, *part, held);
                output_bytes = part.kept_bytes();
            }
            change.batch.insert(record_key(number), encode(&record));
            change.tally.ended += 1;
            change.tally.waiting = change.tally.waiting.saturating_sub(1);
            change.tally.finished += 1;
            Ok(TaskEnd::Now { scope, takes, order, output_bytes })
        };
        let (ended, mut last) = self.apply(ends, |index, ended| {
            let TaskEnd::Now { scope, takes, order, output_bytes } = ended else { return };
            index.room.release(scope, *takes);
            index.kept.add(scope, *order, *id, *output_bytes);
        })?;
        let gone = self.make_room(&mut last)?;
        self.flush(last)?;
        // If this removal fails, the next open of the store removes the files.
        let _ = content::remove(&self.files_directory(), id, &TAKEN_IN);
        gone.iter().for_each(|id| drop(content::remove(&self.files_directory(), id, &[OUTPUT])));
        Ok(match ended {
            TaskEnd::Before(ending) => ending,
            TaskEnd::Now { .. } => ending.clone(),
        })
    }

    /// Evicts until the quota holds and returns the affected tasks, so that the caller can delete
    /// their output files. Makes one change for each eviction: usually there is none or one. Not
    /// durable until `last`, the number of the last change, is flushed.
    pub(super) fn make_room(&self, last: &mut UnflushedChange) -> Result<Vec<TaskId>, StoreError> {
        let next = |index: &TaskIndex| index.kept.next_victim(self.quota.finished_max, self.quota.outputs_bytes_max);
        let mut gone = Vec::new();
        while next(&lock(&self.index)).is_some() {
            let goes = |index: &TaskIndex, change: &mut TaskChange| {
                // Another thread may have evicted it meanwhile.
                let Some(goes) = next(index) else { return Ok(None) };
                self.let_go(index, change, &goes)?;
                Ok(Some(goes))
            };
            let (went, (number, _)) = self.apply(goes, |index, went| {
                let Some(went) = went else { return };
                index.kept.evict(went);
                if went.what == Evicted::Entry {
                    index.numbers.remove(&went.entry);
                }
            })?;
            last.0 = number;
            gone.extend(went.map(|went| went.entry));
        }
        Ok(gone)
    }

    /// Deletes what an eviction removes. A missing record is no error, so that it cannot prevent
    /// other tasks from ending.
    fn let_go(&self, index: &TaskIndex, change: &mut TaskChange, goes: &Eviction<TaskId>) -> Result<(), StoreError> {
        let number = index.numbers.get(&goes.entry).copied();
        if let Some(number) = number
            && let Some(mut record) = self.record_at(number)?
        {
            if let Some(part) = record.output() {
                part.pieces(OUTPUT, number).for_each(|key| change.batch.remove(key));
                record.set_output(StoredBlob::gone(part.blob()));
            }
            match goes.what {
                Evicted::Bytes => change.batch.insert(record_key(number), encode(&record)),
                Evicted::Entry => change.batch.remove(record_key(number)),
            }
        }
        if goes.what == Evicted::Entry {
            change.tally.finished = change.tally.finished.saturating_sub(1);
        }
        Ok(())
    }

    /// Returns the stored output of a task that is done. Reads the disk.
    /// [`StoreError::OutputDamaged`] means that the stored bytes are damaged or missing.
    pub fn output(&self, id: &TaskId) -> Result<TaskOutput, StoreError> {
        let Some((number, part)) = self.kept_output(id)? else { return Ok(TaskOutput::Gone) };
        match part.output(&self.database, number, &self.files_directory(), id) {
            // The output may have been evicted during the read.
            Err(StoreError::OutputDamaged { .. }) if self.kept_output(id)?.is_none() => Ok(TaskOutput::Gone),
            read => read,
        }
    }

    fn kept_output(&self, id: &TaskId) -> Result<Option<(u64, StoredBlob)>, StoreError> {
        let record = self.record(id)?;
        Ok(record.and_then(|(number, record)| Some((number, record.output().filter(|part| !part.is_gone())?))))
    }

    /// Returns the size of all stored outputs, in bytes.
    pub fn output_bytes(&self) -> u64 {
        lock(&self.index).kept.all().bytes
    }
}

//! What was credited goes to the archive while the tries go on.

use std::sync::Arc;

use tokio::task::JoinHandle;

use super::super::{Courier, CourierError};
use crate::store::ARCHIVED_AT_ONCE;

/// More acknowledgements than that do not wait for the archive: the tries wait for it.
const UNARCHIVED_MAX: u64 = 4 * ARCHIVED_AT_ONCE as u64;

/// A batch on its way to the archive, if there is one.
#[derive(Default)]
pub struct Archiving(Option<JoinHandle<Result<usize, CourierError>>>);

impl Archiving {
    /// Begins the next batch where it is full and the one before has ended.
    pub async fn go_on(&mut self, courier: &Arc<Courier>) -> Result<(), CourierError> {
        let unarchived = courier.store.tally().unarchived;
        let is_behind = unarchived >= UNARCHIVED_MAX;
        if let Some(batch) = self.0.take_if(|batch| is_behind || batch.is_finished()) {
            batch.await.map_err(CourierError::task)??;
        }
        if self.0.is_none() && unarchived >= ARCHIVED_AT_ONCE as u64 {
            let courier = courier.clone();
            self.0 = Some(tokio::task::spawn_blocking(move || Ok(courier.store.archive()?)));
        }
        Ok(())
    }
}

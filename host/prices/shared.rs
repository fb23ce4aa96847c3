//! A price board that threads share, and its file.

use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::commands::{PriceAnswer, PriceRequest, PriceRequestError, execute};
use super::file::{BoardFile, BoardFileError, LoadResult, LoadedBoard, encode};
use super::journal::{JOURNAL_BYTES_MAX, JournalEntry, OfferJournal};
use super::settings::Settings;
use super::{Bands, Lane, ModuleStanding, Offer, PriceBoard};
use crate::digest::Digest;

/// A board that knows whether it has changed since the last save.
pub struct SharedBoard {
    board: Mutex<PriceBoard>,
    file: BoardFile,
    journal: OfferJournal,
    /// Revision in the file. Locked during a save.
    saved: Mutex<u64>,
}

/// Error of an order.
#[derive(Debug, thiserror::Error)]
pub enum ExecuteError {
    #[error(transparent)]
    Order(#[from] PriceRequestError),
    /// The offer may count, but is not on disk.
    #[error(transparent)]
    File(#[from] BoardFileError),
}

impl SharedBoard {
    /// Opens the board at `path` as [`BoardFile::load`] does. No other process may use that file.
    pub fn open(path: PathBuf, settings: &Settings, now_ms: u64) -> (Self, LoadResult) {
        let file = BoardFile::new(path);
        let LoadedBoard { mut board, result } = file.load(settings, now_ms);
        let saved = Mutex::new(board.revision());
        let (journal, since) = OfferJournal::open(file.path());
        for JournalEntry { revision, offer, standing } in since {
            // Entries up to the board's revision were saved with the board.
            if revision > board.revision {
                board.record_of(&offer, standing);
                board.revision = revision;
            }
        }
        (Self { board: Mutex::new(board), file, journal, saved }, result)
    }

    /// Records an offer, which is on disk after the next save of the board.
    pub fn record(&self, offer: &Offer) {
        self.lock().record(offer);
    }

    /// Returns the quartiles of a lane.
    pub fn bands(&self, lane: Lane, now_ms: u64) -> Bands {
        self.lock().bands(lane, &[], now_ms)
    }

    /// Returns the lanes in which offers count.
    pub fn lanes(&self, now_ms: u64) -> Vec<Lane> {
        self.lock().lanes(now_ms)
    }

    /// Executes an order, and returns when its offer, if any, is on disk. `is_stored` says whether
    /// a module is stored here. The order locks the board; the longest order is the history of a
    /// large window.
    pub fn execute(
        &self,
        order: PriceRequest,
        is_stored: impl FnOnce(&Digest) -> bool,
        now_ms: u64,
    ) -> Result<Vec<PriceAnswer>, ExecuteError> {
        if matches!(order, PriceRequest::Offer { .. }) && self.journal.bytes() > JOURNAL_BYTES_MAX {
            self.save_if_changed()?;
        }
        let standing = match &order {
            PriceRequest::Offer { lane: Lane::Module(digest), .. } if is_stored(digest) => ModuleStanding::Stored,
            _ => ModuleStanding::Unknown,
        };
        let (told, revision) = {
            let mut board = self.lock();
            let told = execute(&mut board, order, standing, now_ms)?;
            let Some(PriceAnswer::Recorded(recorded)) = told.first() else { return Ok(told) };
            let entry = JournalEntry { revision: board.revision(), offer: recorded.offer.clone(), standing };
            self.journal.note(&entry);
            (told, entry.revision)
        };
        self.journal.flush(revision)?;
        Ok(told)
    }

    /// Saves the board if it has new offers since the last save, and returns whether it had. Blocks
    /// until the file is on disk; other users of the board do not wait for that.
    pub fn save_if_changed(&self) -> Result<bool, BoardFileError> {
        let mut saved = self.saved.lock().unwrap_or_else(PoisonError::into_inner);
        let (revision, bytes) = {
            let board = self.lock();
            if board.revision() == *saved {
                return Ok(false);
            }
            (board.revision(), encode(&board))
        };
        self.file.save(&bytes)?;
        *saved = revision;
        self.journal.drop_up_to(revision)?;
        Ok(true)
    }

    /// Locks the board, also after a panic: a window that is half changed still holds real offers.
    fn lock(&self) -> MutexGuard<'_, PriceBoard> {
        self.board.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::prices::Price;

    #[test]
    fn what_is_offered_while_the_board_is_saved_is_saved_the_next_time() {
        const ROUNDS: usize = 20;
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("price_board.bin");
        let (board, result) = SharedBoard::open(path.clone(), &Settings::default(), 0);
        assert_eq!(result, LoadResult::Fresh);
        let (price, provider) = (Price::new(5).unwrap(), "local".parse().unwrap());
        let offer = Offer { price, lane: Lane::Inference, provider, time_ms: 7 };
        for round in 1..=ROUNDS {
            board.record(&offer);
            std::thread::scope(|scope| {
                let saving = scope.spawn(|| board.save_if_changed().unwrap());
                // The temporary file appears when the board is encoded and the bytes are being
                // written.
                let is_written = || directory.path().read_dir().unwrap().count() > usize::from(round > 1);
                while !is_written() && !saving.is_finished() {
                    std::thread::yield_now();
                }
                board.record(&offer);
                assert!(saving.join().unwrap());
            });
            board.save_if_changed().unwrap();
            assert!(!board.save_if_changed().unwrap(), "nothing has come since");
            let (loaded, result) = SharedBoard::open(path.clone(), &Settings::default(), 7);
            assert_eq!((result, loaded.bands(Lane::All, 7).samples), (LoadResult::Loaded, 2 * round));
            assert_eq!(loaded.lanes(7), [Lane::All, Lane::Inference]);
        }
    }
}

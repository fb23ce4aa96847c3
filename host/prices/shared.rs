//! One price board for many threads, and its file.

use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::file::{BoardFile, BoardFileError, LoadResult, Loaded, encode};
use super::orders::{PriceAnswer, PriceOrder, PriceOrderError, perform};
use super::settings::Settings;
use super::{Bands, Lane, Offer, PriceBoard};

/// A board that knows whether it has changed since it was saved.
pub struct SharedBoard {
    board: Mutex<PriceBoard>,
    file: BoardFile,
    /// What revision the file holds. Held while another is written there.
    saved: Mutex<u64>,
}

impl SharedBoard {
    /// The board that is kept at `path`, as [`BoardFile::load`] has it. No other process may use that file.
    pub fn open(path: PathBuf, settings: &Settings, now_ms: u64) -> (Self, LoadResult) {
        let file = BoardFile::new(path);
        let Loaded { board, result } = file.load(settings, now_ms);
        let saved = Mutex::new(board.revision());
        (Self { board: Mutex::new(board), file, saved }, result)
    }

    pub fn record(&self, offer: &Offer) {
        self.lock().record(offer);
    }

    /// The quartiles of a lane.
    pub fn bands(&self, lane: Lane, now_ms: u64) -> Bands {
        self.lock().bands(lane, &[], now_ms)
    }

    /// The lanes in which offers count.
    pub fn lanes(&self, now_ms: u64) -> Vec<Lane> {
        self.lock().lanes(now_ms)
    }

    /// Carries an order out. Nobody else has the board for as long as that takes; the longest is the
    /// history of a large window.
    pub fn perform(&self, order: PriceOrder, now_ms: u64) -> Result<Vec<PriceAnswer>, PriceOrderError> {
        perform(&mut self.lock(), order, now_ms)
    }

    /// Writes the board to its file if offers have come since it was last written, and returns whether that was so.
    /// Blocks until it is on disk, and nobody waits for that who only uses the board.
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
        Ok(true)
    }

    /// A window that a panic has left half changed still holds offers that were made.
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
                // The temporary file is there when the board's bytes have been made and are being written.
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

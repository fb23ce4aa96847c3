//! What the node's owner has set for the price board.

use std::path::PathBuf;

use serde::Deserialize;

/// The largest window: some 10 MB of memory a lane, and 40 where each offer is another provider's.
pub const WINDOW_MAX: usize = 100_000;

#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Settings {
    /// How many offers count in a lane: the last ones, from 1 to [`WINDOW_MAX`].
    pub window: u64,
    /// Where the board is kept: below the data directory, or anywhere if it is absolute. Its name ends in `.bin`.
    pub file: PathBuf,
    /// What one provider may hold of a window, in percent of the offers in it, from 1 to 100.
    pub provider_share_percent: u64,
}

impl Settings {
    pub(super) fn window(&self) -> usize {
        usize::try_from(self.window).unwrap_or(WINDOW_MAX).clamp(1, WINDOW_MAX)
    }

    /// Whether the board may be kept there. What is found there and is no board is moved aside, so a slip must not name
    /// another of the node's files.
    pub fn has_fit_file(&self) -> bool {
        self.file.extension().is_some_and(|extension| extension == "bin")
    }
}

impl Default for Settings {
    fn default() -> Self {
        Self { window: 100, file: "price_board.bin".into(), provider_share_percent: 10 }
    }
}

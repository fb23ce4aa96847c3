//! Settings of the price board.

use std::path::PathBuf;

use serde::Deserialize;

/// Largest window: some 10 MB of memory a lane, and 40 MB if each offer is by another provider.
pub const WINDOW_MAX: usize = 100_000;

#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Settings {
    /// Number of offers that count in a lane: the last ones, from 1 to [`WINDOW_MAX`].
    pub window: u64,
    /// Path of the board's file, absolute or relative to the data directory. The name ends in
    /// `.bin`.
    pub file: PathBuf,
    /// Largest share of one provider in a window, in percent of its offers, from 1 to 100.
    pub provider_share_percent: u64,
}

impl Settings {
    pub(super) fn window(&self) -> usize {
        usize::try_from(self.window).unwrap_or(WINDOW_MAX).clamp(1, WINDOW_MAX)
    }

    /// Returns true if the board may be stored at this path. A file there that is not a board is
    /// moved aside, so a mistyped path must not name another file of the node.
    pub fn has_fit_file(&self) -> bool {
        self.file.extension().is_some_and(|extension| extension == "bin")
    }
}

impl Default for Settings {
    fn default() -> Self {
        Self { window: 100, file: "price_board.bin".into(), provider_share_percent: 10 }
    }
}

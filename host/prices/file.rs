//! File of the price board.
//!
//! Format: 8 bytes of magic, a version (u16), the payload's length in bytes (u64), the payload, and
//! the BLAKE3 digest of all that in a domain of its own (32 bytes). Numbers are little-endian. All
//! versions share this frame, so an unknown version can be distinguished from damage. The payload
//! is bincode 1.3 with integers of fixed size: the board's revision, the providers' names, then
//! each lane with the standing of its module and its offers, the oldest first.

use std::collections::HashMap;
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use bincode::Options as _;
use serde::{Deserialize, Serialize};

use super::offer::{Lane, Price, ProviderName};
use super::settings::{Settings, WINDOW_MAX};
use super::window::OfferWindow;
use super::{LaneWindow, MODULE_LANES_MAX, ModuleStanding, OFFERS_MAX, OWN_LANES, PriceBoard};
use crate::digest::Digest;
use crate::private_file;

const MAGIC: [u8; 8] = *b"\x89PRICES\n";
const VERSION: u16 = 2;
const DOMAIN: &str = "compute-host price board";

const HEAD_BYTES: usize = MAGIC.len() + size_of::<u16>() + size_of::<u64>();
const CHECKSUM_BYTES: usize = 32;

const LANES_MAX: usize = OWN_LANES + MODULE_LANES_MAX;

/// Largest payload: each offer by another provider with the longest name, in lanes with the longest
/// names.
const PAYLOAD_BYTES_MAX: usize = {
    let length = size_of::<u64>();
    let offer = size_of::<u64>() + size_of::<u32>() + size_of::<u64>();
    let provider = length + ProviderName::BYTES_MAX;
    let lane = length + 64 + size_of::<u32>() + length;
    length + length + length + LANES_MAX * lane + (OWN_LANES * WINDOW_MAX + OFFERS_MAX) * (offer + provider)
};

/// Largest file of a board. A longer file is not read.
pub const FILE_BYTES_MAX: usize = HEAD_BYTES + PAYLOAD_BYTES_MAX + CHECKSUM_BYTES;

/// Limit on damaged files that are kept aside. The last of the names is reused.
pub const KEPT_ASIDE_MAX: u32 = 8;

/// Path of a board.
pub struct BoardFile {
    path: PathBuf,
}

/// A board, and the result of loading it.
pub struct LoadedBoard {
    pub board: PriceBoard,
    pub result: LoadResult,
}

/// Result of loading a board. All variants but [`LoadResult::Loaded`] come with an empty board.
/// `Display` is the message for the owner.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LoadResult {
    /// There was no file.
    Fresh,
    Loaded,
    /// The file is not a board, or is damaged.
    Damaged {
        path: PathBuf,
        why: String,
        aside: InvalidFilePolicy,
    },
    /// Another version of this program wrote the file.
    ForeignVersion {
        path: PathBuf,
        found: u16,
        aside: InvalidFilePolicy,
    },
    /// The system could not read the file.
    Unreadable {
        path: PathBuf,
        why: String,
        aside: InvalidFilePolicy,
    },
}

/// Treatment of a file that holds no valid board.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum InvalidFilePolicy {
    KeptAs(PathBuf),
    /// The file is still there; the next save replaces it.
    NotMoved {
        why: String,
    },
}

#[derive(Debug, thiserror::Error)]
#[error(
    "cannot save the price board to `{}`: {cause}; make room for it there, or set `prices.file` to another path",
    path.display()
)]
pub struct BoardFileError {
    path: PathBuf,
    cause: io::Error,
}

impl BoardFileError {
    pub(super) fn new(path: &Path, cause: io::Error) -> Self {
        Self { path: path.to_owned(), cause }
    }
}

impl BoardFile {
    pub const fn new(path: PathBuf) -> Self {
        Self { path }
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Loads the saved board, with expired offers removed and these settings applied; an empty
    /// board if that fails. A file that is not a valid board is moved aside.
    pub fn load(&self, settings: &Settings, now_ms: u64) -> LoadedBoard {
        let empty = || PriceBoard::new(settings);
        let path = self.path.clone();
        let found = match read(&path) {
            Ok(Some(bytes)) => decode(&bytes, settings, now_ms),
            Ok(None) => return LoadedBoard { board: empty(), result: LoadResult::Fresh },
            Err(error) => Err(error),
        };
        let result = match found {
            Ok(board) => return LoadedBoard { board, result: LoadResult::Loaded },
            Err(NotABoard::Damaged(why)) => LoadResult::Damaged { path, why, aside: self.move_aside() },
            Err(NotABoard::ForeignVersion(found)) => {
                LoadResult::ForeignVersion { path, found, aside: self.move_aside() }
            }
            Err(NotABoard::Unreadable(why)) => LoadResult::Unreadable { path, why, aside: self.move_aside() },
        };
        LoadedBoard { board: empty(), result }
    }

    /// Writes [`encode`]'s bytes durably and atomically: the file holds either these bytes or the
    /// former ones.
    pub(super) fn save(&self, bytes: &[u8]) -> Result<(), BoardFileError> {
        let directory = self.path.parent().filter(|directory| !directory.as_os_str().is_empty());
        let made = directory.map_or(Ok(()), private_file::make_directory);
        let saved = made.and_then(|()| private_file::replace(&self.path, bytes));
        saved.map_err(|cause| BoardFileError::new(&self.path, cause))
    }

    fn move_aside(&self) -> InvalidFilePolicy {
        let named = |n: u32| self.path.with_extension(format!("damaged-{n}"));
        let is_free = |name: &PathBuf| name.symlink_metadata().is_err();
        let to = (1..KEPT_ASIDE_MAX).map(named).find(is_free).unwrap_or_else(|| named(KEPT_ASIDE_MAX));
        match std::fs::rename(&self.path, &to).and_then(|()| private_file::sync_directory_of(&to)) {
            Ok(()) => InvalidFilePolicy::KeptAs(to),
            Err(error) => InvalidFilePolicy::NotMoved { why: error.to_string() },
        }
    }
}

impl LoadResult {
    /// Returns a stable name for programs.
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Fresh => "fresh",
            Self::Loaded => "loaded",
            Self::Damaged { .. } => "damaged",
            Self::ForeignVersion { .. } => "foreign_version",
            Self::Unreadable { .. } => "unreadable",
        }
    }

    /// All values of [`LoadResult::name`].
    pub const NAMES: [&str; 5] = ["fresh", "loaded", "damaged", "foreign_version", "unreadable"];

    /// Returns true if the owner should be told.
    pub const fn is_loss(&self) -> bool {
        !matches!(self, Self::Fresh | Self::Loaded)
    }
}

impl fmt::Display for LoadResult {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (path, aside) = match self {
            Self::Fresh => return f.write_str("no price board was saved; it starts empty"),
            Self::Loaded => return f.write_str("the price board is as it was saved"),
            Self::Damaged { path, aside, .. }
            | Self::ForeignVersion { path, aside, .. }
            | Self::Unreadable { path, aside, .. } => (path, aside),
        };
        write!(f, "the price board starts empty: `{}` ", path.display())?;
        match self {
            Self::ForeignVersion { found, .. } => {
                write!(f, "has version {found}, which another version of this program has written")?;
            }
            Self::Unreadable { why, .. } => write!(f, "cannot be read ({why})")?,
            Self::Damaged { why, .. } => write!(f, "is damaged: {why}")?,
            Self::Fresh | Self::Loaded => {}
        }
        match aside {
            InvalidFilePolicy::KeptAs(to) => write!(f, "; it is kept as `{}`", to.display()),
            InvalidFilePolicy::NotMoved { why } => {
                write!(f, "; it could not be moved aside ({why}), so move it yourself to keep it")
            }
        }
    }
}

enum NotABoard {
    Damaged(String),
    ForeignVersion(u16),
    Unreadable(String),
}

fn damaged(why: impl Into<String>) -> NotABoard {
    NotABoard::Damaged(why.into())
}

/// Returns `None` if there is no file.
fn read(path: &Path) -> Result<Option<Vec<u8>>, NotABoard> {
    let unreadable = |error: io::Error| NotABoard::Unreadable(error.to_string());
    match std::fs::metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(unreadable(error)),
        Ok(metadata) if !metadata.is_file() => return Err(damaged("it is not a regular file")),
        Ok(metadata) if metadata.len() > FILE_BYTES_MAX as u64 => {
            return Err(damaged(format!(
                "it has {} bytes, and no board has more than {FILE_BYTES_MAX}",
                metadata.len()
            )));
        }
        Ok(_) => {}
    }
    private_file::read_shared(path, FILE_BYTES_MAX as u64).map(Some).map_err(unreadable)
}

#[derive(Serialize, Deserialize)]
struct Payload {
    revision: u64,
    providers: Vec<ProviderName>,
    /// Lanes in ascending order.
    lanes: Vec<(Lane, ModuleStanding, Vec<StoredOffer>)>,
}

/// Price, index of the provider in the list, and time.
type StoredOffer = (Price, u32, u64);

fn options() -> impl bincode::Options {
    bincode::DefaultOptions::new().with_fixint_encoding().with_limit(PAYLOAD_BYTES_MAX as u64).reject_trailing_bytes()
}

/// Encodes a board.
///
/// # Panics
/// If the bytes are longer than [`FILE_BYTES_MAX`]; the bounds of lanes, windows and names exclude
/// that.
pub fn encode(board: &PriceBoard) -> Vec<u8> {
    let mut places: HashMap<&ProviderName, u32> = HashMap::new();
    let mut payload = Payload { revision: board.revision, providers: Vec::new(), lanes: Vec::new() };
    for (lane, LaneWindow { window, standing }) in &board.lanes {
        let stored = window.offers().filter_map(|(price, provider, time_ms)| {
            let place = *places.entry(provider).or_insert_with(|| {
                payload.providers.push(provider.clone());
                // There are no more providers than offers, so the index fits.
                (payload.providers.len() - 1) as u32
            });
            Some((Price::new(price).ok()?, place, time_ms))
        });
        let stored = stored.collect();
        payload.lanes.push((*lane, *standing, stored));
    }
    let payload = options().serialize(&payload).expect("a board is shorter than the limit");
    let length = (payload.len() as u64).to_le_bytes();
    let mut bytes = [&MAGIC[..], &VERSION.to_le_bytes(), &length, &payload].concat();
    bytes.extend_from_slice(Digest::in_domain(DOMAIN, &bytes).as_bytes());
    bytes
}

fn decode(bytes: &[u8], settings: &Settings, now_ms: u64) -> Result<PriceBoard, NotABoard> {
    let rest = bytes.strip_prefix(&MAGIC).ok_or_else(|| damaged("it does not begin as a price board does"))?;
    let (framed, checksum) = bytes.split_last_chunk::<CHECKSUM_BYTES>().ok_or_else(|| damaged("it ends early"))?;
    if Digest::in_domain(DOMAIN, framed).as_bytes() != checksum {
        return Err(damaged("its checksum does not fit its content"));
    }
    let (version, rest) = rest.split_first_chunk().ok_or_else(|| damaged("it ends early"))?;
    let (length, rest) = rest.split_first_chunk().ok_or_else(|| damaged("it ends early"))?;
    let version = u16::from_le_bytes(*version);
    if version != VERSION {
        return Err(NotABoard::ForeignVersion(version));
    }
    let payload = rest.strip_suffix(checksum).ok_or_else(|| damaged("it ends early"))?;
    if u64::from_le_bytes(*length) != payload.len() as u64 {
        return Err(damaged("its length is not what it says"));
    }
    let payload: Payload = options().deserialize(payload).map_err(|error| damaged(error.to_string()))?;
    payload.board(settings, now_ms)
}

impl Payload {
    fn board(self, settings: &Settings, now_ms: u64) -> Result<PriceBoard, NotABoard> {
        let Self { revision, providers, lanes } = self;
        if lanes.len() > LANES_MAX || !lanes.is_sorted_by(|(lane, ..), (next, ..)| lane < next) {
            return Err(damaged("its lanes are not in order, or too many"));
        }
        let mut board = PriceBoard { revision, ..PriceBoard::new(settings) };
        for (lane, standing, stored) in lanes {
            if stored.len() > WINDOW_MAX || !stored.is_sorted_by_key(|(_, _, time_ms)| *time_ms) {
                return Err(damaged(format!("the offers of the lane `{lane}` are not in order, or too many")));
            }
            let named =
                |(price, place, time_ms): &StoredOffer| Some((*price, providers.get(*place as usize)?, *time_ms));
            let offers: Option<Vec<_>> = stored.iter().map(named).collect();
            let offers = offers.ok_or_else(|| damaged(format!("the lane `{lane}` has an offer of nobody's")))?;
            let mut window = OfferWindow::new(board.window, board.share);
            window.restore(offers.into_iter(), now_ms);
            board.lanes.insert(lane, LaneWindow { window, standing });
        }
        board.make_room(board.module_lanes_max(), ModuleStanding::Stored, now_ms);
        Ok(board)
    }
}

#[cfg(test)]
mod tests;

//! Courier: store-and-forward of bundles between nodes, with credit for the carriers.
//!
//! A `Courier` belongs to one node. Its store contains what it has promised; `peers` lists the
//! nodes that it knows. `send` accepts a bundle. A `flush` attempts all pending deliveries:
//! `try_one` makes one attempt for one receipt through a `forward`er, and `backoff` limits the
//! rate. `receive` is the receiving side. `carry` moves bundles between nodes without a network.
//! `orders` are the owner's commands and `answers` the replies, both from the command line and over
//! the running node's socket.

mod settings;
mod peers;
pub mod backoff;
pub mod forward;
mod rewards;
mod attempt;
mod flush;
mod quotas;
mod receive;
mod send;
pub mod events;
mod removable_media;
mod find;
pub mod commands;

use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock, PoisonError, RwLock};
use std::time::{Duration, SystemTime};

use tokio::sync::watch;

pub use self::flush::{Event, FlushMode, Summary};
pub use self::forward::{
    BundleContent, ForwardError, ForwardOutcome, Forwarder, HttpForwarder, HttpSetupError, OutboundBundle,
};
pub use self::peers::{
    ADDRESS_BYTES_MAX, AddedPeer, Address, NotAnAddress, PEERS_MAX, Peer, Peers, PeersError, PeersFile, PeersFileError,
};
use self::quotas::CarrierQuotas;
pub use self::receive::{Admission, DeliveryRefusal, IncomingBundle, RefusalKind};
pub use self::send::{BundleUpload, SendError};
pub use self::settings::Settings;
use crate::key::{KeyName, PublicKey, Signer};
use crate::store::{CourierStore, CourierTally, StoreError};

/// Source of the time, in milliseconds since 1970-01-01 UTC. It is an argument, so that a test can
/// set the time.
pub type Clock = fn() -> u64;

/// Returns the system's time.
pub fn system_clock() -> u64 {
    let since_1970 = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since_1970.as_millis()).unwrap_or(u64::MAX)
}

#[derive(Debug, thiserror::Error)]
pub enum CourierError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Peers(#[from] PeersFileError),
    #[error(transparent)]
    Http(#[from] HttpSetupError),
    #[error("a task of the courier's failed: {0}; if it does again, stop the node and `node compute courier fsck`")]
    Task(String),
}

impl CourierError {
    fn task(error: tokio::task::JoinError) -> Self {
        Self::Task(error.to_string())
    }
}

/// The courier of one node. No other process may have its store open.
pub struct Courier {
    store: CourierStore,
    signer: Arc<Signer>,
    peers_file: PeersFile,
    /// Content of the peers file.
    peers: RwLock<Arc<Peers>>,
    settings: Settings,
    clock: Clock,
    http: OnceLock<Arc<HttpForwarder>>,
    room: CarrierQuotas,
    /// Failures of the store that prevented a bundle from being received or forwarded, in this
    /// process.
    storage_failures: AtomicU64,
    /// Locked during a flush.
    flushing: tokio::sync::Mutex<()>,
    /// Number of callers that wait to flush all pending receipts. A flush of due receipts gives way
    /// to them.
    waiting: watch::Sender<usize>,
    /// Notified when there is new work to flush.
    new_work: watch::Sender<()>,
}

impl Courier {
    /// Opens the courier with its files in `courier/` of the state directory.
    pub fn open(state: &Path, signer: Arc<Signer>, settings: Settings, clock: Clock) -> Result<Self, CourierError> {
        let store = CourierStore::open(&state.join("courier"))?;
        let peers_file = PeersFile::new(state);
        let peers = RwLock::new(Arc::new(peers_file.read()?));
        let room = CarrierQuotas::new(&settings);
        Ok(Self {
            store,
            signer,
            peers_file,
            peers,
            settings,
            clock,
            http: OnceLock::new(),
            room,
            storage_failures: AtomicU64::new(0),
            flushing: tokio::sync::Mutex::new(()),
            waiting: watch::Sender::new(0),
            new_work: watch::Sender::new(()),
        })
    }

    pub fn public_key(&self) -> PublicKey {
        self.signer.public()
    }

    pub const fn settings(&self) -> &Settings {
        &self.settings
    }

    pub fn tally(&self) -> CourierTally {
        self.store.tally()
    }

    pub const fn store(&self) -> &CourierStore {
        &self.store
    }

    pub fn peers(&self) -> Arc<Peers> {
        self.peers.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Changes the list of peers, in the file and in memory.
    pub fn change_peers<T>(
        &self,
        change: impl FnOnce(&mut Peers) -> Result<T, PeersError>,
    ) -> Result<T, PeersFileError> {
        let changed = self.peers_file.change(change)?;
        let peers = Arc::new(self.peers_file.read()?);
        *self.peers.write().unwrap_or_else(PoisonError::into_inner) = peers;
        self.new_work.send_replace(());
        Ok(changed)
    }

    /// Returns the peer for a destination, or the reason why there is none.
    pub fn peer_for(&self, destination: Option<&KeyName>) -> Result<Peer, String> {
        let Some(name) = destination.or(self.settings.destination.as_ref()) else {
            return Err("no default destination is set; name a peer as `destination` under `[courier]` in config.toml, or send with --to".to_owned());
        };
        self.peers().named(name).cloned().ok_or_else(|| {
            format!("no peer has the name `{name}`; add it with `node compute courier peer add {name} KEY ADDRESS`")
        })
    }

    /// Returns the peer as [`Courier::peer_for`] does, if it has an address.
    pub fn peer_over_http(&self, destination: Option<&KeyName>) -> Result<Peer, String> {
        let peer = self.peer_for(destination)?;
        if peer.address.is_some() {
            return Ok(peer);
        }
        let name = &peer.name;
        Err(format!(
            "the peer `{name}` has no address; add one with `node compute courier peer add {name} KEY ADDRESS`, or use `node compute courier export`"
        ))
    }

    /// Returns the forwarder over HTTP. The first call creates it, because that reads the system's
    /// certificates.
    pub fn http(&self) -> Result<Arc<HttpForwarder>, CourierError> {
        if let Some(forwarder) = self.http.get() {
            return Ok(forwarder.clone());
        }
        let forwarder = HttpForwarder::new(Duration::from_millis(self.settings.timeout_ms))?;
        Ok(self.http.get_or_init(|| Arc::new(forwarder)).clone())
    }

    /// Returns a receiver that is notified when there may be new work to flush.
    pub fn new_work(&self) -> watch::Receiver<()> {
        self.new_work.subscribe()
    }

    pub fn now_ms(&self) -> u64 {
        (self.clock)()
    }

    /// Returns a random number for delays that should differ between nodes.
    fn random(&self) -> u64 {
        let mut bytes = [0; 8];
        // If the system has no randomness yet, the time is enough.
        match rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::NONBLOCK) {
            Ok(8) => u64::from_le_bytes(bytes),
            _ => self.now_ms().wrapping_mul(0x9e37_79b9_7f4a_7c15),
        }
    }

    /// Counts a failure of the store that the caller has logged.
    pub fn note_storage_failure(&self) {
        self.storage_failures.fetch_add(1, Ordering::Relaxed);
    }

    /// Returns the number of store failures since this process opened the store.
    pub fn storage_failures(&self) -> u64 {
        self.storage_failures.load(Ordering::Relaxed)
    }

    /// Runs blocking disk work on a thread for blocking tasks.
    async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> Result<T, CourierError> + Send + 'static,
    ) -> Result<T, CourierError> {
        tokio::task::spawn_blocking(work).await.map_err(CourierError::task)?
    }
}

//! `Node`: one data directory and all components that work on it.

use std::fs::{DirBuilder, File, OpenOptions, TryLockError};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use crate::config::{COMMENTED, Config, ConfigError};
use crate::courier::{Courier, CourierError, Peers, PeersFile, system_clock};
use crate::digest::MacKey;
use crate::key::{KeyError, Keyring, Signer};
use crate::modules::{CompiledCode, Modules, StoredModules};
use crate::prices::{LoadResult, SharedBoard};
use crate::private_file::{self, CreatedFile};
use crate::queue::{Queue, Settings};
use crate::runner::{Capacity, WorkloadRunner};
use crate::sandbox::{Compiler, Sandbox, SandboxError};
use crate::store::{CourierStore, FsckReport, ProofStore, Reserve, StoreError};

pub struct Node {
    pub config: Config,
    pub keyring: Keyring,
    pub signer: Arc<Signer>,
    pub runner: WorkloadRunner,
    pub reserve: Reserve,
}

/// Components of a serving node, which holds the lock of the data directory while it is open.
pub struct Services {
    pub node: Node,
    pub courier: Courier,
    pub queue: Arc<Queue>,
    pub prices: SharedBoard,
    /// Result of loading the board's file.
    pub loaded: LoadResult,
    /// An empty directory for temporary files.
    pub spool: PathBuf,
}

/// A node's config and its stored modules, read-only.
pub struct ReadOnlyNode {
    pub config: Config,
    pub stored: StoredModules,
}

/// Messages to the owner while the node opens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum OpenNotice {
    /// Another process holds the data directory; this process waits.
    Waiting { directory: PathBuf },
    /// The config file was empty, as after a first start on a full disk. It was replaced by the
    /// default file.
    ConfigWasEmpty { path: PathBuf },
    /// The proof store was damaged. It was moved to `to`, and a new one was created.
    StoreMovedAside { to: PathBuf },
    /// The price board could not be read, and starts empty.
    PricesLost { result: LoadResult },
}

#[derive(Debug, thiserror::Error)]
pub enum NodeError {
    #[error("cannot use the data directory `{}`: {cause}; choose another with --data-dir", path.display())]
    DataDirectory { path: PathBuf, cause: io::Error },
    /// Like [`Self::DataDirectory`], but without the advice to choose another directory: that would
    /// be another node. The cause names the remedy.
    #[error("cannot use the data directory `{}`: {cause}", path.display())]
    Unfit { path: PathBuf, cause: io::Error },
    #[error(transparent)]
    Config(#[from] ConfigError),
    #[error(transparent)]
    Sandbox(#[from] SandboxError),
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Key(#[from] KeyError),
    #[error(transparent)]
    Courier(#[from] CourierError),
}

impl NodeError {
    fn data_directory(directory: &Path, cause: io::Error) -> Self {
        let path = directory.to_owned();
        if private_file::is_not_private(&cause) || private_file::is_not_a_file(&cause) {
            Self::Unfit { path, cause }
        } else {
            Self::DataDirectory { path, cause }
        }
    }
}

/// Lock of the data directory. While it is held, no other process can open the directory.
pub struct DirectoryLock {
    _file: File,
}

impl Node {
    /// Opens the node in `directory`, and creates the directory if needed. This program starts
    /// itself to compile modules, so it must be `node`. `jobs` overrides the config.
    pub fn open(directory: &Path, jobs: Option<usize>, notify: impl Fn(OpenNotice)) -> Result<Self, NodeError> {
        let config = Config::read(&directory.join("config.toml"))?;
        let capacity = config.capacity(jobs);
        Self::open_locked(DataDirectory::lock(directory, &notify)?, config, capacity, &notify)
    }

    /// [`Node::open`], or `None` while another process holds the directory.
    pub fn try_open(
        directory: &Path,
        jobs: Option<usize>,
        notify: impl Fn(OpenNotice),
    ) -> Result<Option<Self>, NodeError> {
        let config = Config::read(&directory.join("config.toml"))?;
        let Some(files) = DataDirectory::try_lock(directory)? else { return Ok(None) };
        let capacity = config.capacity(jobs);
        Self::open_locked(files, config, capacity, &notify).map(Some)
    }

    /// Reads the config in `directory`; a missing file means the defaults.
    pub fn config(directory: &Path) -> Result<Config, NodeError> {
        Ok(Config::read(&directory.join("config.toml"))?)
    }

    /// Opens the config and the stored modules read-only, also while a node runs.
    pub fn look(directory: &Path) -> Result<ReadOnlyNode, NodeError> {
        let config = Config::read(&directory.join("config.toml"))?;
        let files = DataDirectory::prepare(directory);
        let files = files.map_err(|cause| NodeError::data_directory(directory, cause))?;
        let stored = StoredModules::new(files.state.join("modules"), config.module_quota());
        Ok(ReadOnlyNode { config, stored })
    }

    fn open_locked(
        files: DataDirectory,
        config: Config,
        capacity: Capacity,
        notify: &impl Fn(OpenNotice),
    ) -> Result<Self, NodeError> {
        let DataDirectory { state, cache, key, lock, .. } = files;
        let keyring = Keyring::new(state.clone());
        let signer = signer(&keyring)?;
        let opened = ProofStore::open(&state.join("proofs"), config.store.proofs_max)?;
        if let Some(to) = opened.moved_aside {
            notify(OpenNotice::StoreMovedAside { to });
        }
        let sandbox = Arc::new(Sandbox::new(capacity.guests())?);
        // Path of this very program, which also works if its file was replaced after the start.
        let compiler = Compiler::child("/proc/self/exe", sandbox.settings_digest());
        let reserve = Reserve::new(state.clone(), config.store.reserve_bytes);
        let stored = StoredModules::new(state.join("modules"), config.module_quota()).with_reserve(reserve.clone());
        let code = CompiledCode::new(cache, key, config.modules.code_bytes_max);
        let modules = Modules::new(sandbox.clone(), compiler, config.gate).with_jobs(capacity.jobs);
        let modules = modules.with_store(stored).with_code(code);
        let runner =
            WorkloadRunner::new(sandbox, modules, signer.clone(), Some(opened.store.guarded_by(lock)), capacity);
        Ok(Self { config, keyring, signer, runner, reserve })
    }

    /// Returns the keys of the node in `directory`, and creates the directory if needed.
    pub fn keys(directory: &Path) -> Result<Keyring, NodeError> {
        let files = DataDirectory::prepare(directory);
        let files = files.map_err(|cause| NodeError::data_directory(directory, cause))?;
        Ok(Keyring::new(files.state))
    }

    /// [`Node::keys`], with the lock, for commands that change the node's own key: no other process
    /// may go on signing with a retired key. `None` while another process holds the directory.
    pub fn try_keys(directory: &Path) -> Result<Option<(Keyring, DirectoryLock)>, NodeError> {
        let Some(DataDirectory { state, lock, .. }) = DataDirectory::try_lock(directory)? else { return Ok(None) };
        Ok(Some((Keyring::new(state), DirectoryLock { _file: lock })))
    }

    /// Returns the state directory of the node in `directory`.
    pub fn state(directory: &Path) -> PathBuf {
        directory.join("state")
    }

    /// Opens the courier of the node in `directory`, and creates the directory if needed; `None`
    /// while another process holds it.
    pub fn try_courier(directory: &Path) -> Result<Option<(Courier, DirectoryLock)>, NodeError> {
        let Some(files) = DataDirectory::try_lock(directory)? else { return Ok(None) };
        let config = Config::read(&directory.join("config.toml"))?;
        Self::open_courier(files, &config).map(Some)
    }

    /// Opens all components of a serving node in `directory`, and creates the directory if needed.
    /// Waits until no other process holds it.
    pub fn open_to_serve(directory: &Path, notify: impl Fn(OpenNotice)) -> Result<Services, NodeError> {
        let config = Config::read(&directory.join("config.toml"))?;
        let files = DataDirectory::lock(directory, &notify)?;
        let spool = files.cache.join("spool");
        empty(&spool).map_err(|cause| NodeError::DataDirectory { path: spool.clone(), cause })?;
        let state = files.state.clone();
        let capacity = config.capacity(None).for_several();
        let node = Self::open_locked(files, config, capacity, &notify)?;
        let courier = Courier::open(&state, node.signer.clone(), node.config.courier.clone(), system_clock)?;
        let settings = Settings {
            quota: node.config.queue,
            slice_bytes_max: node.config.serve.slice_bytes_max,
            jobs: capacity.jobs,
            spare_jobs: capacity.spare_jobs,
            clock: system_clock,
        };
        let queue = Queue::open(&state.join("accepted"), node.runner.clone(), settings)?;
        queue.store().keep_reserve(node.reserve.clone());
        courier.store().keep_reserve(&node.reserve);
        // Counts the stored modules now, so that a later request finds the count.
        let _ = node.runner.modules().stored().map(StoredModules::stored);
        let (file, now_ms) = (directory.join(&node.config.prices.file), system_clock());
        let (prices, result) = SharedBoard::open(file, &node.config.prices, now_ms);
        if result.is_loss() {
            notify(OpenNotice::PricesLost { result: result.clone() });
        }
        Ok(Services { node, courier, queue, prices, loaded: result, spool })
    }

    fn open_courier(files: DataDirectory, config: &Config) -> Result<(Courier, DirectoryLock), NodeError> {
        let signer = signer(&Keyring::new(files.state.clone()))?;
        let courier = Courier::open(&files.state, signer, config.courier.clone(), system_clock)?;
        Ok((courier, DirectoryLock { _file: files.lock }))
    }

    /// Opens the price board of the node in `directory`, and creates the directory if needed. Also
    /// returns the result of loading the board; `None` while another process holds the directory.
    pub fn try_prices(directory: &Path) -> Result<Option<(SharedBoard, LoadResult, DirectoryLock)>, NodeError> {
        let Some(files) = DataDirectory::try_lock(directory)? else { return Ok(None) };
        let settings = Config::read(&directory.join("config.toml"))?.prices;
        let (board, result) = SharedBoard::open(directory.join(&settings.file), &settings, system_clock());
        Ok(Some((board, result, DirectoryLock { _file: files.lock })))
    }

    /// Checks the courier's store, and rebuilds it where it is damaged; `None` while another
    /// process holds the directory.
    pub fn try_fsck_courier(directory: &Path) -> Result<Option<FsckReport>, NodeError> {
        let Some(files) = DataDirectory::try_lock(directory)? else { return Ok(None) };
        Ok(Some(CourierStore::fsck(&files.state.join("courier"))?))
    }

    /// Returns the peers in `directory`, and creates nothing.
    pub fn known_peers(directory: &Path) -> Result<Peers, NodeError> {
        let read = PeersFile::new(&Self::state(directory)).read();
        Ok(read.map_err(CourierError::from)?)
    }

    /// Returns the keys in `directory`, and creates nothing.
    pub fn known_keys(directory: &Path) -> Keyring {
        Keyring::new(directory.join("state"))
    }
}

fn signer(keyring: &Keyring) -> Result<Arc<Signer>, KeyError> {
    let (key, _) = keyring.node_key(SystemTime::now())?;
    Ok(Arc::new(Signer::new(key)))
}

/// The directories and files that every node has.
struct DataDirectory {
    state: PathBuf,
    cache: PathBuf,
    key: MacKey,
    lock: File,
    config_was_empty: bool,
}

/// Name of the owner's socket in the state directory.
pub const SOCKET: &str = "node.sock";

/// Depth of nested directories in the state directory: `accepted/queue/blobs`.
const STATE_DEPTH: usize = 3;

/// Directories of stores that may hold millions of files. Each file is checked when it is opened.
const CHECKED_WHEN_OPENED: [&str; 4] = ["bundles", "received", "archive", "files"];

impl DataDirectory {
    /// Waits until no other process holds the directory.
    fn lock(directory: &Path, notify: &impl Fn(OpenNotice)) -> Result<Self, NodeError> {
        let failed = |cause| NodeError::data_directory(directory, cause);
        let files = Self::prepare(directory).map_err(failed)?;
        if files.config_was_empty {
            notify(OpenNotice::ConfigWasEmpty { path: directory.join("config.toml") });
        }
        wait_for(&files.lock, || notify(OpenNotice::Waiting { directory: directory.to_owned() })).map_err(failed)?;
        files.check().map_err(failed)?;
        Ok(files)
    }

    /// Returns `None` while another process holds the directory.
    fn try_lock(directory: &Path) -> Result<Option<Self>, NodeError> {
        let failed = |cause| NodeError::data_directory(directory, cause);
        let files = Self::prepare(directory).map_err(failed)?;
        match files.lock.try_lock() {
            Ok(()) => {
                files.check().map_err(failed)?;
                Ok(Some(files))
            }
            Err(TryLockError::WouldBlock) => Ok(None),
            Err(TryLockError::Error(cause)) => Err(failed(cause)),
        }
    }

    fn prepare(directory: &Path) -> io::Result<Self> {
        let (state, cache) = (directory.join("state"), directory.join("cache"));
        let private = |path: &Path| DirBuilder::new().recursive(true).mode(0o700).create(path);
        // Makes the directory durable, so that a file that is on disk in it can be found after a
        // crash.
        private_file::make_directory(&state)?;
        private(&cache)?;
        private_file::check_below(&state, 0, SOCKET, &[])?;
        let config = directory.join("config.toml");
        let made = private_file::create_shared(&config, COMMENTED.as_bytes());
        let config_was_empty = match made {
            Ok(made) => made == CreatedFile::OfEmpty,
            // An existing config that cannot be replaced stays: if it is empty, it means the
            // defaults.
            Err(_) if config.exists() => false,
            Err(error) => return Err(error),
        };
        let options = &mut OpenOptions::new();
        let lock = private_file::open(&state.join("lock"), options.write(true).create(true).truncate(false))?;
        let key = cache_key(&state.join("cache.key"))?;
        // The key lets its holder load code, and write access to the state decides what was proved.
        // Both must be private.
        private_file::check(&state)?;
        private_file::check(&state.join("cache.key"))?;
        Ok(Self { state, cache, key, lock, config_was_empty })
    }

    /// Checks the permissions of the files before any of them is opened.
    fn check(&self) -> io::Result<()> {
        private_file::check_below(&self.state, STATE_DEPTH, SOCKET, &CHECKED_WHEN_OPENED)
    }
}

/// Creates an empty directory. Any earlier content belonged to a process that has ended.
fn empty(directory: &Path) -> io::Result<()> {
    match std::fs::remove_dir_all(directory) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    DirBuilder::new().mode(0o700).create(directory)
}

fn wait_for(lock: &File, waiting: impl FnOnce()) -> io::Result<()> {
    match lock.try_lock() {
        Ok(()) => Ok(()),
        Err(TryLockError::Error(error)) => Err(error),
        Err(TryLockError::WouldBlock) => {
            waiting();
            lock.lock()
        }
    }
}

/// Reads or creates the secret that authenticates the files in `cache/`. A file that holds no key
/// is replaced; the only cost is to compile the modules again.
fn cache_key(path: &Path) -> io::Result<MacKey> {
    let mut secret = [0; MacKey::BYTES];
    let opened = private_file::open(path, OpenOptions::new().read(true));
    match opened.and_then(|mut file| file.read_exact(&mut secret)) {
        Ok(()) => return Ok(MacKey::new(secret)),
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::UnexpectedEof) => {}
        Err(error) => return Err(error),
    }
    rustix::rand::getrandom(&mut secret, rustix::rand::GetRandomFlags::empty())?;
    let directory = path.parent().unwrap_or(Path::new("."));
    let mut file = tempfile::NamedTempFile::new_in(directory)?;
    file.write_all(&secret)?;
    file.persist(path)?;
    Ok(MacKey::new(secret))
}

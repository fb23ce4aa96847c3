//! Peers: the nodes with which this one exchanges bundles. Each has a local name, a pinned key, and
//! perhaps an address. The file `state/courier/peers` has a title and one line for each peer: its
//! name, its key, and its address if there is one.

mod address;

use std::fs::{DirBuilder, OpenOptions};
use std::io;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};

pub use self::address::{ADDRESS_BYTES_MAX, Address, NotAnAddress};
use crate::key::{KeyName, PublicKey, Rotation};
use crate::private_file;

const TITLE: &str = "compute-host courier peers v1";

/// Maximum number of peers that one owner can look after.
pub const PEERS_MAX: usize = 1_000;

/// Maximum size of the file, rounded up: a line has a name of 64 bytes, a key of 64 and an address.
const PEERS_BYTES_MAX: u64 = 1 << 20;

/// Another node.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Peer {
    pub name: KeyName,
    /// `None` if the peer can be reached by directory only. It may deliver bundles all the same.
    pub address: Option<Address>,
    /// Pinned key. It verifies the peer's acknowledgements; a key in a reply never does.
    pub public_key: PublicKey,
}

/// Reason why a change of the list is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PeersError {
    #[error(
        "the peer `{name}` has the key {key} already, and a name stands for one key; \
         `node compute courier peer remove {name}` first, or use another name"
    )]
    NameTaken { name: KeyName, key: PublicKey },
    #[error(
        "the key {key} is the peer `{name}`'s already, and a key has one name; use that name, or \
         `node compute courier peer remove {name}` first"
    )]
    KeyTaken { name: KeyName, key: PublicKey },
    #[error("no peer has the key {0}, whose place another takes; `node compute courier peer list` shows the keys")]
    NoSuchKey(PublicKey),
    #[error("no peer has the name `{0}`; `node compute courier peer list` shows those that there are")]
    NoSuchName(KeyName),
    #[error(
        "there are {PEERS_MAX} peers, and there can be no more; `node compute courier peer remove NAME` those that are gone"
    )]
    TooMany,
    #[error("line {0} is not a peer's name, key and address, or has what another line has")]
    Line(usize),
    #[error("its first line is not `{TITLE}`, or its last line has no end")]
    Title,
}

/// Result of [`Peers::add`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AddedPeer {
    New,
    /// The peer existed with the same address.
    AsBefore,
    /// The peer existed, and its address changed from this one, or from none.
    Moved {
        from: Option<Address>,
    },
}

/// List of peers. Each name and each key is unique.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Peers(Vec<Peer>);

impl Peers {
    /// Returns the peers in the order in which they were added.
    pub fn list(&self) -> &[Peer] {
        &self.0
    }

    pub fn named(&self, name: &KeyName) -> Option<&Peer> {
        self.0.iter().find(|peer| peer.name == *name)
    }

    pub fn of_key(&self, key: &PublicKey) -> Option<&Peer> {
        self.0.iter().find(|peer| peer.public_key == *key)
    }

    /// Adds a peer. If a peer with this name and key exists, its address is replaced or removed. If
    /// a peer has only one of the two, nothing changes, and the error names that peer.
    pub fn add(&mut self, peer: Peer) -> Result<AddedPeer, PeersError> {
        let has_room = self.0.len() < PEERS_MAX;
        let same = |there: &&mut Peer| there.name == peer.name || there.public_key == peer.public_key;
        let Some(there) = self.0.iter_mut().find(same) else {
            self.0.extend(has_room.then_some(peer));
            return has_room.then_some(AddedPeer::New).ok_or(PeersError::TooMany);
        };
        let (name, key) = (there.name.clone(), there.public_key);
        if key != peer.public_key {
            return Err(PeersError::NameTaken { name, key });
        }
        if name != peer.name {
            return Err(PeersError::KeyTaken { name, key });
        }
        if there.address == peer.address {
            return Ok(AddedPeer::AsBefore);
        }
        Ok(AddedPeer::Moved { from: std::mem::replace(&mut there.address, peer.address) })
    }

    /// Pins the successor's key for the peer that has the former key. Its name and address stay. If
    /// a peer has the successor's key already, and none has the former key, nothing changes.
    pub fn follow(&mut self, rotation: &Rotation) -> Result<Peer, PeersError> {
        let (former, successor) = (rotation.former(), rotation.successor());
        let at = self.0.iter().position(|peer| peer.public_key == former);
        match (at, self.of_key(&successor)) {
            (None, Some(followed)) => Ok(followed.clone()),
            (None, None) => Err(PeersError::NoSuchKey(former)),
            (Some(_), Some(other)) => Err(PeersError::KeyTaken { name: other.name.clone(), key: successor }),
            (Some(at), None) => {
                self.0[at].public_key = successor;
                Ok(self.0[at].clone())
            }
        }
    }

    pub fn remove(&mut self, name: &KeyName) -> Result<Peer, PeersError> {
        let at = self.0.iter().position(|peer| peer.name == *name);
        Ok(self.0.remove(at.ok_or_else(|| PeersError::NoSuchName(name.clone()))?))
    }

    pub fn read(bytes: &[u8]) -> Result<Self, PeersError> {
        let text = std::str::from_utf8(bytes).map_err(|_| PeersError::Title)?;
        let lines = text.strip_prefix(TITLE).and_then(|rest| rest.strip_prefix('\n')).ok_or(PeersError::Title)?;
        if !(lines.is_empty() || lines.ends_with('\n')) {
            return Err(PeersError::Title);
        }
        let mut peers = Self::default();
        for (line, number) in lines.split_terminator('\n').zip(2..) {
            let added = peer(line).map(|peer| peers.add(peer));
            if !matches!(added, Some(Ok(AddedPeer::New))) {
                return Err(PeersError::Line(number));
            }
        }
        Ok(peers)
    }

    pub fn to_text(&self) -> String {
        let line = |Peer { name, address, public_key }: &Peer| match address {
            Some(address) => format!("{name} {public_key} {address}\n"),
            None => format!("{name} {public_key}\n"),
        };
        format!("{TITLE}\n{}", self.0.iter().map(line).collect::<String>())
    }
}

fn peer(line: &str) -> Option<Peer> {
    let mut words = line.split(' ');
    let (name, public_key) = (words.next()?.parse().ok()?, words.next()?.parse().ok()?);
    let address = words.next().map(str::parse).transpose().ok()?;
    words.next().is_none().then_some(Peer { name, address, public_key })
}

#[derive(Debug, thiserror::Error)]
pub enum PeersFileError {
    #[error("cannot use `{}`: {cause}", path.display())]
    Io { path: PathBuf, cause: io::Error },
    #[error("{cause}; look through it after that, for others may have written it")]
    NotPrivate { path: PathBuf, cause: io::Error },
    #[error(
        "the list of peers `{}` is damaged: {cause}. Mend it, or move it away and `node compute courier peer add` each again",
        path.display()
    )]
    Damaged { path: PathBuf, cause: PeersError },
    #[error(transparent)]
    Peers(#[from] PeersError),
}

/// The list of peers in a state directory. Nothing is read until [`PeersFile::read`].
#[derive(Clone, Debug)]
pub struct PeersFile {
    directory: PathBuf,
}

impl PeersFile {
    /// Creates a handle for the list in the state directory `state`.
    pub fn new(state: &Path) -> Self {
        Self { directory: state.join("courier") }
    }

    pub fn path(&self) -> PathBuf {
        self.directory.join("peers")
    }

    /// Reads the list. It is empty if there is no file. Creates nothing.
    pub fn read(&self) -> Result<Peers, PeersFileError> {
        let path = self.path();
        match private_file::read(&path, PEERS_BYTES_MAX) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Peers::default()),
            Err(cause) if private_file::is_not_private(&cause) => Err(PeersFileError::NotPrivate { path, cause }),
            Err(cause) => Err(PeersFileError::Io { path, cause }),
            Ok(bytes) => Peers::read(&bytes).map_err(|cause| PeersFileError::Damaged { path, cause }),
        }
    }

    /// Changes the list. A lock file serialises changes of several processes. On an error, the list
    /// stays as it is.
    pub fn change<T>(&self, change: impl FnOnce(&mut Peers) -> Result<T, PeersError>) -> Result<T, PeersFileError> {
        let (path, lock) = (self.path(), self.directory.join("peers.lock"));
        self.make_directory()?;
        let open = private_file::open(&lock, OpenOptions::new().write(true).create(true).truncate(false));
        let _locked = open
            .and_then(|file| file.lock().map(|()| file))
            .map_err(|cause| PeersFileError::Io { path: lock, cause })?;
        let before = self.read()?;
        let mut peers = before.clone();
        let changed = change(&mut peers)?;
        if peers != before {
            let replaced = private_file::replace(&path, peers.to_text().as_bytes());
            replaced.map_err(|cause| PeersFileError::Io { path, cause })?;
        }
        Ok(changed)
    }

    fn make_directory(&self) -> Result<(), PeersFileError> {
        let made = DirBuilder::new().recursive(true).mode(0o700).create(&self.directory);
        let synced = made.and_then(|()| private_file::sync_directory_of(&self.directory));
        synced.map_err(|cause| PeersFileError::Io { path: self.directory.clone(), cause })
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;
    use crate::key::NodeKey;

    fn key(secret: u64) -> PublicKey {
        let mut bytes = [9; 32];
        bytes[..8].copy_from_slice(&secret.to_le_bytes());
        NodeKey::from_secret(bytes).public()
    }

    fn name(text: &str) -> KeyName {
        text.parse().unwrap()
    }

    fn peer(called: &str, secret: u64, address: Option<&str>) -> Peer {
        Peer { name: name(called), address: address.map(|text| text.parse().unwrap()), public_key: key(secret) }
    }

    #[test]
    fn a_name_stands_for_one_key_and_a_key_for_one_name() {
        let mut peers = Peers::default();
        assert_eq!(peers.add(peer("a", 1, None)), Ok(AddedPeer::New));
        assert_eq!(peers.add(peer("b", 2, Some("http://b"))), Ok(AddedPeer::New));
        let before = peers.clone();
        assert_eq!(peers.add(peer("a", 1, None)), Ok(AddedPeer::AsBefore));
        let taken = PeersError::NameTaken { name: name("a"), key: key(1) };
        assert_eq!(peers.add(peer("a", 3, None)), Err(taken.clone()));
        assert_eq!(peers.add(peer("a", 2, None)), Err(taken), "also where the key is another peer's");
        assert_eq!(peers.add(peer("c", 2, None)), Err(PeersError::KeyTaken { name: name("b"), key: key(2) }));
        assert_eq!(peers, before);
        assert_eq!(peers.named(&name("b")), peers.of_key(&key(2)));
        assert_eq!((peers.named(&name("c")), peers.of_key(&key(3))), (None, None));
        assert_eq!(peers.remove(&name("c")), Err(PeersError::NoSuchName(name("c"))));
        assert_eq!(peers.remove(&name("a")), Ok(peer("a", 1, None)));
        assert_eq!(peers.list(), [peer("b", 2, Some("http://b"))]);
    }

    #[test]
    fn a_rotation_pins_the_peer_of_the_former_key_and_no_other() {
        let secret = |n: u8| NodeKey::from_secret([n; 32]);
        let rotation = Rotation::sign(&secret(1), 5, &secret(2), 6);
        let of = |called: &str, n: u8| Peer { public_key: secret(n).public(), ..peer(called, 0, Some("http://b")) };
        let mut peers = Peers::default();
        peers.add(of("a", 3)).unwrap();
        assert_eq!(peers.follow(&rotation), Err(PeersError::NoSuchKey(secret(1).public())));
        peers.add(of("b", 1)).unwrap();
        assert_eq!(peers.follow(&rotation), Ok(of("b", 2)));
        assert_eq!(peers.follow(&rotation), Ok(of("b", 2)), "once more changes nothing");
        assert_eq!(peers.list(), [of("a", 3), of("b", 2)]);
        peers.add(of("c", 1)).unwrap();
        let taken = PeersError::KeyTaken { name: name("b"), key: secret(2).public() };
        assert_eq!(peers.follow(&rotation), Err(taken));
    }

    #[test]
    fn a_peer_that_has_moved_has_its_new_address_only() {
        let mut peers = Peers::default();
        peers.add(peer("a", 1, None)).unwrap();
        for (address, from) in
            [(Some("http://a:1"), None), (Some("http://a:2"), Some("http://a:1")), (None, Some("http://a:2"))]
        {
            let from = from.map(|text| text.parse().unwrap());
            assert_eq!(peers.add(peer("a", 1, address)), Ok(AddedPeer::Moved { from }));
            assert_eq!(peers.list(), [peer("a", 1, address)]);
        }
    }

    #[test]
    fn what_is_written_is_read() {
        let mut peers = Peers::default();
        peers.add(peer("a", 1, None)).unwrap();
        peers.add(peer("b", 2, Some("https://b.example.org:8443/compute"))).unwrap();
        let text = format!("{TITLE}\na {}\nb {} https://b.example.org:8443/compute\n", key(1), key(2));
        assert_eq!(peers.to_text(), text);
        assert_eq!(Peers::read(text.as_bytes()), Ok(peers));
    }

    #[test]
    fn a_line_that_is_none_is_named() {
        let (one, two) = (key(1), key(2));
        let read = |lines: &str| Peers::read(format!("{TITLE}\n{lines}").as_bytes()).map(|peers| peers.0.len());
        assert_eq!(read(""), Ok(0));
        assert_eq!(read(&format!("a {one}\nb {two} http://b\n")), Ok(2));
        for wrong in [
            "\n",
            "b\n",
            &format!("a {two}\n"),
            &format!("b {one}\n"),
            &format!("a {one}\n"),
            &format!("a {one} http://a\n"),
        ] {
            assert_eq!(read(&format!("a {one}\n{wrong}")), Err(PeersError::Line(3)), "{wrong}");
        }
        for wrong in ["a  ", "self ", "A "] {
            assert_eq!(read(&format!("{wrong}{one}\n")), Err(PeersError::Line(2)), "{wrong}");
        }
        for wrong in [" ", " b", " ftp://b", " http://b ", " http://b http://c", " http://b\r"] {
            assert_eq!(read(&format!("a {one}{wrong}\n")), Err(PeersError::Line(2)), "{wrong}");
        }
        assert_eq!(read(&format!("a {one}")), Err(PeersError::Title));
        assert_eq!(Peers::read(b"something else\n"), Err(PeersError::Title));
        assert_eq!(Peers::read(b"\xff"), Err(PeersError::Title));
    }

    #[test]
    fn peers_are_bounded_and_the_most_that_there_can_be_are_read_from_their_file() {
        let state = tempfile::tempdir().unwrap();
        let file = PeersFile::new(state.path());
        let many = |n: usize| {
            let (name, address) = (format!("{n:x<64}"), format!("http://h/{n:x<503}"));
            peer(&name, n as u64, Some(&address))
        };
        file.change(|peers| (0..PEERS_MAX).try_for_each(|n| peers.add(many(n)).map(|_| ()))).unwrap();
        let full = file.read().unwrap();
        assert_eq!(full.list().len(), PEERS_MAX);
        let error = file.change(|peers| peers.add(many(PEERS_MAX))).unwrap_err();
        assert!(matches!(error, PeersFileError::Peers(PeersError::TooMany)), "{error}");
        assert_eq!(file.read().unwrap(), full);
        let more = format!("{}more {}\n", full.to_text(), key(u64::MAX));
        assert_eq!(Peers::read(more.as_bytes()), Err(PeersError::Line(PEERS_MAX + 2)));
    }

    #[test]
    fn a_list_that_is_damaged_or_that_others_may_write_is_refused_and_kept() {
        let state = tempfile::tempdir().unwrap();
        let file = PeersFile::new(state.path());
        assert_eq!(file.read().unwrap(), Peers::default());
        assert!(!file.path().exists(), "reading makes nothing");
        file.change(|peers| peers.add(peer("a", 1, None))).unwrap();

        std::fs::set_permissions(file.path(), std::fs::Permissions::from_mode(0o620)).unwrap();
        assert!(matches!(file.read(), Err(PeersFileError::NotPrivate { .. })));
        std::fs::write(file.path(), "compute-host courier peers v1\na").unwrap();
        std::fs::set_permissions(file.path(), std::fs::Permissions::from_mode(0o600)).unwrap();
        let error = file.change(|peers| peers.add(peer("b", 2, None))).unwrap_err();
        assert!(matches!(&error, PeersFileError::Damaged { cause: PeersError::Title, .. }), "{error}");
        assert_eq!(std::fs::read(file.path()).unwrap(), b"compute-host courier peers v1\na");
    }

    #[test]
    fn of_several_who_change_the_list_at_once_none_is_lost() {
        let state = tempfile::tempdir().unwrap();
        let file = PeersFile::new(state.path());
        std::thread::scope(|scope| {
            for n in 0..16 {
                let file = &file;
                scope.spawn(move || file.change(|peers| peers.add(peer(&format!("p{n}"), n, None))).unwrap());
            }
        });
        assert_eq!(file.read().unwrap().list().len(), 16);
    }
}

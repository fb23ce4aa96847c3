//! Single flight: of all callers that want one result at once, one makes it and the others wait.
//!
//! moka offers this too, but its waiting callers would keep their resources (an open slice, a
//! thread) until they are answered.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::watch;

type InFlight<K, V> = Mutex<HashMap<K, watch::Receiver<Option<V>>>>;

/// The results that are being made.
pub struct SingleFlight<K, V>(Arc<InFlight<K, V>>);

impl<K, V> Default for SingleFlight<K, V> {
    fn default() -> Self {
        Self(Arc::default())
    }
}

pub enum Seat<K: Hash + Eq, V> {
    /// The caller must make the result.
    Lead(Leader<K, V>),
    /// Another caller makes the result.
    Follow(Follower<V>),
}

impl<K: Hash + Eq + Clone, V> SingleFlight<K, V> {
    pub fn join(&self, key: &K) -> Seat<K, V> {
        let mut waiting = lock(&self.0);
        if let Some(follow) = waiting.get(key) {
            return Seat::Follow(Follower(follow.clone()));
        }
        let (result, follow) = watch::channel(None);
        waiting.insert(key.clone(), follow);
        Seat::Lead(Leader { flights: self.0.clone(), key: key.clone(), result })
    }
}

/// The leader, which must make the result. If it is dropped without [`Leader::land`], one of the
/// followers becomes the leader.
pub struct Leader<K: Hash + Eq, V> {
    flights: Arc<InFlight<K, V>>,
    key: K,
    result: watch::Sender<Option<V>>,
}

impl<K: Hash + Eq, V> Leader<K, V> {
    pub const fn key(&self) -> &K {
        &self.key
    }

    pub fn complete(self, result: V) {
        self.result.send_replace(Some(result));
    }
}

impl<K: Hash + Eq, V> Drop for Leader<K, V> {
    fn drop(&mut self) {
        lock(&self.flights).remove(&self.key);
    }
}

pub struct Follower<V>(watch::Receiver<Option<V>>);

impl<V: Clone> Follower<V> {
    /// Waits for the result. Returns `None` if the leader failed to make it.
    pub async fn wait(&mut self) -> Option<V> {
        self.0.wait_for(Option::is_some).await.ok()?.clone()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

//! Single flight: of all who want one result at once, one makes it and the others wait.
//!
//! moka could do this too, but would have those who wait hold on to what they brought (an open slice, a lane) until they are answered.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::watch;

type Waiting<K, V> = Mutex<HashMap<K, watch::Receiver<Option<V>>>>;

/// What is being made now.
pub struct Flights<K, V>(Arc<Waiting<K, V>>);

impl<K, V> Default for Flights<K, V> {
    fn default() -> Self {
        Self(Arc::default())
    }
}

pub enum Claim<K: Hash + Eq, V> {
    /// The caller makes it.
    Lead(Lead<K, V>),
    /// Another does.
    Follow(Follow<V>),
}

impl<K: Hash + Eq + Clone, V> Flights<K, V> {
    pub fn claim(&self, key: &K) -> Claim<K, V> {
        let mut waiting = lock(&self.0);
        if let Some(follow) = waiting.get(key) {
            return Claim::Follow(Follow(follow.clone()));
        }
        let (result, follow) = watch::channel(None);
        waiting.insert(key.clone(), follow);
        Claim::Lead(Lead { flights: self.0.clone(), key: key.clone(), result })
    }
}

/// The duty to make a result. Dropped without [`Lead::land`], it falls to one of those who wait.
pub struct Lead<K: Hash + Eq, V> {
    flights: Arc<Waiting<K, V>>,
    key: K,
    result: watch::Sender<Option<V>>,
}

impl<K: Hash + Eq, V> Lead<K, V> {
    pub const fn key(&self) -> &K {
        &self.key
    }

    pub fn land(self, result: V) {
        self.result.send_replace(Some(result));
    }
}

impl<K: Hash + Eq, V> Drop for Lead<K, V> {
    fn drop(&mut self) {
        lock(&self.flights).remove(&self.key);
    }
}

pub struct Follow<V>(watch::Receiver<Option<V>>);

impl<V: Clone> Follow<V> {
    /// The result, or `None` if whoever was to make it could not.
    pub async fn landed(&mut self) -> Option<V> {
        self.0.wait_for(Option::is_some).await.ok()?.clone()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

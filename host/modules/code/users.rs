//! Whose each file of native code is: it has a part for each scope that used it.

use std::collections::HashMap;

use crate::digest::Digest;
use crate::slice::Tenant;
use crate::store::{Evicted, Retention};

/// The parts of the files, each with the time of its use for a number.
#[derive(Default)]
pub struct CodeUsers {
    parts: Retention<Digest>,
    /// The numbers of a file's parts.
    files: HashMap<Digest, HashMap<Tenant, u64>>,
    next_number: u64,
}

impl CodeUsers {
    /// Notes that `scope` uses the file `name`, the last of all that it has used.
    pub fn note(&mut self, scope: &Tenant, name: &Digest, bytes: u64) {
        let number = self.next_number;
        self.next_number += 1;
        let former = self.files.entry(*name).or_default().insert(scope.clone(), number);
        if let Some(former) = former {
            self.parts.remove(scope, former, Evicted::Entry);
        }
        self.parts.add(scope, number, *name, bytes);
    }

    /// Takes the least recently used parts from the scope that has most, while all of them have
    /// more than `bytes_max`. Returns a file that no part is left of, and is to be called until
    /// there is none.
    pub fn make_room(&mut self, bytes_max: u64) -> Option<Digest> {
        while let Some(goes) = self.parts.next_victim(u64::MAX, bytes_max) {
            self.parts.remove(&goes.scope, goes.number, Evicted::Entry);
            let Some(users) = self.files.get_mut(&goes.entry) else { continue };
            users.remove(&goes.scope);
            if users.is_empty() {
                self.files.remove(&goes.entry);
                return Some(goes.entry);
            }
        }
        None
    }
}

//! Providers of a window, and the number of offers of each.

use std::collections::{BTreeSet, HashMap, VecDeque};

use super::offer::ProviderName;

/// Index of a provider in [`Holders`] while it has offers.
pub type HolderId = u32;

/// The providers of a window, each with the numbers of its offers, the oldest first.
#[derive(Default)]
pub struct Holders {
    places: Vec<Holder>,
    /// Free indices.
    vacant: Vec<HolderId>,
    by_name: HashMap<ProviderName, HolderId>,
    /// All providers with offers, ordered by their number of offers.
    by_count: BTreeSet<(usize, HolderId)>,
}

struct Holder {
    name: ProviderName,
    offers: VecDeque<u64>,
}

impl Holders {
    pub fn len(&self) -> usize {
        self.by_count.len()
    }

    pub fn name(&self, id: HolderId) -> &ProviderName {
        &self.places[id as usize].name
    }

    /// Returns the provider with the most offers, and their number.
    pub fn largest(&self) -> Option<(HolderId, usize)> {
        self.by_count.last().map(|(count, id)| (*id, *count))
    }

    /// Adds the newest offer of all, for this provider.
    pub fn add(&mut self, name: &ProviderName, offer: u64) -> HolderId {
        let id = self.by_name.get(name).copied().unwrap_or_else(|| self.place(name));
        let offers = &mut self.places[id as usize].offers;
        let held = offers.len();
        offers.push_back(offer);
        self.by_count.remove(&(held, id));
        self.by_count.insert((held + 1, id));
        id
    }

    /// Removes the oldest offer of a provider. A window always removes the oldest offer of some
    /// provider.
    pub fn take_oldest(&mut self, id: HolderId) -> Option<u64> {
        let Holder { name, offers } = self.places.get_mut(id as usize)?;
        let oldest = offers.pop_front()?;
        let held = offers.len();
        self.by_count.remove(&(held + 1, id));
        if held > 0 {
            self.by_count.insert((held, id));
        } else {
            *offers = VecDeque::new();
            self.by_name.remove(name);
            self.vacant.push(id);
        }
        Some(oldest)
    }

    fn place(&mut self, name: &ProviderName) -> HolderId {
        let holder = Holder { name: name.clone(), offers: VecDeque::new() };
        let id = match self.vacant.pop() {
            Some(id) => {
                self.places[id as usize] = holder;
                id
            }
            None => {
                self.places.push(holder);
                // A window holds at most 100,000 offers, and one more while it adds one, so the
                // index fits.
                (self.places.len() - 1) as HolderId
            }
        };
        self.by_name.insert(name.clone(), id);
        id
    }
}

//! Who holds how many of a window's offers.

use std::collections::{BTreeSet, HashMap, VecDeque};

use super::offer::ProviderName;

/// A provider's place in [`Holders`], while it holds something.
pub type HolderId = u32;

/// The providers of a window, each with its offers' numbers, the oldest first.
#[derive(Default)]
pub struct Holders {
    places: Vec<Holder>,
    /// Places that nobody has.
    vacant: Vec<HolderId>,
    by_name: HashMap<ProviderName, HolderId>,
    /// All that hold something, by how much.
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

    /// Who holds the most, and how many.
    pub fn largest(&self) -> Option<(HolderId, usize)> {
        self.by_count.last().map(|(count, id)| (*id, *count))
    }

    /// Notes the newest offer of all, and whose it is.
    pub fn add(&mut self, name: &ProviderName, offer: u64) -> HolderId {
        let id = self.by_name.get(name).copied().unwrap_or_else(|| self.place(name));
        let offers = &mut self.places[id as usize].offers;
        let held = offers.len();
        offers.push_back(offer);
        self.by_count.remove(&(held, id));
        self.by_count.insert((held + 1, id));
        id
    }

    /// Forgets the oldest offer of one provider. In a window, whatever gives way is its provider's oldest.
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
                // A window holds 100,000 offers at most, and one more while it takes it in.
                (self.places.len() - 1) as HolderId
            }
        };
        self.by_name.insert(name.clone(), id);
        id
    }
}

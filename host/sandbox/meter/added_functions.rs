//! Helper functions that the meter adds to a module, each at most once. Some fill or copy memory in
//! pieces; others preserve locals across a refill call.

use std::collections::HashMap;

use wasm_encoder::{Function, ValType};

use super::bulk::{self, Bulk};
use super::{Meter, Sections};

/// A multiset of local types: the number of each of [`KEPT_TYPES`], in that order. Helpers are
/// identified by this multiset, so the order in which a body reads its locals does not matter.
pub type LocalTypes = [u8; KEPT_TYPES.len()];

/// The types of locals that can be passed through a refill call.
pub const KEPT_TYPES: [ValType; 5] = [ValType::I32, ValType::I64, ValType::F32, ValType::F64, ValType::V128];

/// Maximum helpers of one module that preserve locals. Modules from real compilers need about
/// forty. Beyond the maximum, `refill` is called directly: slower in a loop, with the same result.
pub const KEEPS_MAX: usize = 128;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Helper {
    Move(Bulk),
    /// Calls `refill` and returns the locals that it receives. So no local has to survive the call.
    /// Without it, the compiler would spill locals to the stack, even in a loop where the call is
    /// rare.
    Keep(LocalTypes),
}

/// The helpers of one module, in the order of their first use.
#[derive(Default)]
pub struct Helpers {
    list: Vec<Helper>,
    indices: HashMap<Helper, u32>,
    keeps: usize,
}

impl Helpers {
    #[cfg(test)]
    pub const fn len(&self) -> usize {
        self.list.len()
    }

    /// Returns the helper's index among the helpers; `None` if there are already [`KEEPS_MAX`] of
    /// its kind.
    fn index(&mut self, helper: Helper) -> Option<u32> {
        if let Some(index) = self.indices.get(&helper) {
            return Some(*index);
        }
        if let Helper::Keep(_) = helper {
            if self.keeps == KEEPS_MAX {
                return None;
            }
            self.keeps += 1;
        }
        let index = self.list.len() as u32;
        self.list.push(helper);
        self.indices.insert(helper, index);
        Some(index)
    }
}

impl Meter {
    /// Returns the index of the function that preserves these locals across a refill. Returns
    /// `None` if the module has too many of them.
    pub fn keep(&mut self, kept: LocalTypes) -> Option<u32> {
        let index = self.helpers.index(Helper::Keep(kept))?;
        Some(self.helper_at(index))
    }

    /// Returns the index of the function that fills or copies memory in pieces.
    pub fn mover(&mut self, bulk: Bulk) -> u32 {
        let index = self.helpers.index(Helper::Move(bulk)).unwrap_or_default();
        self.helper_at(index)
    }

    /// Returns the function index of a helper. Helpers follow the module's own functions.
    fn helper_at(&self, index: u32) -> u32 {
        self.function_at(self.functions.len() as u32 + index)
    }

    pub fn add_helpers(&mut self, out: &mut Sections) {
        let refill = self.refill();
        for helper in std::mem::take(&mut self.helpers).list {
            let (ty, function) = match helper {
                Helper::Keep(kept) => {
                    let mut types = types(kept);
                    types.push(ValType::I64);
                    (self.own_type(types.clone(), types.clone()), keep(types.len() as u32, refill))
                }
                Helper::Move(bulk) => {
                    let params = vec![ValType::I32, ValType::I32, ValType::I32, ValType::I64];
                    let counter = self.counter(self.bodies + u32::from(bulk == Bulk::Copy));
                    (self.own_type(params, vec![ValType::I64]), bulk::mover(bulk, refill, counter))
                }
            };
            out.functions.function(ty);
            out.code.function(&function);
        }
    }
}

/// Returns the types of the preserved locals, in order.
fn types(kept: LocalTypes) -> Vec<ValType> {
    KEPT_TYPES.iter().zip(kept).flat_map(|(ty, count)| std::iter::repeat_n(*ty, count.into())).collect()
}

/// Builds a function with `params` parameters, of which the state is the last. The function returns
/// all of them, with the state that `refill` returns.
fn keep(params: u32, refill: u32) -> Function {
    let mut function = Function::new([]);
    let mut sink = function.instructions();
    for local in 0..params {
        sink.local_get(local);
    }
    sink.call(refill).end();
    function
}

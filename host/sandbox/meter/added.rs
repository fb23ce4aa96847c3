//! Functions that the meter adds to a module, each of them once: what fills and copies memory in pieces, and what carries
//! locals through a refill.

use std::collections::HashMap;

use wasm_encoder::{Function, ValType};

use super::bulk::{self, Bulk};
use super::{Meter, Sections};

/// Locals by their types: how many of each of [`KEPT_TYPES`], in that order. So helpers are told apart by a multiset of
/// types, whatever the order in which a body reads its locals.
pub type Kept = [u8; KEPT_TYPES.len()];

/// The types of locals that go through a refill's call.
pub const KEPT_TYPES: [ValType; 5] = [ValType::I32, ValType::I64, ValType::F32, ValType::F64, ValType::V128];

/// Functions that carry locals, in one module. Modules of compilers need some forty. Where a module asks for more, refills
/// are called without: slower in a loop, and the same otherwise.
pub const KEEPS_MAX: usize = 128;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Helper {
    Move(Bulk),
    /// Calls `refill`, and gives back the locals that it is given: so nothing has to survive a call where that would be a
    /// place on the stack, in a loop, for a call that seldom comes.
    Keep(Kept),
}

/// The helpers of one module, in the order in which bodies asked for them.
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

    /// The helper's index among the helpers; `None` where there are [`KEEPS_MAX`] of its kind already.
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
    /// The index of the function that carries these locals through a refill; `None` where the module has too many such.
    pub fn keep(&mut self, kept: Kept) -> Option<u32> {
        let index = self.helpers.index(Helper::Keep(kept))?;
        Some(self.helper_at(index))
    }

    /// The index of the function that moves bytes in pieces.
    pub fn mover(&mut self, bulk: Bulk) -> u32 {
        let index = self.helpers.index(Helper::Move(bulk)).unwrap_or_default();
        self.helper_at(index)
    }

    /// Helpers stand behind the module's own functions.
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

/// The types that a helper carries, in their order.
fn types(kept: Kept) -> Vec<ValType> {
    KEPT_TYPES.iter().zip(kept).flat_map(|(ty, count)| std::iter::repeat_n(*ty, count.into())).collect()
}

/// A function of `params`, the state last, that gives all of them back, with what `refill` makes of the state.
fn keep(params: u32, refill: u32) -> Function {
    let mut function = Function::new([]);
    let mut sink = function.instructions();
    for local in 0..params {
        sink.local_get(local);
    }
    sink.call(refill).end();
    function
}

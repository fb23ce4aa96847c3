//! Which locals go through a refill's call, rather than staying where a call would have them spilled on the way that is
//! taken each time.

use wasm_encoder::ValType;
use wasmparser::Operator;

use super::added::{KEPT_TYPES, Kept};

/// How far is looked ahead: what is read later costs little where it has to be fetched.
const OPERATORS_MAX: usize = 256;

/// How many operators are looked at in all, for each operator of a body, so that a body with a look every few operators
/// is not read again and again.
const OPERATORS_EACH: usize = 16;

/// About as many as there are registers.
const LOCALS_MAX: usize = 16;

/// Looks ahead from places in one body.
pub struct Lookahead {
    /// For each local, the last look that met it.
    met: Vec<u32>,
    look: u32,
    /// How many operators may still be looked at.
    budget: usize,
    /// How many were.
    pub steps: usize,
}

impl Lookahead {
    /// For a body of so many locals and operators.
    pub fn new(locals: usize, operators: usize) -> Self {
        let budget = OPERATORS_MAX + OPERATORS_EACH * operators;
        Self { met: vec![0; locals], look: 0, budget, steps: 0 }
    }

    /// The locals that the next operators, up to the end of what they are in, read before they write to them; in the order
    /// of their types.
    pub fn locals(&mut self, operators: &[Operator<'_>], types: &[ValType]) -> (Kept, Vec<u32>) {
        self.look += 1;
        let (mut found, mut depth) = (Vec::new(), 0);
        for operator in operators.iter().take(OPERATORS_MAX.min(self.budget)) {
            self.budget -= 1;
            self.steps += 1;
            let (local, is_read) = match operator {
                Operator::Block { .. } | Operator::Loop { .. } | Operator::If { .. } => {
                    depth += 1;
                    continue;
                }
                Operator::End if depth == 0 => break,
                Operator::End => {
                    depth -= 1;
                    continue;
                }
                Operator::LocalGet { local_index } => (*local_index, true),
                Operator::LocalSet { local_index } | Operator::LocalTee { local_index } => (*local_index, false),
                _ => continue,
            };
            if std::mem::replace(&mut self.met[local as usize], self.look) == self.look || !is_read {
                continue;
            }
            if let Some(class) = KEPT_TYPES.iter().position(|ty| *ty == types[local as usize]) {
                found.push((class, local));
            }
            if found.len() == LOCALS_MAX {
                break;
            }
        }
        found.sort_by_key(|(class, _)| *class);
        let mut kept = Kept::default();
        for (class, _) in &found {
            kept[*class] += 1;
        }
        (kept, found.into_iter().map(|(_, local)| local).collect())
    }
}

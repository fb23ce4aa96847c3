//! Choice of locals to pass through a refill call. Otherwise the compiler would spill them to the
//! stack on the hot path, because they must survive the call.

use wasm_encoder::ValType;
use wasmparser::Operator;

use super::added_functions::{KEPT_TYPES, LocalTypes};

/// Maximum operators of one lookahead. A local that is read later costs little to reload from the
/// stack.
const OPERATORS_MAX: usize = 256;

/// Lookahead budget for each operator of a body. So a body with a poll point every few operators is
/// not read again and again.
const OPERATORS_EACH: usize = 16;

/// Maximum locals to preserve: about the number of registers.
const LOCALS_MAX: usize = 16;

/// Lookahead from poll points in one body.
pub struct Lookahead {
    /// For each local, the number of the last lookahead that met it.
    met: Vec<u32>,
    look: u32,
    /// Operators that lookaheads may still read.
    budget: usize,
    /// Operators that lookaheads have read.
    pub steps: usize,
}

impl Lookahead {
    /// Creates a lookahead for a body with these numbers of locals and operators.
    pub fn new(locals: usize, operators: usize) -> Self {
        let budget = OPERATORS_MAX + OPERATORS_EACH * operators;
        Self { met: vec![0; locals], look: 0, budget, steps: 0 }
    }

    /// Returns the locals that the next operators read before they write them, in the order of
    /// their types. The lookahead stops at the end of the enclosing block.
    pub fn locals(&mut self, operators: &[Operator<'_>], types: &[ValType]) -> (LocalTypes, Vec<u32>) {
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
        let mut kept = LocalTypes::default();
        for (class, _) in &found {
            kept[*class] += 1;
        }
        (kept, found.into_iter().map(|(_, local)| local).collect())
    }
}

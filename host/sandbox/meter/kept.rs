//! Which locals go through a refill's call, rather than staying where a call would have them spilled on the way that is
//! taken each time.

use wasmparser::Operator;

/// How far is looked ahead: what is read later costs little where it has to be fetched. A body can have thousands of
/// looks, so this bounds what rewriting costs.
const OPERATORS_MAX: usize = 256;

/// About as many as there are registers.
const LOCALS_MAX: usize = 16;

/// The locals that the next operators, up to the end of what they are in, read before they write to them.
pub fn locals(operators: &[Operator<'_>]) -> Vec<u32> {
    let (mut seen, mut kept, mut depth) = (Vec::new(), Vec::new(), 0);
    for operator in operators.iter().take(OPERATORS_MAX) {
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
        if !seen.contains(&local) {
            seen.push(local);
            if is_read {
                kept.push(local);
            }
        }
        if kept.len() == LOCALS_MAX {
            break;
        }
    }
    kept
}

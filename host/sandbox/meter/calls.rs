//! Which calls can be deep. A frame that waits for a deep call may be one of as many as the stack holds, and all of them go
//! on one after another when the last returns: so each looks at what is left before it spends anything that matters.
//!
//! A function is *deep* if it is in a cycle of the call graph, calls through a table, calls a deep function, or has calls
//! of more than [`CALL_HEIGHT_MAX`] levels below it. Below any other function there are at most so many frames.

use wasmparser::{FunctionBody, Operator};

use super::MeterError;

/// Levels of calls below a function that is not deep.
pub const CALL_HEIGHT_MAX: u32 = 16;

/// The call graph of one module, each call of one function by another counted once.
#[derive(Default)]
pub struct CallGraph {
    /// Who calls each function.
    callers: Vec<Vec<u32>>,
    /// Of how many functions that each calls it is not yet known that they are not deep.
    open: Vec<u32>,
    calls_through_table: Vec<bool>,
    /// The last function that was found to call each.
    last_caller: Vec<Option<u32>>,
}

impl CallGraph {
    pub fn new(functions: usize) -> Self {
        Self {
            callers: vec![Vec::new(); functions],
            open: vec![0; functions],
            calls_through_table: vec![false; functions],
            last_caller: vec![None; functions],
        }
    }

    /// Adds the calls of the function of index `caller`.
    pub fn read(&mut self, caller: u32, body: &FunctionBody<'_>) -> Result<(), MeterError> {
        let mut reader = body.get_operators_reader()?;
        while !reader.eof() {
            match reader.read()? {
                Operator::Call { function_index } => self.call(caller, function_index)?,
                Operator::CallIndirect { .. } => self.calls_through_table[caller as usize] = true,
                _ => {}
            }
        }
        Ok(())
    }

    fn call(&mut self, caller: u32, callee: u32) -> Result<(), MeterError> {
        let no_such = MeterError::Unsupported("a call of no function");
        let last = self.last_caller.get_mut(callee as usize).ok_or(no_such)?;
        if last.replace(caller) != Some(caller) {
            self.callers[callee as usize].push(caller);
            self.open[caller as usize] += 1;
        }
        Ok(())
    }

    /// For each function, whether it is deep.
    pub fn deep(mut self) -> Vec<bool> {
        let functions = self.open.len();
        let (mut deep, mut heights) = (vec![true; functions], vec![0; functions]);
        // From those that call none upwards; who is in a cycle, or calls who is, is never reached.
        let mut found: Vec<u32> = (0..functions as u32).filter(|function| self.open[*function as usize] == 0).collect();
        while let Some(function) = found.pop() {
            let at = function as usize;
            if self.calls_through_table[at] || heights[at] > CALL_HEIGHT_MAX {
                continue;
            }
            deep[at] = false;
            for caller in std::mem::take(&mut self.callers[at]) {
                let caller_at = caller as usize;
                heights[caller_at] = heights[caller_at].max(heights[at] + 1);
                self.open[caller_at] -= 1;
                if self.open[caller_at] == 0 {
                    found.push(caller);
                }
            }
        }
        deep
    }
}

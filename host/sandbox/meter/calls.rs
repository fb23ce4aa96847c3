//! Deep calls. A frame that waits for a deep call may be one of as many frames as the stack holds.
//! When the last callee returns, all these frames continue one after another. So each of them polls
//! before it spends a significant amount of gas.
//!
//! A function is *deep* if one of these holds:
//! - the function is in a cycle of the call graph;
//! - the function calls through a table, or calls a deep function;
//! - more than [`CALL_HEIGHT_MAX`] levels of calls are below it.
//!
//! Below any other function, the number of frames is at most that limit.

use wasmparser::{FunctionBody, Operator};

use super::MeterError;

/// Maximum levels of calls below a function that is not deep.
pub const CALL_HEIGHT_MAX: u32 = 16;

/// The call graph of one module. Several calls of one function by the same caller count once.
#[derive(Default)]
pub struct CallGraph {
    /// The callers of each function.
    callers: Vec<Vec<u32>>,
    /// For each function, the number of its callees that are not yet proven to be shallow.
    open: Vec<u32>,
    calls_through_table: Vec<bool>,
    /// For each function, the last caller that was found.
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

    /// Adds the calls of the function with index `caller`.
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

    /// Returns, for each function, whether it is deep.
    pub fn deep(mut self) -> Vec<bool> {
        let functions = self.open.len();
        let (mut deep, mut heights) = (vec![true; functions], vec![0; functions]);
        // Start from the functions without callees and go upwards. Functions in a cycle, and their
        // callers, are never reached.
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

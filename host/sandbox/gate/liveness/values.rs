//! Values on the stack and in locals, as they are made, computed and read.

use super::Liveness;
use crate::sandbox::gate::cost::fold;
use crate::sandbox::gate::join::{CONSTANT, JOINED, Local, Value};

impl Liveness {
    #[inline]
    pub fn push(&mut self, value: Value) {
        self.weight += u64::from(value.weight);
        self.stack.push(value);
    }

    /// Pops a value. In dead code, the stack never runs out of values.
    #[inline]
    pub fn pop(&mut self) -> Value {
        if self.stack.len() > self.base
            && let Some(value) = self.stack.pop()
        {
            self.weight -= u64::from(value.weight);
            return value;
        }
        Value::UNKNOWN
    }

    pub(super) fn truncate(&mut self, height: usize) {
        while self.stack.len() > height {
            let value = self.stack.pop().unwrap_or(Value::NONE);
            self.weight -= u64::from(value.weight);
        }
    }

    /// Pops `count` operands.
    #[inline]
    pub fn take(&mut self, count: usize) {
        for _ in 0..count {
            self.pop();
        }
    }

    /// Pushes `count` values that are computed at this position.
    #[inline]
    pub fn make(&mut self, count: usize) {
        self.made += count as u64;
        for _ in 0..count {
            self.count(1);
            self.push(Value { oldest: self.serial, since: self.work, made_at: self.position, ..Value::UNKNOWN });
        }
    }

    /// Pushes a constant, which the compiler makes again wherever it is used.
    #[inline]
    pub fn constant(&mut self) {
        self.push(Value { made_at: self.position, folds: CONSTANT, ..Value::NONE });
    }

    /// Marks the top value as the same in each run.
    pub fn is_constant(&mut self) {
        if let Some(value) = self.stack.last_mut() {
            value.folds = CONSTANT;
        }
    }

    /// Pushes a result that is computed where it is used.
    #[inline]
    pub fn pure(&mut self, units: u32, operands: usize) {
        let (mut all, mut folds) = (Value::NONE, CONSTANT);
        for _ in 0..operands {
            let operand = self.pop();
            all = all.and(operand);
            folds &= operand.folds;
        }
        self.compute(units, all, folds & CONSTANT);
    }

    /// Pushes a result made of the values that `all` stands for, by an operator of so many units.
    fn compute(&mut self, units: u32, mut all: Value, folds: u8) {
        self.count(1);
        all.oldest = all.oldest.min(self.serial);
        // A value can occur in it often, but it has at most the values that were made since the
        // first one. A sum of a value and itself, repeated, keeps no more alive.
        let most = self.serial - all.oldest + 1;
        all.weight = all.weight.min(most);
        all.since = all.since.min(self.work);
        self.work = self.work.saturating_add(1 + units);
        all.nodes = all.nodes.saturating_add(1 + units).min(self.work - all.since);
        self.push(Value { made_at: self.position, folds, ..all });
    }

    /// Pushes such a result of an operator on two operands, which folds with others of its class.
    #[inline]
    pub fn folding(&mut self, class: u8) {
        let (one, other) = (self.pop(), self.pop());
        let either = one.folds | other.folds;
        let (mut folds, mut row) = (one.folds & other.folds & CONSTANT, 0);
        if either & CONSTANT != 0 {
            folds |= class;
            if either & class != 0 {
                row = one.row.max(other.row).saturating_add(1);
                self.folds += fold(row);
            }
        }
        self.compute(0, Value { row, ..one.and(other) }, folds);
    }

    /// Counts `values` more.
    #[inline]
    pub(super) const fn count(&mut self, values: u32) {
        self.serial = self.serial.saturating_add(values);
    }

    #[inline]
    pub fn get(&mut self, local: u32) {
        let Local { value, read_in, known_at, .. } = &mut self.locals[local as usize];
        let is_joined = value.folds & JOINED != 0;
        let loop_at = self.frames.last().map_or(0, |frame| frame.loop_at);
        // A local that was set before a loop may have another value in each iteration.
        if is_joined || *known_at < loop_at {
            self.made += u64::from(is_joined);
            self.serial = self.serial.saturating_add(1);
            self.again += u64::from(value.owed);
            *value = value.known(self.serial, self.work);
            *known_at = self.position;
        }
        if *read_in != self.run {
            self.again += u64::from(value.nodes);
            *read_in = self.run;
        }
        let value = *value;
        self.push(value);
    }
}

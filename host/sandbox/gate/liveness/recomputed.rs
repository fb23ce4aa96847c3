//! Values that the compiler computes again before branches. A local that becomes a parameter of the
//! block that a branch leads to is computed before the branch, unless code that dominates the
//! branch has computed it.
//!
//! A stretch is code that runs from its beginning if any of it runs: an arm, or the code between a
//! conditional branch and the end of the construct that it leads to.

use super::Liveness;
use crate::sandbox::gate::join::{Construct, NEVER};

/// Ranges of operators that do not dominate the code after them. No range contains another.
#[derive(Default)]
pub struct Bypassed(Vec<(u32, u32)>);

impl Bypassed {
    pub fn clear(&mut self) {
        self.0.clear();
    }

    /// Records that a way to `here` skips the operators after `first_way`.
    pub fn leave(&mut self, first_way: u32, here: u32) {
        if first_way < here {
            while self.0.pop_if(|(from, _)| *from >= first_way).is_some() {}
            self.0.push((first_way, here));
        }
    }

    /// Whether each way to the current operator runs the operator at `position`.
    pub fn dominates(&self, position: u32) -> bool {
        let before = self.0.partition_point(|(from, _)| *from < position);
        before == 0 || self.0[before - 1].1 < position
    }
}

impl Liveness {
    /// Counts what a branch to a construct takes to compute the locals that are set in it.
    pub(super) fn carry(&mut self, target: usize) {
        let (log, position) = (self.frames[target].log, self.position);
        let is_loop = self.frames[target].construct == Construct::Loop;
        self.looks += (self.log.len() - log) as u64;
        for entry in &mut self.log[log..] {
            let local = &self.locals[entry.local as usize];
            let is_outer_entrys = entry.outer != NEVER && entry.outer as usize >= log;
            // A value that was set in this stretch is computed here for the first time.
            let is_new = local.set_at >= self.stretch_at;
            let is_computed = entry.carried_at > local.set_at && self.left.dominates(entry.carried_at);
            if local.value.nodes == 0 || is_outer_entrys || is_new || is_computed {
                continue;
            }
            entry.carried_at = position;
            if is_loop {
                self.again += u64::from(local.value.nodes);
            } else {
                entry.owed = entry.owed.saturating_add(local.value.nodes);
            }
        }
        let frame = &mut self.frames[target];
        if frame.arrived_at == 0 || !self.left.dominates(frame.arrived_at) {
            frame.arrivals += 1;
            frame.arrived_at = position;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Bypassed;

    #[test]
    fn what_was_left_dominates_nothing_and_what_surrounds_it_does() {
        let mut left = Bypassed::default();
        assert!(left.dominates(1));
        left.leave(10, 20);
        left.leave(30, 40);
        let dominating = |left: &Bypassed| (1..60).filter(|at| left.dominates(*at)).collect::<Vec<_>>();
        assert_eq!(dominating(&left), (1..=10).chain(20 + 1..=30).chain(40 + 1..60).collect::<Vec<_>>());
        // A range that contains both takes their place.
        left.leave(5, 50);
        assert_eq!(dominating(&left), (1..=5).chain(50 + 1..60).collect::<Vec<_>>());
        left.leave(u32::MAX, 55);
        assert!(left.dominates(55), "nothing left before the end");
    }
}

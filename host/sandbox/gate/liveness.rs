//! Liveness: which values may be alive at once in a function, and where they join. These numbers
//! drive the cost of the compiler's passes over live ranges. One pass computes them, with a stack
//! of facts about each value in place of the value.
//!
//! The compiler computes a pure operator as late as it can. So a sum of many loads that is used at
//! the end keeps all of them alive, although it is one local. The weight of a value is the number
//! of values that it may keep alive.

mod recomputed;
mod values;

use wasmparser::FrameKind;

use self::recomputed::Bypassed;
use super::join::{CONSTANT, Construct, ConstructExit, ControlFrame, JOINED, Local, LocalChange, NEVER, Value};

#[derive(Default)]
pub struct Liveness {
    stack: Vec<Value>,
    locals: Vec<Local>,
    frames: Vec<ControlFrame>,
    log: Vec<LocalChange>,
    /// Number of the current operator.
    position: u32,
    /// Whether the current position is unreachable. Code here is not compiled.
    is_dead: bool,
    /// Time of the last branch out of a construct.
    branched_at: u32,
    /// Height of the stack where the innermost construct begins.
    base: usize,
    /// Weight of all locals and stack values.
    weight: u64,
    /// Number of locals, values made and values joined.
    made: u64,
    /// Serial number of the next value.
    serial: u32,
    /// Units of all values that were made.
    work: u32,
    /// Locals that branches looked at, each time.
    pub looks: u64,
    left: Bypassed,
    /// Operator at which the innermost stretch of code began.
    stretch_at: u32,
    /// Number of the current run of operators without control between them.
    run: u32,
    /// Pure operators that the compiler may compute again, because no code that dominates has
    /// computed them.
    pub again: u64,
    pub joins: u64,
    pub chains: u64,
    /// Units of operators that fold.
    pub folds: u64,
    pub live: u64,
    pub live_control: u64,
    pub height_max: usize,
}

impl Liveness {
    /// Resets the state for a new function.
    pub fn begin(&mut self, params: usize, locals: usize, results: usize) {
        self.stack.clear();
        self.frames.clear();
        self.log.clear();
        self.left.clear();
        self.locals.clear();
        let local = |value| Local { value, set_at: 0, entry: NEVER, read_in: NEVER, known_at: 0 };
        self.locals.resize(params, local(Value::UNKNOWN));
        // Locals begin as zero, which is a constant.
        self.locals.resize(locals, local(Value { folds: CONSTANT, ..Value::UNKNOWN }));
        self.weight = locals as u64 + 1;
        self.made = self.weight;
        (self.position, self.is_dead, self.branched_at, self.base) = (1, false, 0, 0);
        (self.joins, self.chains, self.folds, self.live, self.live_control, self.height_max) = (0, 0, 0, 0, 0, 0);
        (self.serial, self.run, self.again) = (0, 0, 0);
        (self.work, self.looks, self.stretch_at) = (0, 0, 0);
        self.frame(Construct::Body, 0, results);
        self.position = 2;
    }

    /// Returns the height of the operand stack.
    pub fn height(&self) -> usize {
        self.stack.len()
    }

    /// Returns the number of open constructs, and how many of them are loops.
    pub fn nesting(&self) -> (u64, u64) {
        (self.frames.len().saturating_sub(1) as u64, self.frames.last().map_or(0, |frame| frame.loops))
    }

    /// Returns the kind of the innermost construct; `None` after the end of the body.
    #[inline]
    pub fn frame_kind(&self) -> Option<FrameKind> {
        self.frames.last().map(|frame| match frame.construct {
            Construct::Body | Construct::Block => FrameKind::Block,
            Construct::Loop => FrameKind::Loop,
            Construct::If if frame.else_at == NEVER => FrameKind::If,
            Construct::If => FrameKind::Else,
        })
    }

    /// Finishes an operator.
    #[inline]
    pub fn step(&mut self) {
        self.height_max = self.height_max.max(self.stack.len());
        self.live += self.alive();
        self.position += 1;
    }

    /// Finishes a control operator.
    pub fn control(&mut self) {
        self.live_control += self.alive();
        self.run += 1;
        self.step();
    }

    #[inline]
    fn alive(&self) -> u64 {
        self.weight.min(self.made + self.stack.len() as u64)
    }

    #[inline]
    pub fn set(&mut self, local: u32, value: Value) {
        if self.is_dead {
            return;
        }
        let (index, position) = (local as usize, self.position);
        let Local { value: before, set_at, entry: outer, .. } = self.locals[index];
        let open = self.frames.partition_point(|frame| frame.opened_at <= set_at);
        let anew = self.frames.len() - open;
        let entry = if anew == 0 {
            outer
        } else {
            self.chains = self.chains.saturating_add((anew * anew) as u64);
            if let Some(inner) = self.frames.last_mut() {
                inner.sets += 1;
            }
            if let Some(shared) = open.checked_sub(1) {
                self.frames[shared].sets -= 1;
            }
            let opened_at = self.frames.last().map_or(0, |frame| frame.opened_at);
            let (carried, branched_at) = (Value::NONE, self.branched_at);
            // Branches that left before this operator carry the value from before it.
            let arrivals = self.frames.last().map_or(0, |frame| frame.arrivals);
            let owed = before.nodes.saturating_mul(arrivals);
            let entry = LocalChange {
                local,
                outer,
                before,
                carried,
                owed,
                carried_at: 0,
                changed_at: opened_at,
                branched_at,
                first_arm: 0,
            };
            self.log.push(entry);
            self.log.len() as u32 - 1
        };
        self.log[entry as usize].change(before, position, self.branched_at);
        self.weight = self.weight + value.held() - before.held();
        self.locals[index] = Local { value, set_at: position, entry, read_in: self.run, known_at: position };
    }

    /// Opens a construct. The condition of an `if` is already off the stack.
    pub fn open(&mut self, construct: Construct, params: usize, results: usize) {
        let carried = if construct == Construct::If { self.top(params) } else { Value::NONE };
        self.base = self.stack.len().saturating_sub(params).max(self.base);
        self.fill(params);
        if construct == Construct::Loop {
            self.count(params as u32);
        }
        self.frame(construct, params, results);
        if construct == Construct::If {
            self.stretch_at = self.position;
        }
        if let Some(frame) = self.frames.last_mut() {
            frame.carried = carried;
        }
    }

    fn frame(&mut self, construct: Construct, params: usize, results: usize) {
        let is_loop = construct == Construct::Loop;
        let (loops, loop_at) = self.frames.last().map_or((0, 1), |outer| (outer.loops, outer.loop_at));
        let loops = loops + u64::from(is_loop);
        let loop_at = if is_loop { self.position } else { loop_at };
        let ways = match construct {
            Construct::Body => 0,
            Construct::Block | Construct::Loop => 1,
            Construct::If => 2,
        };
        self.frames.push(ControlFrame {
            construct,
            is_dead: self.is_dead,
            opened_at: self.position,
            height: self.base,
            results,
            label: if is_loop { params } else { results },
            ways,
            arrivals: 0,
            outer_arrivals: self.frames.last().map_or(0, |outer| outer.arrivals),
            arrived_at: 0,
            stretch_at: self.stretch_at,
            sets: 0,
            first_branch: NEVER,
            last_branch: 0,
            else_at: NEVER,
            carried: Value::NONE,
            differs: false,
            log: self.log.len(),
            loops,
            loop_at,
        });
    }

    /// Pushes missing values. In dead code, the values at the begin or end of a construct may be
    /// absent.
    fn fill(&mut self, count: usize) {
        while self.stack.len() < self.base + count {
            self.push(Value::UNKNOWN);
        }
    }

    /// Returns the merged facts of the top `count` values.
    fn top(&self, count: usize) -> Value {
        let from = self.stack.len().saturating_sub(count).max(self.base);
        self.stack[from..].iter().fold(Value::NONE, |all, value| all.or(*value))
    }

    /// Records a branch out of `depth` constructs. Returns the number of values that it carries.
    pub fn branch(&mut self, depth: u32) -> u64 {
        let label = self.label(depth);
        let carried = self.top(label);
        self.arrive(depth, carried);
        label as u64
    }

    /// Returns the number of values that a branch out of `depth` constructs carries.
    fn label(&self, depth: u32) -> usize {
        self.target(depth).map_or(0, |target| self.frames[target].label)
    }

    fn target(&self, depth: u32) -> Option<usize> {
        self.frames.len().checked_sub(depth as usize + 1)
    }

    /// Records branches to several places that carry the same values. Returns the number of values
    /// over all branches.
    pub fn branches(&mut self, depths: impl Iterator<Item = u32>, default: u32) -> u64 {
        let label = self.label(default);
        let carried = self.top(label);
        let mut count = 0;
        for depth in depths.chain([default]) {
            self.arrive(depth, carried);
            count += label as u64;
        }
        count
    }

    fn arrive(&mut self, depth: u32, carried: Value) {
        let (position, is_dead) = (self.position, self.is_dead);
        let Some(target) = self.target(depth) else { return };
        if !is_dead {
            self.carry(target);
        }
        let frame = &mut self.frames[target];
        frame.ways += 1;
        if !is_dead && frame.construct != Construct::Loop {
            self.branched_at = position;
            frame.differs |= frame.first_branch != NEVER && carried.made_at > frame.first_branch;
            frame.first_branch = frame.first_branch.min(position);
            frame.last_branch = position;
            frame.carried = frame.carried.or(carried);
        }
    }

    /// Restores the values that a `br_if` leaves on the stack in dead code.
    pub fn stay(&mut self, depth: u32) {
        self.stretch_at = self.position;
        self.fill(self.label(depth));
    }

    /// Marks the following code as unreachable from above.
    pub fn leave(&mut self) {
        self.truncate(self.base);
        self.is_dead = true;
    }

    /// Begins the second arm of an `if`, with the locals and parameters from before the first.
    pub fn otherwise(&mut self, params: usize) {
        // The parameters are known only as the merge of all values before the first arm.
        let before = self.frames.last().map_or(Value::NONE, |frame| frame.carried.or(Value::UNKNOWN));
        let (is_dead, position) = (self.is_dead, self.position);
        let carried = self.top(self.label(0));
        self.arrive(0, carried);
        self.truncate(self.base);
        (0..params).for_each(|_| self.push(before));
        self.again += params as u64 * u64::from(before.nodes);
        let Some(frame) = self.frames.last_mut() else { return };
        frame.else_at = position;
        let opened_at = frame.opened_at;
        self.is_dead = frame.is_dead;
        for entry in &mut self.log[frame.log..] {
            let local = &mut self.locals[entry.local as usize];
            entry.first_arm = if is_dead { 0 } else { local.value.made_at };
            entry.change(local.value, position, self.branched_at);
            self.weight = self.weight + entry.before.held() - local.value.held();
            local.value = entry.before;
        }
        self.left.leave(opened_at, position);
        self.stretch_at = self.position;
    }

    pub fn end(&mut self) {
        let Some(frame) = self.frames.pop() else { return };
        let Some(outer) = self.frames.last_mut() else { return };
        outer.sets += frame.sets;
        if frame.ways > 1 {
            let values = frame.sets.max(0).cast_unsigned() + frame.label as u64;
            self.joins = self.joins.saturating_add(frame.ways.saturating_mul(values));
        }
        let (outer_log, outer_base, outer_opened_at) = (outer.log, outer.height, outer.opened_at);
        let end = ConstructExit::of(&frame, self.is_dead, self.position);

        // Results of the construct.
        self.fill(frame.results);
        for index in frame.height..self.stack.len() {
            let mut value = end.result(&frame, self.stack[index]);
            if value.folds & JOINED != 0 {
                self.made += 1;
                self.count(1);
                value = value.known(self.serial, self.work);
            }
            self.weight = self.weight + u64::from(value.weight) - u64::from(self.stack[index].weight);
            self.stack[index] = value;
        }
        // Locals of the construct; their log entries move to the outer construct.
        let mut kept = frame.log;
        for index in frame.log..self.log.len() {
            let mut entry = self.log[index];
            let local = &mut self.locals[entry.local as usize];
            let inner = local.value.owed.max(entry.carried.owed).max(entry.before.owed);
            if let Some(mut value) = end.local(&frame, &entry, local.value, self.branched_at) {
                if value.folds & JOINED != 0 {
                    value.owed = inner.saturating_add(std::mem::take(&mut entry.owed));
                }
                entry.change(local.value, self.position, self.branched_at);
                self.weight = self.weight + value.held() - local.value.held();
                local.value = value;
            }
            if entry.outer != NEVER && entry.outer as usize >= outer_log {
                let into = &mut self.log[entry.outer as usize];
                into.change(entry.before, entry.changed_at, entry.branched_at);
                into.carried = into.carried.or(entry.carried);
                into.owed = into.owed.saturating_add(entry.owed);
                local.entry = entry.outer;
            } else {
                if entry.branched_at > outer_opened_at {
                    entry.carried = entry.carried.or(entry.before);
                }
                entry.owed = entry.owed.saturating_add(entry.before.nodes.saturating_mul(frame.outer_arrivals));
                local.entry = kept as u32;
                self.log[kept] = entry;
                kept += 1;
            }
        }
        self.log.truncate(kept);
        self.left.leave(end.first_way, self.position);
        if frame.construct == Construct::If || end.first_way != NEVER {
            self.stretch_at = frame.stretch_at;
        }
        self.base = outer_base;
        self.is_dead = !end.falls_through && end.first_way == NEVER;
    }
}

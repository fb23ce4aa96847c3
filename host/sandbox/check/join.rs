//! Where ways meet in a function: what is known of a value there, in place of the value.

/// What is known of one value.
#[derive(Clone, Copy)]
pub struct Value {
    pub weight: u32,
    /// How many pure operators it may take to compute it.
    pub nodes: u32,
    /// The serial number of the first value that it is made of.
    pub oldest: u32,
    /// The number of the operator that made it, or of an earlier one: what was made after a branch is not what the branch
    /// carried.
    pub made_at: u32,
    /// [`CONSTANT`], and the classes of operators with a constant operand that it may be the result of.
    pub folds: u8,
    /// How many operators in a row fold into it.
    pub row: u8,
}

pub const CONSTANT: u8 = 1 << 7;

/// Made where ways meet, and not counted yet: what nobody reads is nothing to compile.
pub const JOINED: u8 = 1 << 6;

/// For the position of what there is not.
pub const NEVER: u32 = u32::MAX;

#[derive(Clone, Copy)]
pub struct Local {
    pub value: Value,
    pub set_at: u32,
    /// Its entry in the log, of the innermost construct that has one.
    pub entry: u32,
    /// The run of operators without control between them in which it was last read or set.
    pub read_in: u32,
    /// The number of the operator that set it, or that first read it in the innermost loop.
    pub known_at: u32,
}

/// A local that was set within a construct.
#[derive(Clone, Copy)]
pub struct Entry {
    pub local: u32,
    /// The entry of a construct further out.
    pub outer: u32,
    pub before: Value,
    /// All that it was where branches left.
    pub carried: Value,
    pub changed_at: u32,
    /// When the last branch left before it was set within.
    pub branched_at: u32,
    /// When its value at the end of the `if`'s first arm was made.
    pub first_arm: u32,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Construct {
    Body,
    Block,
    Loop,
    If,
}

pub struct Frame {
    pub construct: Construct,
    pub is_dead: bool,
    pub opened_at: u32,
    /// Of the stack, below its parameters.
    pub height: usize,
    pub results: usize,
    /// Values that a branch to it carries.
    pub label: usize,
    /// Ways into its join: the head of a loop, the end of all else.
    pub ways: u64,
    /// Distinct locals that are set within, less those that inner constructs count.
    pub sets: i64,
    /// Branches to its end that can be taken; the end of an `if`'s first arm is one.
    pub first_branch: u32,
    pub last_branch: u32,
    pub else_at: u32,
    /// All that branches carry; and whether two of them surely carry different values.
    pub carried: Value,
    pub differs: bool,
    pub log: usize,
    pub loops: u64,
    /// Where the innermost loop begins, or the body.
    pub loop_at: u32,
}

impl Value {
    pub const NONE: Self = Self { weight: 0, nodes: 0, oldest: NEVER, made_at: NEVER, folds: 0, row: 0 };
    pub const UNKNOWN: Self = Self { weight: 1, nodes: 0, oldest: 0, made_at: 0, folds: 0, row: 0 };

    /// What both together keep alive and take to compute, with all else as it is of this one.
    pub fn and(self, other: Self) -> Self {
        Self {
            weight: self.weight.saturating_add(other.weight),
            nodes: self.nodes.saturating_add(other.nodes),
            oldest: self.oldest.min(other.oldest),
            ..self
        }
    }

    /// What is true of it if it is the one or the other.
    pub fn or(self, other: Self) -> Self {
        Self {
            weight: self.weight.max(other.weight),
            nodes: self.nodes.max(other.nodes),
            oldest: self.oldest.min(other.oldest),
            made_at: self.made_at.min(other.made_at),
            folds: self.folds | other.folds,
            row: self.row.max(other.row),
        }
    }

    /// What it weighs as a local, which may be the parameter of a loop further out.
    pub fn held(self) -> u64 {
        self.weight.max(1).into()
    }

    /// It is read where it may have been joined, and that is the value with this serial number.
    pub const fn known(mut self, serial: u32) -> Self {
        self.folds &= !JOINED;
        if self.weight <= 1 && self.nodes == 0 {
            self.oldest = serial;
        }
        self
    }

    /// It may also be a parameter of a block.
    pub fn or_joined(self) -> Self {
        Self { weight: self.weight.max(1), folds: self.folds | JOINED, ..self }
    }
}

impl Entry {
    /// The local is not `from` any more, as what it may have been carried.
    pub fn change(&mut self, from: Value, position: u32, branched_at: u32) {
        if branched_at > self.changed_at {
            self.carried = self.carried.or(from);
        }
        self.changed_at = position;
    }
}

/// How a construct is left. The compiler removes a block's parameter that is the same value on each way, so what is not
/// surely different keeps what it weighs.
pub struct End {
    pub position: u32,
    pub falls_through: bool,
    /// When the first of the other ways was taken.
    pub first_way: u32,
    pub skips: bool,
}

impl End {
    pub fn of(frame: &Frame, is_dead: bool, position: u32) -> Self {
        let skips = frame.construct == Construct::If && frame.else_at == NEVER && !frame.is_dead;
        let first_way = match frame.construct {
            Construct::Loop => NEVER,
            _ if skips => frame.opened_at,
            _ => frame.first_branch,
        };
        Self { position, falls_through: !is_dead, first_way, skips }
    }

    pub const fn joined(&self) -> Value {
        Value { made_at: self.position, folds: JOINED, ..Value::UNKNOWN }
    }

    pub fn result(&self, frame: &Frame, value: Value) -> Value {
        match () {
            () if self.first_way == NEVER => value,
            () if frame.differs || self.falls_through && value.made_at > self.first_way => self.joined(),
            () if self.falls_through => value.or_joined(),
            () => frame.carried.or_joined(),
        }
    }

    /// What a local that was set is now, if not what it was at last.
    pub fn local(&self, frame: &Frame, entry: &Entry, value: Value, branched_at: u32) -> Option<Value> {
        if self.first_way == NEVER {
            let is_joined = frame.construct == Construct::Loop && frame.ways > 1;
            return is_joined.then(|| value.or_joined());
        }
        // Set before the first way out, and then no more: the same on all ways.
        if entry.changed_at < self.first_way {
            return None;
        }
        if self.falls_through {
            let second_arm = value.made_at > self.first_way;
            // At the end of the second arm, it is what it was before the first.
            let first_arm =
                frame.else_at != NEVER && entry.changed_at <= frame.else_at && entry.first_arm > frame.opened_at;
            return match () {
                () if second_arm || first_arm => Some(self.joined()),
                () => Some(value.or_joined()),
            };
        }
        if self.skips && frame.first_branch == NEVER {
            return Some(entry.before);
        }
        // The last branch carried what it is now.
        let differs = entry.changed_at < frame.last_branch && value.made_at > self.first_way;
        let mut carried = entry.carried;
        if branched_at > entry.changed_at {
            carried = carried.or(value);
        }
        if self.skips {
            carried = carried.or(entry.before);
        }
        Some(if differs { self.joined() } else { carried.or_joined() })
    }
}

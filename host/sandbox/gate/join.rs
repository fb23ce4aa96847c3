//! Join points of control flow: the estimate keeps facts about each value, not the value, and
//! merges these facts at each join.

/// Facts about one value.
#[derive(Clone, Copy)]
pub struct Value {
    pub weight: u32,
    /// Units that it may take to compute the value.
    pub nodes: u32,
    /// Units that branches take to compute what they carry to the place where the value was made.
    /// These units count only if code reads the value.
    pub owed: u32,
    /// Units of all values before the first value that it is made of.
    pub since: u32,
    /// Serial number of the first value that it is made of.
    pub oldest: u32,
    /// Number of the operator that made the value, or of an earlier operator. A value that was made
    /// after a branch is not the one that the branch carried.
    pub made_at: u32,
    /// [`CONSTANT`], and the operator classes that the value may come from with a constant operand.
    pub folds: u8,
    /// Length of the row of operators that fold into it.
    pub row: u8,
}

pub const CONSTANT: u8 = 1 << 7;

/// The value was made at a join and is not counted yet. A value that nothing reads costs the
/// compiler nothing.
pub const JOINED: u8 = 1 << 6;

/// Marks an absent position or entry.
pub const NEVER: u32 = u32::MAX;

#[derive(Clone, Copy)]
pub struct Local {
    pub value: Value,
    pub set_at: u32,
    /// Index of its entry in the log, for the innermost construct that has one.
    pub entry: u32,
    /// Run of operators without control between them in which the local was last read or set.
    pub read_in: u32,
    /// Number of the operator that set it, or that first read it in the innermost loop.
    pub known_at: u32,
}

/// Log entry of a local that was set within a construct.
#[derive(Clone, Copy)]
pub struct LocalChange {
    pub local: u32,
    /// The local's entry in an outer construct.
    pub outer: u32,
    pub before: Value,
    /// All values of the local that branches carried, merged.
    pub carried: Value,
    /// Units that branches take to compute the value that they carry of it.
    pub owed: u32,
    /// Last branch that was counted in `owed`.
    pub carried_at: u32,
    pub changed_at: u32,
    /// Time of the last branch before the local was set within the construct.
    pub branched_at: u32,
    /// When the local's value at the end of the `if`'s first arm was made.
    pub first_arm: u32,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Construct {
    Body,
    Block,
    Loop,
    If,
}

pub struct ControlFrame {
    pub construct: Construct,
    pub is_dead: bool,
    pub opened_at: u32,
    /// Height of the stack below its parameters.
    pub height: usize,
    pub results: usize,
    /// Number of values that a branch to the construct carries.
    pub label: usize,
    /// Edges into its join: the head of a loop, the end of any other construct.
    pub ways: u64,
    /// Branches to it that no other branch to it dominates, and the last of them.
    pub arrivals: u32,
    pub arrived_at: u32,
    /// Arrivals at the construct around it when this one began.
    pub outer_arrivals: u32,
    /// Operator at which the stretch of code around it began.
    pub stretch_at: u32,
    /// Distinct locals that are set within, without those that inner constructs count.
    pub sets: i64,
    /// Reachable branches to its end. The end of an `if`'s first arm counts as one.
    pub first_branch: u32,
    pub last_branch: u32,
    pub else_at: u32,
    /// All values that branches carry, merged; and whether two of them certainly differ.
    pub carried: Value,
    pub differs: bool,
    pub log: usize,
    pub loops: u64,
    /// Where the innermost loop begins, or the body.
    pub loop_at: u32,
}

impl Value {
    pub const NONE: Self =
        Self { weight: 0, nodes: 0, owed: 0, since: NEVER, oldest: NEVER, made_at: NEVER, folds: 0, row: 0 };
    pub const UNKNOWN: Self = Self { weight: 1, nodes: 0, owed: 0, since: 0, oldest: 0, made_at: 0, folds: 0, row: 0 };

    /// Adds the live values and operators of `other`; all other facts stay those of `self`.
    pub fn and(self, other: Self) -> Self {
        Self {
            weight: self.weight.saturating_add(other.weight),
            nodes: self.nodes.saturating_add(other.nodes),
            owed: 0,
            since: self.since.min(other.since),
            oldest: self.oldest.min(other.oldest),
            ..self
        }
    }

    /// Merges the facts of two possible values.
    pub fn or(self, other: Self) -> Self {
        Self {
            weight: self.weight.max(other.weight),
            nodes: self.nodes.max(other.nodes),
            owed: self.owed.max(other.owed),
            since: self.since.min(other.since),
            oldest: self.oldest.min(other.oldest),
            made_at: self.made_at.min(other.made_at),
            folds: self.folds | other.folds,
            row: self.row.max(other.row),
        }
    }

    /// Returns the weight of the value as a local, which may be the parameter of an outer loop.
    pub fn held(self) -> u64 {
        self.weight.max(1).into()
    }

    /// Notes that a local with this serial number, which may have been joined, is read as this
    /// value after so many units of work.
    pub const fn known(mut self, serial: u32, work: u32) -> Self {
        self.folds &= !JOINED;
        self.owed = 0;
        if self.weight <= 1 && self.nodes == 0 {
            self.oldest = serial;
            self.since = work;
        }
        self
    }

    /// Adds that the value may also be a block parameter.
    pub fn or_joined(self) -> Self {
        Self { weight: self.weight.max(1), folds: self.folds | JOINED, ..self }
    }
}

impl LocalChange {
    /// Records that the local no longer is `from`. If a branch left since the last change, it may
    /// have carried `from`.
    pub fn change(&mut self, from: Value, position: u32, branched_at: u32) {
        if branched_at > self.changed_at {
            self.carried = self.carried.or(from);
        }
        self.changed_at = position;
    }
}

/// How control leaves a construct. The compiler removes a block parameter that is the same value on
/// each edge. So a value that does not certainly differ keeps its weight.
pub struct ConstructExit {
    pub position: u32,
    pub falls_through: bool,
    /// Time of the first edge to the end, other than the fall-through.
    pub first_way: u32,
    pub skips: bool,
}

impl ConstructExit {
    pub fn of(frame: &ControlFrame, is_dead: bool, position: u32) -> Self {
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

    pub fn result(&self, frame: &ControlFrame, value: Value) -> Value {
        match () {
            () if self.first_way == NEVER => value,
            () if frame.differs || self.falls_through && value.made_at > self.first_way => self.joined(),
            () if self.falls_through => value.or_joined(),
            () => frame.carried.or_joined(),
        }
    }

    /// Returns the new value of a local that was set, or `None` if it keeps its last value.
    pub fn local(&self, frame: &ControlFrame, entry: &LocalChange, value: Value, branched_at: u32) -> Option<Value> {
        if self.first_way == NEVER {
            let is_joined = frame.construct == Construct::Loop && frame.ways > 1;
            return is_joined.then(|| value.or_joined());
        }
        // Set only before the first edge to the end, so it is the same on all edges.
        if entry.changed_at < self.first_way {
            return None;
        }
        if self.falls_through {
            let second_arm = value.made_at > self.first_way;
            // Set in the first arm only: at the end of the second arm, the local has its value from
            // before the first.
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
        // The last branch carried the current value.
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

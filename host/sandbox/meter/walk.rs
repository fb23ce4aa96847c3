//! Walk over a valid body, in one pass: finds the reachable operators and their operands, and
//! collects what the other concerns need.

use wasmparser::{BlockType, FrameKind, Operator};

use super::arity::ArityOf;
use super::gas::{Charge, Charges};
use super::nan::{self, NanSites, ValueOrigin};
use super::role::{F32, F64, Shapes, role};
use super::{Meter, MeterError, bulk, schedule, stack};

/// Findings about a body before it is written.
pub struct BodyFindings {
    pub charges: Vec<Charge>,
    /// The operators after which the value is made canonical, with its shape.
    pub canonical: Vec<(usize, Shapes)>,
    /// For each operator, whether it is reachable.
    pub reached: Vec<bool>,
    /// Stack charge of the frame; zero for a function without calls, because only one such frame
    /// exists at a time.
    pub frame_bytes: u64,
}

struct WalkFrame {
    kind: FrameKind,
    ty: BlockType,
    /// Height of the operand stack below the frame's parameters.
    height: usize,
    /// Maximum gas since the last poll point on any branch to the frame's end; `None` without such
    /// a branch.
    branched: Option<u64>,
    /// Gas since the last poll point at the frame's `if`, where its second arm begins.
    unchecked_at_if: u64,
}

pub struct BodyWalk<'a> {
    meter: &'a Meter,
    frames: Vec<WalkFrame>,
    operands: Vec<ValueOrigin>,
    charges: Charges,
    nans: NanSites,
    deepest: usize,
    values: u64,
    calls: bool,
    loops: bool,
    /// Whether the body moves bytes whose number is unknown.
    moves: bool,
    /// Number of frames that were opened in unreachable code; `None` in reachable code.
    unreached: Option<u32>,
}

impl<'a> BodyWalk<'a> {
    /// Walks over the body of a function of type `ty`. `locals` excludes its parameters.
    pub fn over(meter: &'a Meter, ty: u32, locals: usize, body: &[Operator<'_>]) -> Result<BodyFindings, MeterError> {
        let params = meter.signature(ty)?.params().len();
        let whole = WalkFrame {
            kind: FrameKind::Block,
            ty: BlockType::FuncType(ty),
            height: 0,
            branched: None,
            unchecked_at_if: 0,
        };
        let mut walk = BodyWalk {
            meter,
            frames: vec![whole],
            operands: Vec::new(),
            charges: Charges::new(),
            nans: NanSites::default(),
            deepest: 0,
            values: 0,
            calls: false,
            loops: false,
            moves: false,
            unreached: None,
        };
        walk.charges.add_free(locals);
        let mut reached = Vec::with_capacity(body.len());
        for (at, operator) in body.iter().enumerate() {
            let resumes = walk.is_reached(operator);
            reached.push(resumes);
            if resumes {
                walk.step(at, operator, bulk::short(body, at))?;
            }
        }
        let frame = stack::frame_bytes((params + locals) as u64, walk.deepest as u64, walk.values);
        Ok(BodyFindings {
            charges: walk.charges.into_list(walk.calls || walk.loops || walk.moves),
            canonical: walk.nans.canonical(params, params + locals),
            reached,
            frame_bytes: if walk.calls { frame } else { 0 },
        })
    }

    /// Returns whether an operator is reachable. Operators after a branch are not, up to the end of
    /// the enclosing block.
    fn is_reached(&mut self, operator: &Operator<'_>) -> bool {
        let Some(opened) = &mut self.unreached else { return true };
        match operator {
            Operator::Block { .. } | Operator::Loop { .. } | Operator::If { .. } => *opened += 1,
            Operator::End if *opened > 0 => *opened -= 1,
            Operator::End => return true,
            Operator::Else => return *opened == 0,
            _ => {}
        }
        false
    }

    fn step(&mut self, at: usize, operator: &Operator<'_>, short: Option<u64>) -> Result<(), MeterError> {
        let next = at + 1;
        if self.unreached.is_none() {
            self.charges.add(schedule::cost(operator), next);
        }
        match operator {
            Operator::Block { blockty } => self.enter(FrameKind::Block, *blockty, 0),
            Operator::Loop { blockty } => {
                self.charges.close();
                self.charges.open(next, 0, true);
                self.loops = true;
                // A back edge is never free.
                self.charges.add(schedule::TURN, next);
                self.enter(FrameKind::Loop, *blockty, 0)
            }
            Operator::If { blockty } => {
                self.pop();
                let unchecked = self.charges.close();
                self.charges.open(next, unchecked, false);
                self.enter(FrameKind::If, *blockty, unchecked)
            }
            Operator::Else => self.otherwise(next),
            Operator::End => self.end(next),
            Operator::Br { relative_depth } => {
                self.carry(*relative_depth)?;
                let unchecked = self.charges.close();
                self.branch(*relative_depth, unchecked)?;
                self.leave()
            }
            Operator::BrIf { relative_depth } => {
                self.pop();
                self.carry(*relative_depth)?;
                let unchecked = self.charges.close();
                self.branch(*relative_depth, unchecked)?;
                self.charges.open(next, unchecked, false);
                Ok(())
            }
            Operator::BrTable { targets } => {
                self.pop();
                self.carry(targets.default())?;
                let unchecked = self.charges.close();
                for target in targets.targets() {
                    self.branch(target?, unchecked)?;
                }
                self.branch(targets.default(), unchecked)?;
                self.leave()
            }
            Operator::Return => {
                let results = self.arity(&self.frames[0])?.1;
                self.charges.add_free(results);
                self.charges.close();
                self.observe_top(results);
                self.leave()
            }
            Operator::Unreachable => {
                self.charges.close();
                self.leave()
            }
            _ => self.plain(at, operator, short),
        }
    }

    /// Handles an operator that does not change the control flow. `short` is the result of
    /// [`bulk::short`].
    fn plain(&mut self, at: usize, operator: &Operator<'_>, short: Option<u64>) -> Result<(), MeterError> {
        match (operator, short) {
            (Operator::Call { .. } | Operator::CallIndirect { .. }, _) => {
                self.calls = true;
                let (params, results) = self.arity_of(operator)?;
                self.charges.add_free(params + results);
                match operator {
                    Operator::Call { function_index } if !self.meter.is_deep(*function_index) => {
                        self.charges.call(at + 1);
                    }
                    _ => self.charges.deep_call(at + 1),
                }
            }
            (_, Some(cost)) => self.charges.add_more(cost),
            (Operator::MemoryFill { .. } | Operator::MemoryCopy { .. }, None) => {
                self.moves = true;
                self.charges.call(at + 1);
            }
            _ => {}
        }
        match operator {
            Operator::Drop => {
                self.pop();
            }
            Operator::LocalGet { local_index } => {
                let source = self.nans.local(at, *local_index);
                self.push(source);
            }
            Operator::LocalSet { local_index } => {
                let source = self.pop();
                self.nans.write(*local_index, source);
            }
            Operator::LocalTee { local_index } => {
                let source = self.pop();
                self.nans.write(*local_index, source);
                let source = self.nans.local(at, *local_index);
                self.push(source);
            }
            Operator::F32Const { value } if !f32::from_bits(value.bits()).is_nan() => self.number(at, F32),
            Operator::F64Const { value } if !f64::from_bits(value.bits()).is_nan() => self.number(at, F64),
            Operator::V128Const { value } => self.number(at, nan::numbers_in(*value.bytes())),
            _ => {
                let (pops, pushes) = self.arity_of(operator)?;
                let role = role(operator);
                for _ in 0..pops {
                    let source = self.pop();
                    match role.reads {
                        Some(shape) => self.nans.read(source, shape),
                        None => self.nans.observe(source),
                    }
                }
                for _ in 0..pushes {
                    let source = match (role.makes, role.is_number) {
                        (None, _) => ValueOrigin::Exact,
                        (Some(shape), true) => self.nans.number(at, shape),
                        (Some(shape), false) => self.nans.arithmetic(at, shape),
                    };
                    self.push(source);
                }
            }
        }
        Ok(())
    }

    fn number(&mut self, at: usize, shapes: Shapes) {
        let source = self.nans.number(at, shapes);
        self.push(source);
    }

    fn push(&mut self, source: ValueOrigin) {
        self.values += 1;
        self.operands.push(source);
        self.deepest = self.deepest.max(self.operands.len());
    }

    fn pop(&mut self) -> ValueOrigin {
        self.operands.pop().unwrap_or(ValueOrigin::Exact)
    }

    /// Returns how many operands an operator pops and pushes.
    fn arity_of(&self, operator: &Operator<'_>) -> Result<(usize, usize), MeterError> {
        let (pops, pushes) = operator
            .operator_arity(&ArityOf(self.meter))
            .ok_or(MeterError::Unsupported("an operator of unknown arity"))?;
        Ok((pops as usize, pushes as usize))
    }

    fn arity(&self, frame: &WalkFrame) -> Result<(usize, usize), MeterError> {
        Ok(match frame.ty {
            BlockType::Empty => (0, 0),
            BlockType::Type(_) => (0, 1),
            BlockType::FuncType(ty) => {
                let ty = self.meter.signature(ty)?;
                (ty.params().len(), ty.results().len())
            }
        })
    }

    /// Marks the top values as observed, because they cross an edge. Values from the other edges
    /// are unknown here.
    fn observe_top(&mut self, count: usize) {
        let from = self.operands.len().saturating_sub(count);
        for operand in &mut self.operands[from..] {
            self.nans.observe(*operand);
            *operand = ValueOrigin::Exact;
        }
    }

    fn enter(&mut self, kind: FrameKind, ty: BlockType, unchecked_at_if: u64) -> Result<(), MeterError> {
        let mut frame = WalkFrame { kind, ty, height: 0, branched: None, unchecked_at_if };
        let (params, _) = self.arity(&frame)?;
        self.charges.add_free(params);
        self.observe_top(params);
        frame.height = self.operands.len().saturating_sub(params);
        self.frames.push(frame);
        Ok(())
    }

    /// Returns the frame that a branch leads to, and the number of values that it carries.
    fn target(&self, depth: u32) -> Result<(usize, usize), MeterError> {
        let target = self.frames.len().checked_sub(1 + depth as usize);
        let target = target.ok_or(MeterError::Unsupported("a branch to nowhere"))?;
        let (params, results) = self.arity(&self.frames[target])?;
        Ok((target, if self.frames[target].kind == FrameKind::Loop { params } else { results }))
    }

    /// Charges for the values that a branch carries.
    fn carry(&mut self, depth: u32) -> Result<(), MeterError> {
        let (_, count) = self.target(depth)?;
        self.charges.add_free(count);
        Ok(())
    }

    fn branch(&mut self, depth: u32, unchecked: u64) -> Result<(), MeterError> {
        let (target, count) = self.target(depth)?;
        let frame = &mut self.frames[target];
        if frame.kind != FrameKind::Loop {
            frame.branched = Some(frame.branched.unwrap_or(0).max(unchecked));
        }
        self.observe_top(count);
        Ok(())
    }

    fn leave(&mut self) -> Result<(), MeterError> {
        self.unreached = Some(0);
        let height = self.frames.last().map_or(0, |frame| frame.height);
        self.operands.truncate(height);
        Ok(())
    }

    /// Handles `else`, the end of the first arm of an `if`.
    fn otherwise(&mut self, next: usize) -> Result<(), MeterError> {
        let ended = self.finish_arm()?;
        let Some(frame) = self.frames.last_mut() else { return Ok(()) };
        frame.kind = FrameKind::Else;
        frame.branched = ended.max(frame.branched);
        let unchecked = frame.unchecked_at_if;
        let (params, _) = self.arity(&self.frames[self.frames.len() - 1])?;
        self.operands.extend(std::iter::repeat_n(ValueOrigin::Exact, params));
        self.charges.open(next, unchecked, false);
        Ok(())
    }

    fn end(&mut self, next: usize) -> Result<(), MeterError> {
        let is_reached = self.unreached.is_none();
        let Some(frame) = self.frames.last() else { return Ok(()) };
        let is_whole = self.frames.len() == 1;
        // One edge in and one edge out: the operators belong to one straight run.
        if is_reached
            && frame.branched.is_none()
            && matches!(frame.kind, FrameKind::Block | FrameKind::Loop)
            && !is_whole
        {
            let (_, results) = self.arity(frame)?;
            let height = frame.height;
            self.charges.add_free(results);
            self.observe_top(results);
            debug_assert_eq!(self.operands.len(), height + results);
            self.frames.pop();
            return Ok(());
        }
        let ended = self.finish_arm()?;
        let Some(frame) = self.frames.pop() else { return Ok(()) };
        let (_, results) = self.arity(&frame)?;
        let skipped = (frame.kind == FrameKind::If).then_some(frame.unchecked_at_if);
        match ended.max(frame.branched).max(skipped) {
            Some(unchecked) => {
                self.operands.extend(std::iter::repeat_n(ValueOrigin::Exact, results));
                self.charges.open(next, unchecked, false);
            }
            // No edge leads here, so the following code is dead too.
            None => self.leave_frame(),
        }
        Ok(())
    }

    fn leave_frame(&mut self) {
        self.unreached = Some(0);
        let height = self.frames.last().map_or(0, |frame| frame.height);
        self.operands.truncate(height);
    }

    /// Ends a path to the end of the innermost frame. Returns the gas spent on it since the last
    /// poll point, if it is reachable.
    fn finish_arm(&mut self) -> Result<Option<u64>, MeterError> {
        let is_reached = self.unreached.take().is_none();
        let Some(frame) = self.frames.last() else { return Ok(None) };
        let (height, (_, results)) = (frame.height, self.arity(frame)?);
        let ended = is_reached.then(|| {
            self.observe_top(results);
            self.charges.add_free(results);
            self.charges.close()
        });
        self.operands.truncate(height);
        Ok(ended)
    }
}

//! Validation of one function body. Each operator is validated, then counted for the limits and the
//! cost estimate.

use wasmparser::{
    BlockType, BrTable, FrameKind, FrameStack, FuncValidator, FunctionBody, ValidatorResources, VisitOperator,
    VisitSimdOperator,
};

use super::cost::{self, Flow, FunctionCounts, MILLI, Op, OperatorCost};
use super::join::Construct;
use super::limits::{GateLimits, LimitName};
use super::liveness::Liveness;

/// Limits that one body alone decides.
pub const COUNTED: &[LimitName] = &[
    LimitName::Locals,
    LimitName::Blocks,
    LimitName::Nesting,
    LimitName::LoopNesting,
    LimitName::StackValues,
    LimitName::BranchTargets,
    LimitName::Joins,
    LimitName::BlockValues,
    LimitName::CallValues,
    LimitName::FunctionCost,
];

/// Number of parameters and of results.
pub type FunctionArity = (u32, u32);

/// Declarations that bodies refer to.
#[derive(Default)]
pub struct Declared {
    /// Arity of each type.
    pub types: Vec<FunctionArity>,
    /// The type of each function; imported functions come first.
    pub functions: Vec<u32>,
    /// Whether each global is immutable.
    pub constants: Vec<bool>,
}

impl Declared {
    fn ty(&self, index: u32) -> FunctionArity {
        self.types.get(index as usize).copied().unwrap_or_default()
    }

    fn function(&self, index: u32) -> FunctionArity {
        self.functions.get(index as usize).map_or((0, 0), |ty| self.ty(*ty))
    }

    fn block(&self, ty: BlockType) -> (usize, usize) {
        let (params, results) = match ty {
            BlockType::Empty => (0, 0),
            BlockType::Type(_) => (0, 1),
            BlockType::FuncType(index) => self.ty(index),
        };
        (params as usize, results as usize)
    }
}

/// Form of the code that is read.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum CodeForm {
    /// The module as received. Its estimate is a lower bound.
    Brought,
    /// The module with the meter in it, as the compiler gets it.
    Compiled,
}

/// Counters of one body. Their allocations are reused for the next body.
#[derive(Default)]
pub struct BodyCounters {
    live: Liveness,
    found: GateLimits,
    counts: FunctionCounts,
}

/// Limit of [`Liveness::chains`], the squared number of constructs that count a local anew, summed.
/// More is beyond any limit on cost. Up to this number, each log entry of a local moves outwards at
/// most a few dozen times per byte.
const CHAINS_MAX: u64 = 100_000_000;
/// Looks of branches at locals beyond which a function is over any limit. Compilers' output has one
/// for five bytes.
const LOOKS_MAX: u64 = 100_000_000;

/// Validates `body` and counts its use of the limits in [`COUNTED`]. The second number is its cost
/// in thousandths of a unit.
pub fn read(
    body: &FunctionBody<'_>,
    validator: &mut FuncValidator<ValidatorResources>,
    declared: &Declared,
    limits: &GateLimits,
    stage: CodeForm,
    tally: &mut BodyCounters,
) -> wasmparser::Result<(GateLimits, u64)> {
    let mut reader = body.get_binary_reader();
    validator.read_locals(&mut reader)?;
    reader.set_features(*validator.features());
    let (params, results) = declared.function(validator.index());
    let locals = validator.len_locals();
    tally.found = GateLimits { locals: locals.into(), ..GateLimits::NONE };
    tally.counts = FunctionCounts {
        body_bytes: body.range().len() as u64,
        signature: u64::from(params) + u64::from(results),
        locals: locals.into(),
        ..FunctionCounts::default()
    };
    // A few bytes can declare any number of locals, and the counters need memory for each.
    if u64::from(locals) <= limits.locals {
        tally.live.begin(params as usize, locals as usize, results as usize);
        while !reader.eof() && tally.live.chains <= CHAINS_MAX && tally.live.looks <= LOOKS_MAX {
            let offset = reader.original_position();
            let mut operator = Counted { validator, offset, declared, tally };
            reader.visit_operator(&mut operator)??;
        }
    }
    while !reader.eof() {
        let offset = reader.original_position();
        reader.visit_operator(&mut validator.visitor(offset))??;
    }
    reader.finish_expression(&validator.visitor(reader.original_position()))?;
    Ok(tally.end(stage))
}

impl BodyCounters {
    fn end(&mut self, stage: CodeForm) -> (GateLimits, u64) {
        let (live, counts, found) = (&self.live, &mut self.counts, &mut self.found);
        (counts.joins, counts.chains, counts.block_values) = (live.joins, live.chains, found.block_values);
        (counts.live, counts.live_control, counts.again) = (live.live, live.live_control, live.again);
        if live.looks > LOOKS_MAX {
            (counts.joins, counts.again) = (u64::MAX, u64::MAX);
        }
        counts.units = counts.units.saturating_add(live.folds);
        found.stack_values = live.height_max as u64;
        found.joins = live.joins;
        let milli = match stage {
            CodeForm::Brought => counts.without_meter().milli(),
            CodeForm::Compiled => counts.milli(),
        };
        found.function_cost = milli.div_ceil(MILLI);
        (*found, milli)
    }

    /// Counts any operator without a case of its own below.
    #[inline(always)]
    fn plain(&mut self, weight: OperatorCost, operands: usize, results: usize) {
        self.counts.units += u64::from(weight.units);
        self.counts.blocks += u64::from(weight.blocks);
        let live = &mut self.live;
        match weight.flow {
            _ if results == 0 => live.take(operands),
            Flow::Pure => live.pure(weight.units, operands),
            Flow::Folding(class) => live.folding(class),
            Flow::Constant => live.constant(),
            Flow::Fixed => {
                live.take(operands);
                live.make(results);
            }
        }
        live.step();
    }

    fn open(&mut self, construct: Construct, (params, results): (usize, usize)) {
        if construct == Construct::If {
            self.live.pop();
        }
        self.block();
        if construct == Construct::Loop {
            self.counts.loops += 1;
            self.counts.blocks += cost::LOOP_BLOCKS;
        }
        self.found.block_values += (params + results) as u64;
        self.live.open(construct, params, results);
        let (nesting, loops) = self.live.nesting();
        self.found.nesting = self.found.nesting.max(nesting);
        self.found.loop_nesting = self.found.loop_nesting.max(loops);
        self.live.control();
    }

    const fn block(&mut self) {
        self.found.blocks += 1;
        self.counts.blocks += 1;
    }

    fn br_table(&mut self, targets: &BrTable<'_>) {
        self.live.pop();
        self.block();
        self.found.branch_targets += u64::from(targets.len()) + 1;
        let depths = targets.targets().map_while(Result::ok);
        self.found.block_values += self.live.branches(depths, targets.default());
        self.leave();
    }

    fn leave(&mut self) {
        self.live.leave();
        self.live.control();
    }

    fn call(&mut self, (params, results): FunctionArity, units: u64, blocks: u64) {
        let values = u64::from(params) + u64::from(results);
        self.found.call_values += values;
        self.counts.units += units + cost::CALL_VALUE * values;
        self.counts.blocks += blocks;
        self.live.take(params as usize);
        self.live.make(results as usize);
        self.live.step();
    }
}

/// Visitor that validates one operator, then counts it.
struct Counted<'r> {
    validator: &'r mut FuncValidator<ValidatorResources>,
    offset: usize,
    declared: &'r Declared,
    tally: &'r mut BodyCounters,
}

impl Counted<'_> {
    /// Asserts, in debug builds, that the counters' stacks follow the validator's own.
    #[inline(always)]
    fn same_height(&self) {
        if cfg!(debug_assertions) && self.current_frame().is_some() {
            assert_eq!(self.current_frame(), self.validator.get_control_frame(0).map(|frame| frame.kind));
            assert_eq!(self.tally.live.height(), self.validator.operand_stack_height() as usize, "at {}", self.offset);
        }
    }
}

impl FrameStack for Counted<'_> {
    /// Returns the innermost frame. The validator has it too, but this function is called for each
    /// operator and is faster.
    #[inline]
    fn current_frame(&self) -> Option<FrameKind> {
        self.tally.live.frame_kind()
    }
}

macro_rules! count {
    // Control operators.
    ($to:ident Block { $ty:ident } $($arity:tt)*) => { $to.tally.open(Construct::Block, $to.declared.block($ty)) };
    ($to:ident Loop { $ty:ident } $($arity:tt)*) => { $to.tally.open(Construct::Loop, $to.declared.block($ty)) };
    ($to:ident If { $ty:ident } $($arity:tt)*) => { $to.tally.open(Construct::If, $to.declared.block($ty)) };
    ($to:ident Else $($arity:tt)*) => {{
        $to.tally.block();
        let params = $to.validator.get_control_frame(0).map_or(0, |frame| $to.declared.block(frame.block_type).0);
        $to.tally.live.otherwise(params);
        $to.tally.live.control();
    }};
    ($to:ident End $($arity:tt)*) => {{
        $to.tally.live.end();
        $to.tally.live.control();
    }};
    ($to:ident Br { $depth:ident } $($arity:tt)*) => {{
        $to.tally.found.block_values += $to.tally.live.branch($depth);
        $to.tally.leave();
    }};
    ($to:ident BrIf { $depth:ident } $($arity:tt)*) => {{
        $to.tally.live.pop();
        $to.tally.block();
        $to.tally.found.block_values += $to.tally.live.branch($depth);
        $to.tally.live.stay($depth);
        $to.tally.live.control();
    }};
    ($to:ident BrTable { $targets:ident } $($arity:tt)*) => { $to.tally.br_table(&$targets) };
    ($to:ident Return $($arity:tt)*) => {{
        $to.tally.found.block_values += u64::from($to.declared.function($to.validator.index()).1);
        $to.tally.leave();
    }};
    ($to:ident Unreachable $($arity:tt)*) => {{
        $to.tally.counts.units += cost::UNREACHABLE;
        $to.tally.leave();
    }};
    ($to:ident Call { $function:ident } $($arity:tt)*) => {
        $to.tally.call($to.declared.function($function), cost::CALL, 0)
    };
    ($to:ident CallIndirect { $ty:ident $table:ident } $($arity:tt)*) => {{
        $to.tally.live.pop();
        $to.tally.call($to.declared.ty($ty), cost::CALL_INDIRECT, cost::CALL_INDIRECT_BLOCKS);
    }};
    ($to:ident LocalGet { $local:ident } $($arity:tt)*) => {{
        $to.tally.live.get($local);
        $to.tally.live.step();
    }};
    ($to:ident LocalSet { $local:ident } $($arity:tt)*) => {{
        let value = $to.tally.live.pop();
        $to.tally.live.set($local, value);
        $to.tally.live.step();
    }};
    ($to:ident LocalTee { $local:ident } $($arity:tt)*) => {{
        let value = $to.tally.live.pop();
        $to.tally.live.set($local, value);
        $to.tally.live.push(value);
        $to.tally.live.step();
    }};
    ($to:ident GlobalGet { $global:ident } $($arity:tt)*) => {{
        $to.tally.plain(const { cost::weight(Op::GlobalGet) }, 0, 1);
        if $to.declared.constants.get($global as usize) == Some(&true) {
            $to.tally.live.is_constant();
        }
    }};
    ($to:ident $op:ident { $($arg:ident)* } arity custom) => { $(_ = $arg;)* };
    ($to:ident $op:ident { $($arg:ident)* } arity $operands:literal -> $results:literal) => {
        $to.tally.plain(const { cost::weight(Op::$op) }, $operands, $results)
    };
}

macro_rules! visit {
    ($( @$proposal:ident $op:ident $({ $($arg:ident: $argty:ty),* })? => $visit:ident ($($arity:tt)*))*) => {
        $(
            #[allow(clippy::clone_on_copy, reason = "some immediates are not copied")]
            fn $visit(&mut self $($(, $arg: $argty)*)?) -> Self::Output {
                self.validator.visitor(self.offset).$visit($($($arg.clone()),*)?)?;
                count!(self $op { $($($arg)*)? } $($arity)*);
                self.same_height();
                Ok(())
            }
        )*
    };
}

macro_rules! visit_simd {
    ($( @$proposal:ident $op:ident $({ $($arg:ident: $argty:ty),* })? => $visit:ident ($($arity:tt)*))*) => {
        $(
            fn $visit(&mut self $($(, $arg: $argty)*)?) -> Self::Output {
                self.validator.simd_visitor(self.offset).$visit($($($arg),*)?)?;
                count!(self $op { $($($arg)*)? } $($arity)*);
                self.same_height();
                Ok(())
            }
        )*
    };
}

impl<'a> VisitOperator<'a> for Counted<'_> {
    type Output = wasmparser::Result<()>;

    fn simd_visitor(&mut self) -> Option<&mut dyn VisitSimdOperator<'a, Output = Self::Output>> {
        Some(self)
    }

    wasmparser::for_each_visit_operator!(visit);
}

impl<'a> VisitSimdOperator<'a> for Counted<'_> {
    wasmparser::for_each_visit_simd_operator!(visit_simd);
}

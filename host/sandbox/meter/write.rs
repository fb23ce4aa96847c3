//! Writer of the rewritten body: the module's own operators, with the meter's code between them.

mod canonical;

use wasm_encoder::reencode::Reencode as _;
use wasm_encoder::{BlockType, BranchHint, CodeSection, Encode as _, Function, Instruction, InstructionSink, ValType};
use wasmparser::{FunctionBody, Operator};

use super::added_functions::LocalTypes;
use super::bulk::{self, Bulk};
use super::gas::Charge;
use super::live_across_call::Lookahead;
use super::schedule::{BYTES_SHIFT, ELEMENT, ELEMENTS_SHIFT, PAGE};
use super::state::GAS_OVERDRAWN;
use super::walk::{BodyFindings, BodyWalk};
use super::{Meter, MeterError, val_type};

/// Bits of the state that show an overdraft: the sign bit of the stack, and bit 30 of the gas.
const OVERDRAWN: i64 = i64::MIN | GAS_OVERDRAWN;

/// Writes one body of a function of type `ty`.
pub fn body(meter: &mut Meter, ty: u32, body: &FunctionBody<'_>, to: &mut CodeSection) -> Result<(), MeterError> {
    let mut locals = Vec::new();
    for declared in body.get_locals_reader()? {
        let (count, ty) = declared?;
        locals.push((count, val_type(ty)));
    }
    let declared: usize = locals.iter().map(|(count, _)| *count as usize).sum();
    let mut reader = body.get_operators_reader()?;
    let (mut operators, mut starts) = (Vec::new(), Vec::new());
    while !reader.eof() {
        starts.push(reader.original_position());
        operators.push(reader.read()?);
    }
    starts.push(reader.original_position());
    let walked = BodyWalk::over(meter, ty, declared, &operators)?;
    let mut types: Vec<ValType> = meter.signature(ty)?.params().iter().map(|ty| val_type(*ty)).collect();
    let params = types.len() as u32;
    types.extend(locals.iter().flat_map(|(count, ty)| std::iter::repeat_n(*ty, *count as usize)));
    let mut writer = BodyWriter {
        refill: meter.refill(),
        counter: meter.counter(meter.bodies - 1),
        meter,
        state: params,
        bytes: Vec::with_capacity(2 * body.range().len()),
        temporaries: [None; TEMPORARIES],
        next_local: params + 1 + declared as u32,
        added: Vec::new(),
        hints: Vec::new(),
        types,
    };
    writer.all(ty, &walked, &operators, &starts, body)?;
    let BodyWriter { bytes, added, hints, .. } = writer;
    locals.extend(added.into_iter().map(|ty| (1, ty)));
    let mut function = Function::new(locals);
    let before = function.byte_len();
    let hint = |(at, value)| BranchHint { branch_func_offset: (before + at) as u32, branch_hint_value: value };
    meter.hint(hints.into_iter().map(hint).collect());
    function.raw(bytes);
    to.function(&function);
    Ok(())
}

struct BodyWriter<'a> {
    meter: &'a mut Meter,
    refill: u32,
    /// The local that holds the state: the last parameter.
    state: u32,
    bytes: Vec<u8>,
    /// The global that counts this function's gas, for a profile.
    counter: Option<u32>,
    /// Locals of the meter, created on first use.
    temporaries: [Option<u32>; TEMPORARIES],
    next_local: u32,
    added: Vec<ValType>,
    /// Types of the module's own locals.
    types: Vec<ValType>,
    /// Offsets in `bytes` of an `if` that is nearly always (1) or almost never (0) taken.
    hints: Vec<(usize, u32)>,
}

const TEMPORARIES: usize = Temporary::IsNumber as usize + 1;

/// The meter's temporary locals.
#[derive(Clone, Copy)]
enum Temporary {
    To,
    From,
    Amount,
    Result,
    F32,
    F64,
    V128,
    IsNumber,
}

impl BodyWriter<'_> {
    fn all(
        &mut self,
        ty: u32,
        walked: &BodyFindings,
        operators: &[Operator<'_>],
        starts: &[usize],
        body: &FunctionBody<'_>,
    ) -> Result<(), MeterError> {
        let results: Vec<ValType> = self.meter.signature(ty)?.results().iter().map(|ty| val_type(*ty)).collect();
        let whole = match &*results {
            [] => BlockType::Empty,
            [one] => BlockType::Result(*one),
            _ => BlockType::FunctionType(self.meter.own_type(vec![], results)),
        };
        let (mut charges, mut canonical) = (walked.charges.iter().peekable(), walked.canonical.iter().peekable());
        let (source, base) = (body.as_bytes(), body.range().start);
        let (mut depth, mut lookahead) = (0, Lookahead::new(self.types.len(), operators.len()));
        for (at, operator) in operators.iter().enumerate() {
            while let Some(charge) = charges.next_if(|charge| charge.at == at) {
                let kept =
                    if charge.look { lookahead.locals(&operators[at..], &self.types) } else { Default::default() };
                self.charge(*charge, if at == 0 { walked.frame_bytes } else { 0 }, kept);
            }
            if at == 0 {
                // Every exit of the function branches to the end of this block.
                self.sink().block(whole);
            }
            if !walked.reached[at] {
                continue;
            }
            match operator {
                Operator::Block { .. } | Operator::Loop { .. } | Operator::If { .. } => depth += 1,
                Operator::End => depth -= 1,
                _ => {}
            }
            if matches!(operator, Operator::Return) {
                self.sink().br(depth as u32);
            } else if !self.replaced(operator, bulk::short(operators, at))? {
                self.bytes.extend(&source[starts[at] - base..starts[at + 1] - base]);
            }
            if let Some((_, shape)) = canonical.next_if(|(site, _)| *site == at) {
                self.canonicalise(*shape, walked.canonical.len());
            }
            if matches!(operator, Operator::End) && walked.reached.get(at + 1) == Some(&false) {
                self.sink().unreachable();
            }
        }
        self.meter.steps += lookahead.steps as u64;
        let (state, frame) = (self.state, walked.frame_bytes);
        let mut sink = self.sink();
        sink.local_get(state);
        if frame > 0 {
            sink.i64_const((frame as i64) << 32).i64_add();
        }
        sink.end();
        Ok(())
    }

    fn sink(&mut self) -> InstructionSink<'_> {
        InstructionSink::new(&mut self.bytes)
    }

    fn temporary(&mut self, which: Temporary) -> u32 {
        let ty = match which {
            Temporary::To | Temporary::From | Temporary::Amount | Temporary::Result | Temporary::IsNumber => {
                ValType::I32
            }
            Temporary::F32 => ValType::F32,
            Temporary::F64 => ValType::F64,
            Temporary::V128 => ValType::V128,
        };
        *self.temporaries[which as usize].get_or_insert_with(|| {
            self.added.push(ty);
            self.next_local += 1;
            self.next_local - 1
        })
    }

    /// Gas: subtracts the cost of the next operators, and of the frame where the function begins.
    fn charge(&mut self, charge: Charge, frame_bytes: u64, kept: (LocalTypes, Vec<u32>)) {
        let state = self.state;
        let mut sink = self.sink();
        let price = ((frame_bytes as i64) << 32) | charge.cost as i64;
        if price > 0 {
            sink.local_get(state).i64_const(price).i64_sub().local_set(state);
            self.count(charge.cost as i64);
        }
        let mut sink = self.sink();
        match (charge.look, frame_bytes) {
            (false, _) => {}
            (true, 0) => {
                sink.local_get(state).i64_const(GAS_OVERDRAWN).i64_and().i64_const(0).i64_ne();
                self.refill_if(kept);
            }
            (true, _) => {
                sink.local_get(state).i64_const(OVERDRAWN).i64_and().i64_const(0).i64_ne();
                self.refill_if(kept);
            }
        }
    }

    /// Adds to the profile counter of this function.
    fn count(&mut self, cost: i64) {
        let counter = self.counter;
        bulk::count(&mut self.sink(), counter, |sink| {
            sink.i64_const(cost);
        });
    }

    /// Calls `refill` if the top operand is not 0. A hint tells the compiler that this is rare. The
    /// compiler then places the call after the function's own code. Values that the call would
    /// force it to spill stay in registers on the hot path.
    fn refill_if(&mut self, (types, mut kept): (LocalTypes, Vec<u32>)) {
        let keep = if kept.is_empty() { None } else { self.meter.keep(types) };
        let (state, refill) = (self.state, keep.unwrap_or(self.refill));
        if keep.is_none() {
            kept.clear();
        }
        let beside = |local: u32| if local < state { local } else { local + 1 };
        self.hints.push((self.bytes.len(), 0));
        let mut sink = self.sink();
        sink.if_(BlockType::Empty);
        for local in &kept {
            sink.local_get(beside(*local));
        }
        sink.local_get(state).call(refill).local_set(state);
        for local in kept.iter().rev() {
            sink.local_set(beside(*local));
        }
        sink.end();
    }

    /// Writes the replacement of `operator`. Returns `false` if the operator stays as it is.
    /// `short` is the result of [`bulk::short`].
    fn replaced(&mut self, operator: &Operator<'_>, short: Option<u64>) -> Result<bool, MeterError> {
        let state = self.state;
        let beside = |local: u32| if local < state { local } else { local + 1 };
        match operator {
            Operator::LocalGet { local_index } if *local_index >= state => {
                self.sink().local_get(beside(*local_index));
            }
            Operator::LocalSet { local_index } if *local_index >= state => {
                self.sink().local_set(beside(*local_index));
            }
            Operator::LocalTee { local_index } if *local_index >= state => {
                self.sink().local_tee(beside(*local_index));
            }
            Operator::Block { blockty: wasmparser::BlockType::FuncType(ty) } => {
                let ty = self.block_type(*ty)?;
                self.sink().block(ty);
            }
            Operator::Loop { blockty: wasmparser::BlockType::FuncType(ty) } => {
                let ty = self.block_type(*ty)?;
                self.sink().loop_(ty);
            }
            Operator::If { blockty: wasmparser::BlockType::FuncType(ty) } => {
                let ty = self.block_type(*ty)?;
                self.sink().if_(ty);
            }
            Operator::RefFunc { .. } => {
                Instruction::encode(&self.meter.instruction(operator.clone())?, &mut self.bytes)
            }
            Operator::Call { function_index } => {
                let function = self.meter.function_at(*function_index);
                self.sink().local_get(state).call(function).local_set(state);
            }
            Operator::CallIndirect { type_index, table_index } => {
                let callee = self.temporary(Temporary::Amount);
                let mut sink = self.sink();
                sink.local_set(callee).local_get(state).local_get(callee);
                sink.call_indirect(*table_index, *type_index).local_set(state);
            }
            // The cost of a short constant length is already part of the charge for the surrounding
            // operators.
            Operator::MemoryFill { .. } | Operator::MemoryCopy { .. } if short.is_some() => return Ok(false),
            Operator::MemoryFill { .. } => self.moved(Bulk::Fill),
            Operator::MemoryCopy { .. } => self.moved(Bulk::Copy),
            Operator::MemoryInit { .. } => return Ok(self.amount(BYTES_SHIFT)),
            Operator::TableFill { .. } | Operator::TableCopy { .. } | Operator::TableInit { .. } => {
                return Ok(self.amount(ELEMENTS_SHIFT));
            }
            Operator::MemoryGrow { .. } => self.grow(operator, PAGE),
            Operator::TableGrow { .. } => self.grow(operator, ELEMENT),
            _ => return Ok(false),
        }
        Ok(true)
    }

    /// Returns a block type without the state. The module's own type includes the state, because
    /// functions use it.
    fn block_type(&mut self, ty: u32) -> Result<BlockType, MeterError> {
        let ty = self.meter.signature(ty)?;
        let own = |types: &[wasmparser::ValType]| types.iter().map(|ty| val_type(*ty)).collect::<Vec<_>>();
        let (params, results) = (own(ty.params()), own(ty.results()));
        Ok(BlockType::FunctionType(self.meter.own_type(params, results)))
    }

    /// Bulk: writes `memory.fill` or `memory.copy`. A short one acts in place; a longer one acts in
    /// a helper.
    fn moved(&mut self, moves: Bulk) {
        let (state, counter, function) = (self.state, self.counter, self.meter.mover(moves));
        let [to, from, len] = [Temporary::To, Temporary::From, Temporary::Amount].map(|which| self.temporary(which));
        let mut sink = self.sink();
        sink.local_set(len).local_set(from).local_set(to);
        sink.local_get(len).i32_const(bulk::SHORT_BYTES as i32).i32_le_u();
        self.hints.push((self.bytes.len(), 1));
        let mut sink = self.sink();
        sink.if_(BlockType::Empty);
        bulk::charge(&mut sink, state, len, BYTES_SHIFT, counter);
        bulk::act_short(&mut sink, moves, [to, from, len]);
        sink.else_()
            .local_get(to)
            .local_get(from)
            .local_get(len)
            .local_get(state)
            .call(function)
            .local_set(state)
            .end();
    }

    /// Bulk: charges for the pages or elements that `memory.grow` or `table.grow` added.
    fn grow(&mut self, operator: &Operator<'_>, price: i64) {
        let (state, refill, counter) = (self.state, self.refill, self.counter);
        let (amount, result) = (self.temporary(Temporary::Amount), self.temporary(Temporary::Result));
        let mut sink = self.sink();
        sink.local_tee(amount);
        match operator {
            Operator::TableGrow { table } => sink.table_grow(*table),
            _ => sink.memory_grow(0),
        };
        sink.local_tee(result).i32_const(-1).i32_ne().if_(BlockType::Empty);
        sink.local_get(state)
            .local_get(amount)
            .i64_extend_i32_u()
            .i64_const(price)
            .i64_mul()
            .i64_sub()
            .local_set(state);
        bulk::count(&mut sink, counter, |sink| {
            sink.local_get(amount).i64_extend_i32_u().i64_const(price).i64_mul();
        });
        bulk::emit_poll(&mut sink, state, refill);
        sink.end().local_get(result);
    }

    /// Bulk: charges by the `i32` on top of the operand stack, and leaves it there.
    fn amount(&mut self, shift: i64) -> bool {
        let (state, refill, counter) = (self.state, self.refill, self.counter);
        let amount = self.temporary(Temporary::Amount);
        let mut sink = self.sink();
        sink.local_set(amount);
        bulk::charge(&mut sink, state, amount, shift, counter);
        bulk::emit_poll(&mut sink, state, refill);
        sink.local_get(amount);
        false
    }
}

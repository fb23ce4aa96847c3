//! Softening of one of the module's own functions.

use std::collections::HashMap;
use std::convert::Infallible;

use wasm_encoder::reencode::{Error, Reencode};
use wasm_encoder::{BlockType, Encode as _, Function, HeapType, Ieee32, Ieee64, InstructionSink, MemArg, ValType};
use wasmparser::{FunctionBody, Operator};

use super::access::{Access, access};
use super::numbers::{DOUBLES, SINGLES, doubles, singles};
use super::{ADDRESS_MASK, Depth, Enliven, SLOTS};

/// Mask of the lengths for bulk operators.
const LENGTH_MASK: i32 = 0x3ff;

pub fn body(pass: &mut Enliven, function: u32, body: &FunctionBody<'_>) -> Result<Function, Error<Infallible>> {
    let mut locals = Vec::new();
    for declared in body.get_locals_reader()? {
        let (count, ty) = declared?;
        locals.push((count, pass.val_type(ty)?));
    }
    let operators = body.get_operators_reader()?.into_iter().collect::<Result<Vec<_>, _>>()?;
    let calls = operators.iter().any(|it| matches!(it, Operator::Call { .. } | Operator::CallIndirect { .. }));
    if let (true, Some(depth)) = (calls, pass.manner.depth) {
        locals.push((depth.locals, ValType::I64));
    }
    let signature = pass.signature(function);
    let params = signature.params().len() as u32;
    let results = signature.results().to_vec();
    let results = results.into_iter().map(|ty| pass.val_type(ty)).collect::<Result<_, _>>()?;
    let mut writer = Writer {
        bytes: Vec::new(),
        results,
        next_local: params + locals.iter().map(|(count, _)| count).sum::<u32>(),
        temporaries: HashMap::new(),
        added: Vec::new(),
    };
    if calls {
        writer.lose_patience(pass);
        if let Some(depth) = pass.manner.depth {
            writer.deepen(pass, function, depth);
        }
    }
    for operator in operators {
        writer.operator(pass, operator)?;
    }
    locals.extend(writer.added.into_iter().map(|ty| (1, ty)));
    let mut written = Function::new(locals);
    written.raw(writer.bytes);
    Ok(written)
}

struct Writer {
    bytes: Vec<u8>,
    results: Vec<ValType>,
    next_local: u32,
    temporaries: HashMap<(ValType, u8), u32>,
    added: Vec<ValType>,
}

impl Writer {
    fn sink(&mut self) -> InstructionSink<'_> {
        InstructionSink::new(&mut self.bytes)
    }

    /// Returns an added local of this type, which no operator of the module uses.
    fn temporary(&mut self, ty: ValType, which: u8) -> u32 {
        *self.temporaries.entry((ty, which)).or_insert_with(|| {
            self.added.push(ty);
            self.next_local += 1;
            self.next_local - 1
        })
    }

    fn operator(&mut self, pass: &mut Enliven, operator: Operator<'_>) -> Result<(), Error<Infallible>> {
        if pass.manner.masks {
            match access(&operator) {
                Some(Access::Bare) => {
                    self.sink().i32_const(ADDRESS_MASK).i32_and();
                }
                Some(Access::Under(ty)) => {
                    let value = self.temporary(ty, 0);
                    self.sink().local_set(value).i32_const(ADDRESS_MASK).i32_and().local_get(value);
                }
                Some(Access::Range) => {
                    let (length, second) = (self.temporary(ValType::I32, 0), self.temporary(ValType::I32, 1));
                    let mut sink = self.sink();
                    sink.i32_const(LENGTH_MASK).i32_and().local_set(length);
                    sink.i32_const(if matches!(operator, Operator::MemoryInit { .. }) { 0xf } else { ADDRESS_MASK });
                    sink.i32_and().local_set(second);
                    sink.i32_const(ADDRESS_MASK).i32_and().local_get(second).local_get(length);
                }
                None => {}
            }
            match operator {
                Operator::I32DivS | Operator::I32DivU | Operator::I32RemS | Operator::I32RemU => {
                    self.sink().i32_const(1).i32_or();
                }
                Operator::I64DivS | Operator::I64DivU | Operator::I64RemS | Operator::I64RemU => {
                    self.sink().i64_const(1).i64_or();
                }
                Operator::Unreachable => {
                    self.give_up();
                    return Ok(());
                }
                _ => {}
            }
        }
        if let Operator::Call { function_index } = operator {
            let slot = function_index.wrapping_sub(pass.imported());
            if slot < SLOTS && pass.below(3) == 0 {
                let ty = pass.functions[function_index as usize];
                self.sink().i32_const(slot as i32).call_indirect(0, ty);
                return Ok(());
            }
        }
        if self.constant(pass, &operator) {
            return Ok(());
        }
        let is_loop = matches!(operator, Operator::Loop { .. });
        pass.instruction(operator)?.encode(&mut self.bytes);
        if is_loop {
            self.lose_patience(pass);
        }
        Ok(())
    }

    /// Calls the same function with its own arguments, until the remaining patience is as low as
    /// the depth. A path that is never executed keeps many values across the call, so each frame
    /// has places for them.
    fn deepen(&mut self, pass: &Enliven, function: u32, depth: Depth) {
        let (patience, signature) = (pass.patience(), pass.signature(function));
        let call = |sink: &mut InstructionSink<'_>| {
            (0..signature.params().len()).for_each(|param| {
                sink.local_get(param as u32);
            });
            sink.call(function);
            signature.results().iter().for_each(|_| {
                sink.drop();
            });
        };
        let mut sink = self.sink();
        // The counter never gets as low as that.
        sink.global_get(patience).i32_const(i32::MIN).i32_eq().if_(BlockType::Empty);
        (0..depth.values).for_each(|value| {
            // No compiler delays a load that may trap.
            sink.i32_const(0).v128_load(MemArg { offset: 16 * u64::from(value), align: 0, memory_index: 0 });
        });
        call(&mut sink);
        (0..depth.values).for_each(|_| {
            sink.i32x4_extract_lane(0).global_set(patience);
        });
        sink.end();
        sink.global_get(patience).i32_const(1).i32_sub().global_set(patience);
        sink.global_get(patience).i32_const(-(depth.calls as i32)).i32_gt_s().if_(BlockType::Empty);
        call(&mut sink);
        sink.end();
    }

    /// Replaces every other float constant: those of wasm-smith are seldom the critical ones.
    fn constant(&mut self, pass: &mut Enliven, operator: &Operator<'_>) -> bool {
        let is_float =
            matches!(operator, Operator::F32Const { .. } | Operator::F64Const { .. } | Operator::V128Const { .. });
        if !is_float || pass.below(2) == 0 {
            return false;
        }
        let which = pass.below(1 << 16);
        let mut sink = self.sink();
        match operator {
            Operator::F32Const { .. } => sink.f32_const(Ieee32::new(SINGLES[which as usize % SINGLES.len()])),
            Operator::F64Const { .. } => sink.f64_const(Ieee64::new(DOUBLES[which as usize % DOUBLES.len()])),
            _ if pass.below(2) == 0 => sink.v128_const(singles(which)),
            _ => sink.v128_const(doubles(which)),
        };
        true
    }

    /// Returns when loops and calls have exceeded the limit since the new `run` called.
    fn lose_patience(&mut self, pass: &Enliven) {
        if !pass.manner.is_patient {
            return;
        }
        let patience = pass.patience();
        let mut sink = self.sink();
        sink.global_get(patience).i32_const(1).i32_sub().global_set(patience);
        sink.global_get(patience).i32_const(0).i32_lt_s().if_(BlockType::Empty);
        self.give_up();
        self.sink().end();
    }

    /// Returns with fixed results.
    fn give_up(&mut self) {
        let mut sink = InstructionSink::new(&mut self.bytes);
        for ty in &self.results {
            match ty {
                ValType::I32 => sink.i32_const(0),
                ValType::I64 => sink.i64_const(0),
                ValType::F32 => sink.f32_const(0.0.into()),
                ValType::F64 => sink.f64_const(0.0.into()),
                ValType::V128 => sink.v128_const(0),
                ValType::Ref(_) => sink.ref_null(HeapType::FUNC),
            };
        }
        sink.return_();
    }
}

//! Modules that are expensive to compile for their size: a generator with one size for each shape.
//! All are valid and of the `compute` ABI's shape. The cost of a [`Shape::Line`] or a
//! [`Shape::Function`] is in one function; `copies` of it reach the size at which memory matters.

use wasm_encoder::{
    BlockType, CodeSection, ConstExpr, DataCountSection, DataSection, ElementSection, Elements, ExportKind,
    ExportSection, Function, FunctionSection, GlobalSection, GlobalType, InstructionSink, MemArg, MemorySection,
    MemoryType, Module, RefType, TableSection, TableType, TypeSection, ValType,
};

use ValType::{F32, F64, I32, I64, V128};

type Code<'a> = InstructionSink<'a>;

/// Writer of some operators. The number is the number of the repetition.
type Write = for<'a, 'b> fn(&'a mut Code<'b>, u32) -> &'a mut Code<'b>;

/// A module that is expensive to compile.
pub struct Bomb {
    pub name: &'static str,
    pub shape: Shape,
}

/// Part that grows with the size. The cost never falls as the size grows.
pub enum Shape {
    /// Repetitions of a few operators on a value of this type on the stack.
    Line(ValType, Write),
    /// One function.
    Function(fn(u32) -> Body),
    /// Sections outside of functions, or many functions.
    Module(fn(u32, &mut Parts)),
}

/// Type and code of a function.
pub struct Body {
    params: Vec<ValType>,
    results: Vec<ValType>,
    function: Function,
}

impl Bomb {
    /// Returns the module with a bomb of size `n`, or with several. `copies` has no effect for a
    /// [`Shape::Module`].
    pub fn module(&self, n: u32, copies: u32) -> Vec<u8> {
        let mut parts = Parts::new();
        let body = match self.shape {
            Shape::Line(ty, write) => body([I32, I32, ty], [ty], 8, |code| {
                code.local_get(2);
                times(code, n, write);
            }),
            Shape::Function(build) => build(n),
            Shape::Module(grow) => {
                grow(n, &mut parts);
                return parts.finish();
            }
        };
        let ty = parts.ty(&body.params, &body.results);
        (0..copies).for_each(|_| parts.function(ty, &body.function));
        parts.finish()
    }
}

/// Returns a function with `locals` more locals, all of them i32.
fn body<const P: usize, const R: usize>(
    params: [ValType; P],
    results: [ValType; R],
    locals: u32,
    write: impl FnOnce(&mut Code<'_>),
) -> Body {
    let mut function = Function::new([(locals, I32)]);
    write(&mut function.instructions());
    function.instructions().end();
    Body { params: params.into(), results: results.into(), function }
}

/// Sections of a module, with everything to which the bombs refer: the types and functions named
/// below, a memory, a table, two globals, a passive data segment and a passive element segment.
#[derive(Default)]
pub struct Parts {
    types: TypeSection,
    functions: FunctionSection,
    code: CodeSection,
    globals: GlobalSection,
    exports: ExportSection,
    elements: ElementSection,
    data: DataSection,
    pages: u64,
}

/// Type and function: no parameters, and an i32 as the result.
const RUN: u32 = 0;
/// Type and function: 64 results.
const OUT: u32 = 1;
/// Type and function: 64 parameters.
const IN: u32 = 2;
/// Type and function: [`WIDTH`] parameters and as many results. Also used as a block's type.
const WIDE: u32 = 3;
const WIDTH: u32 = 32;
/// Type and function: no parameters and no results.
const UNIT: u32 = 4;
const ELEMENTS: u32 = 16;

impl Parts {
    fn new() -> Self {
        let mut parts = Self { pages: 1, ..Self::default() };
        let wide = [I32; WIDTH as usize];
        let types: [(&[ValType], &[ValType]); 5] =
            [(&[], &[I32]), (&[], &[I32; 64]), (&[I32; 64], &[]), (&wide, &wide), (&[], &[])];
        for (params, results) in types {
            let ty = parts.ty(params, results);
            parts.many(1, ty, 0, |code, _| code.unreachable());
        }
        let global = |val_type| GlobalType { val_type, mutable: true, shared: false };
        parts.globals.global(global(I32), &ConstExpr::i32_const(0)).global(global(I64), &ConstExpr::i64_const(0));
        parts.exports.export("memory", ExportKind::Memory, 0).export("run", ExportKind::Func, RUN);
        parts.elements.passive(Elements::Functions([RUN].as_slice().into()));
        parts.data.passive([0; 8]);
        parts
    }

    fn ty(&mut self, params: &[ValType], results: &[ValType]) -> u32 {
        self.types.ty().function(params.iter().copied(), results.iter().copied());
        self.types.len() - 1
    }

    fn function(&mut self, ty: u32, function: &Function) {
        self.functions.function(ty);
        self.code.function(function);
    }

    /// Adds `n` identical functions.
    fn many(&mut self, n: u32, ty: u32, locals: u32, write: Write) {
        let mut function = Function::new([(locals, I32)]);
        write(&mut function.instructions(), 0).end();
        (0..n).for_each(|_| self.function(ty, &function));
    }

    /// Adds `n` functions that can be called from outside, each with a trampoline.
    fn escaping(&mut self, n: u32, ty: u32) {
        let first = self.functions.len();
        self.many(n, ty, 0, |code, _| code.unreachable());
        self.elements.declared(Elements::Functions((first..first + n).collect::<Vec<u32>>().into()));
    }

    /// Adds `n` types, all different, with 16 parameters.
    fn types(&mut self, n: u32) -> std::ops::Range<u32> {
        let first = self.types.len();
        for i in 0..n {
            self.ty(&std::array::from_fn::<_, 16, _>(|bit| if i >> bit & 1 == 0 { I32 } else { I64 }), &[]);
        }
        first..first + n
    }

    /// Adds a byte of data at each of these addresses.
    fn data(&mut self, addresses: impl Iterator<Item = u32>) {
        for address in addresses {
            self.data.active(0, &ConstExpr::i32_const(address.cast_signed()), [1]);
        }
    }

    fn finish(&self) -> Vec<u8> {
        let (element_type, minimum, maximum) = (RefType::FUNCREF, u64::from(ELEMENTS), None);
        let mut tables = TableSection::new();
        tables.table(TableType { element_type, minimum, maximum, table64: false, shared: false });
        let (minimum, maximum, page_size_log2) = (self.pages, None, None);
        let mut memories = MemorySection::new();
        memories.memory(MemoryType { minimum, maximum, memory64: false, shared: false, page_size_log2 });
        let mut module = Module::new();
        module.section(&self.types).section(&self.functions).section(&tables).section(&memories);
        module.section(&self.globals).section(&self.exports).section(&self.elements);
        module.section(&DataCountSection { count: self.data.len() }).section(&self.code).section(&self.data);
        module.finish()
    }
}

const fn at(offset: u32) -> MemArg {
    MemArg { offset: offset as u64, align: 0, memory_index: 0 }
}

fn times(code: &mut Code<'_>, n: u32, write: impl for<'a, 'b> Fn(&'a mut Code<'b>, u32) -> &'a mut Code<'b>) {
    for i in 0..n {
        write(code, i);
    }
}

/// Assigns a new value to each of the locals, no two the same.
fn assign(code: &mut Code<'_>, locals: u32) {
    for local in 0..locals {
        if local % 64 == 0 {
            code.call(OUT);
        }
        code.local_set(local);
    }
    times(code, locals.next_multiple_of(64) - locals, |code, _| code.drop());
}

fn sum(code: &mut Code<'_>, locals: u32) {
    code.local_get(0);
    times(code, locals - 1, |code, i| code.local_get(i + 1).i32_add());
}

/// Returns a function with `L * n` locals that change within `B * n` nested constructs. Where a
/// construct begins or ends, there is a block parameter for each local.
fn nested<const L: u32, const B: u32>(n: u32, open: Write, close: Write) -> Body {
    body([I32], [I32], L * n, |code| {
        assign(code, L * n);
        times(code, B * n, open);
        assign(code, L * n);
        times(code, B * n, close);
        sum(code, (L * n).max(1));
    })
}

fn loops<const L: u32, const B: u32>(n: u32) -> Body {
    nested::<L, B>(n, |code, _| code.loop_(BlockType::Empty), |code, _| code.local_get(0).br_if(0).end())
}

fn ifs<const L: u32, const B: u32>(n: u32) -> Body {
    nested::<L, B>(n, |code, _| code.local_get(0).if_(BlockType::Empty), |code, _| code.end())
}

/// Returns a function with `L` locals that change within `D` nested conditions, `n` times.
fn nests<const L: u32, const D: u32>(n: u32) -> Body {
    body([I32], [I32], L, |code| {
        assign(code, L);
        for _ in 0..n {
            times(code, D, |code, _| code.local_get(0).if_(BlockType::Empty));
            assign(code, L);
            times(code, D, |code, _| code.end());
        }
        sum(code, L);
    })
}

/// Returns a function with `L * n` locals that differ at each of a block's many exits.
fn left<const L: u32>(n: u32, leave: impl FnOnce(&mut Code<'_>)) -> Body {
    body([I32], [I32], L * n, |code| {
        code.block(BlockType::Empty).local_get(0).br_if(0);
        assign(code, L * n);
        leave(code);
        code.end();
        sum(code, L * n);
    })
}

fn exits<const L: u32, const B: u32>(n: u32) -> Body {
    left::<L>(n, |code| times(code, B * n, |code, _| code.local_get(0).br_if(0)))
}

fn table_exits<const L: u32, const B: u32>(n: u32) -> Body {
    left::<L>(n, |code| _ = code.local_get(0).br_table((0..B * n).map(|_| 0), 0))
}

/// Returns a function with `L * n` locals that are live across the constructs, and never change.
fn idle<const L: u32, const B: u32>(n: u32, construct: Write) -> Body {
    body([I32], [I32], L * n, |code| {
        assign(code, L * n);
        times(code, B * n, construct);
        sum(code, L * n);
    })
}

fn idle_loops<const L: u32, const B: u32>(n: u32) -> Body {
    idle::<L, B>(n, |code, _| code.loop_(BlockType::Empty).local_get(0).br_if(0).end())
}

fn idle_ifs<const L: u32, const B: u32>(n: u32) -> Body {
    idle::<L, B>(n, |code, _| code.local_get(0).if_(BlockType::Empty).i32_const(0).global_set(0).end())
}

/// Returns a function with a sum of loads, used at its end. The compiler keeps all loads live.
fn sinks(n: u32, construct: Write) -> Body {
    body([I32], [I32], 1, |code| {
        for i in 0..n {
            construct(code.local_get(0).i32_load(at(i)).local_get(1).i32_add().local_set(1), i);
        }
        code.local_get(1);
    })
}

/// Returns a function with `n` values on the stack at once, across `B * n` blocks.
fn stacked<const B: u32>(n: u32) -> Body {
    body([I32], [I32], 0, |code| {
        times(code, n, |code, i| code.local_get(0).i32_load(at(i)));
        times(code, B * n, |code, _| code.block(BlockType::Empty).local_get(0).br_if(0).end());
        times(code, n - 1, |code, _| code.i32_xor());
    })
}

/// Returns a function with [`WIDTH`] values that each construct passes on, in a block as wide.
fn wide(n: u32, construct: Write) -> Body {
    body([I32], [I32; WIDTH as usize], 0, |code| {
        code.call(OUT);
        times(code, 64 - WIDTH, |code, _| code.drop());
        code.block(WIDE_BLOCK);
        times(code, n, construct);
        code.end();
    })
}

const WIDE_BLOCK: BlockType = BlockType::FunctionType(WIDE);

/// Returns a function with a branch table of `n` different targets, and some code at each.
fn switch(n: u32) -> Body {
    body([I32], [], 0, |code| {
        times(code, n, |code, _| code.block(BlockType::Empty));
        code.local_get(0).br_table(0..n, 0);
        times(code, n, |code, _| code.end().i32_const(1).global_set(0));
    })
}

macro_rules! bombs {
    ($($name:literal: $kind:ident($($part:expr),+),)+) => {
        &[$(Bomb { name: $name, shape: Shape::$kind($($part),+) }),+]
    };
}

#[rustfmt::skip]
pub const BOMBS: &[Bomb] = bombs! {
    // Block parameters: locals that change, times the places where their values meet.
    "loops 1:1": Function(loops::<1, 1>),
    "loops 8:1": Function(loops::<8, 1>),
    "loops 1:8": Function(loops::<1, 8>),
    "ifs 1:1": Function(ifs::<1, 1>),
    "ifs 8:1": Function(ifs::<8, 1>),
    "ifs 1:8": Function(ifs::<1, 8>),
    "nests 64:1": Function(nests::<64, 1>),
    "nests 64:4": Function(nests::<64, 4>),
    "nests 256:16": Function(nests::<256, 16>),
    "nests 8:256": Function(nests::<8, 256>),
    "exits 1:8": Function(exits::<1, 8>),
    "table exits 1:8": Function(table_exits::<1, 8>),
    // Live ranges: values that do not change, times the blocks that they cross.
    "idle loops 1:1": Function(idle_loops::<1, 1>),
    "idle loops 1:8": Function(idle_loops::<1, 8>),
    "idle ifs 1:8": Function(idle_ifs::<1, 8>),
    "sinks": Function(|n| sinks(n, |code, _| code)),
    "sinks across ifs": Function(|n| sinks(n, |code, _| code.local_get(0).if_(BlockType::Empty).i32_const(0).global_set(0).end())),
    "sinks across loops": Function(|n| sinks(n, |code, _| code.loop_(BlockType::Empty).local_get(0).br_if(0).end())),
    "live": Function(stacked::<0>),
    "stacked": Function(stacked::<8>),
    // Nesting, branches, wide blocks and calls.
    "nest": Function(|n| nested::<0, 1>(n, |code, _| code.block(BlockType::Empty), |code, _| code.end())),
    "switch": Function(switch),
    "wide loops": Function(|n| wide(n, |code, _| code.loop_(WIDE_BLOCK).local_get(0).br_if(0).end())),
    "wide blocks": Function(|n| wide(n, |code, _| code.block(WIDE_BLOCK).end())),
    "wide ifs": Function(|n| wide(n, |code, _| code.local_get(0).if_(WIDE_BLOCK).call(WIDE).else_().end())),
    "wide exits": Function(|n| wide(n, |code, _| code.local_get(0).br_if(0))),
    "wide calls": Function(|n| wide(n, |code, _| code.call(WIDE))),
    "wide indirect calls": Function(|n| wide(n, |code, _| code.local_get(0).call_indirect(0, WIDE))),
    // A sequence of one operator.
    "traps": Line(I32, |code, _| code.local_get(0).if_(BlockType::Empty).unreachable().end()),
    "switches": Line(I32, |code, _| code.block(BlockType::Empty).local_get(0).br_table([0, 0], 0).end()),
    "arguments": Line(I32, |code, _| code.call(OUT).call(IN)),
    "calls": Line(I32, |code, _| code.call(UNIT)),
    "indirect calls": Line(I32, |code, _| code.call_indirect(0, RUN)),
    "loads": Line(I32, |code, i| code.i32_load(at(i % 64))),
    "loads far": Line(I32, |code, _| code.i32_load(at(0xffff_fff0))),
    "loads and stores": Line(I32, |code, i| code.local_get(0).local_get(0).i32_load(at(i % 64)).i32_store(at(i % 61))),
    "constants added": Line(I32, |code, i| code.i32_const(i as i32).i32_add()),
    "constants added and kept": Line(I32, |code, i| code.i32_const(i as i32).i32_add().local_tee(3)),
    "constants mixed": Line(I32, |code, i| code.i32_const(i as i32).i32_xor()),
    "bits": Line(I32, |code, _| code.i32_popcnt()),
    "remainders": Line(I64, |code, _| code.local_get(2).i64_rem_s()),
    "roots": Line(F64, |code, _| code.f64_sqrt()),
    "minima": Line(F64, |code, _| code.local_get(2).f64_min()),
    "precisions": Line(F64, |code, _| code.f32_demote_f64().f64_promote_f32()),
    "ceilings": Line(F32, |code, _| code.f32_ceil()),
    "truncations": Line(F64, |code, _| code.i32_trunc_sat_f64_u().f64_convert_i32_u()),
    "trapping truncations": Line(F64, |code, _| code.i64_trunc_f64_u().f64_convert_i64_u()),
    "vector products": Line(V128, |code, _| code.local_get(2).i64x2_mul()),
    "vector shifts": Line(V128, |code, _| code.local_get(0).i8x16_shr_s()),
    "vector minima": Line(V128, |code, _| code.local_get(2).f32x4_max()),
    "vector truncations": Line(V128, |code, _| code.i32x4_trunc_sat_f32x4_u()),
    "memory growths": Line(I32, |code, _| code.memory_grow(0)),
    "memory copies": Line(I32, |code, _| code.local_get(0).local_get(0).local_get(0).memory_copy(0, 0)),
    "memory inits": Line(I32, |code, _| code.local_get(0).local_get(0).local_get(0).memory_init(0, 0)),
    "table reads": Line(I32, |code, _| code.table_get(0).ref_is_null()),
    "table copies": Line(I32, |code, _| code.local_get(0).local_get(0).local_get(0).table_copy(0, 0)),
    // Parts other than functions' code.
    "functions": Module(|n, parts| parts.many(n, UNIT, 0, |code, _| code.nop())),
    "functions with locals": Module(|n, parts| parts.many(n, UNIT, 1_000, |code, _| code.nop())),
    "functions with parameters": Module(|n, parts| parts.many(n, IN, 0, |code, _| code.unreachable())),
    "functions with results": Module(|n, parts| parts.many(n, OUT, 0, |code, _| code.call(OUT))),
    "escaping": Module(|n, parts| parts.escaping(n, UNIT)),
    "escaping wide": Module(|n, parts| parts.escaping(n, WIDE)),
    "types": Module(|n, parts| _ = parts.types(n)),
    "escaping types": Module(|n, parts| parts.types(n).for_each(|ty| parts.escaping(1, ty))),
    "data": Module(|n, parts| parts.data((0..n).map(|i| i % 4_000 * 16))),
    "data at the end": Module(|n, parts| { parts.pages = n.into(); parts.data(std::iter::once((n << 16).wrapping_sub(1))); }),
    "passive data": Module(|n, parts| (0..n).for_each(|_| _ = parts.data.passive([]))),
    "globals": Module(|n, parts| (0..n).for_each(|_| {
        parts.globals.global(GlobalType { val_type: V128, mutable: true, shared: false }, &ConstExpr::v128_const(0));
    })),
    "elements": Module(|n, parts| (0..n).for_each(|i| {
        let functions = Elements::Functions([RUN].as_slice().into());
        parts.elements.active(None, &ConstExpr::i32_const((i % ELEMENTS).cast_signed()), functions);
    })),
    "exports": Module(|n, parts| (0..n).for_each(|i| _ = parts.exports.export(&format!("{i}"), ExportKind::Func, RUN))),
};

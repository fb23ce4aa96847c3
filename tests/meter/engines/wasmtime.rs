//! wasmtime, with each of its compilers.

use wasmtime::{
    Caller, Config, Engine, Extern, Func, FuncType, Global, GlobalType, Instance, Linker, Memory, MemoryType, Module,
    Mutability, OptLevel, Ref, RefType, Store, Strategy, Table, TableType, Trap, Val, ValType,
};

use super::{Account, Form, Kind, NATIVE_STACK_BYTES, Stop, Value};

pub struct Instances {
    engine: Engine,
    store: Store<Account>,
    linker: Linker<Account>,
    instances: Vec<Instance>,
}

fn engine(kind: Kind, form: Form) -> Engine {
    let mut config = Config::new();
    config.max_wasm_stack(NATIVE_STACK_BYTES).async_stack_size(NATIVE_STACK_BYTES).wasm_backtrace_max_frames(None);
    match kind {
        Kind::Winch => config.strategy(Strategy::Winch),
        Kind::Pulley => config.target("pulley64").expect("Pulley is built in"),
        Kind::CraneliftUnoptimised => config.cranelift_opt_level(OptLevel::None),
        Kind::Cranelift | Kind::Wasmi => &mut config,
    };
    if kind != Kind::Winch {
        config.cranelift_nan_canonicalization(form == Form::Plain).wasm_branch_hinting(true);
    }
    Engine::new(&config).expect("the settings go together")
}

impl Instances {
    pub fn new(kind: Kind, form: Form) -> Self {
        let engine = engine(kind, form);
        let mut store = Store::new(&engine, Account::default());
        let mut linker = Linker::new(&engine);
        linker.allow_shadowing(true);
        let refill = |mut caller: Caller<'_, Account>, state: i64| Ok(caller.data_mut().refill(state)?);
        linker.func_wrap("compute", "refill", refill).expect("it is the first");
        spectest(&mut linker, &mut store, form);
        Self { engine, store, linker, instances: Vec::new() }
    }
}

/// Defines the imports of the core test suite.
fn spectest(linker: &mut Linker<Account>, store: &mut Store<Account>, form: Form) {
    let (i32, i64, f32, f64) = (ValType::I32, ValType::I64, ValType::F32, ValType::F64);
    let prints = [
        ("print", vec![]),
        ("print_i32", vec![i32.clone()]),
        ("print_i64", vec![i64.clone()]),
        ("print_f32", vec![f32.clone()]),
        ("print_f64", vec![f64.clone()]),
        ("print_i32_f32", vec![i32.clone(), f32.clone()]),
        ("print_f64_f64", vec![f64.clone(), f64.clone()]),
    ];
    for (name, params) in prints {
        let state = (form != Form::Plain).then_some(ValType::I64);
        let ty = FuncType::new(linker.engine(), params.into_iter().chain(state.clone()), state);
        let print = |_: Caller<'_, Account>, params: &[Val], results: &mut [Val]| {
            results.iter_mut().zip(params.last()).for_each(|(result, state)| *result = *state);
            Ok(())
        };
        linker.func_new("spectest", name, ty, print).expect("each has a name of its own");
    }
    for (name, ty, value) in [
        ("global_i32", i32, Val::I32(666)),
        ("global_i64", i64, Val::I64(666)),
        ("global_f32", f32, Val::F32(666.6f32.to_bits())),
        ("global_f64", f64, Val::F64(666.6f64.to_bits())),
    ] {
        let global =
            Global::new(&mut *store, GlobalType::new(ty, Mutability::Const), value).expect("it is of its type");
        linker.define(&*store, "spectest", name, global).expect("each has a name of its own");
    }
    let table = TableType::new(RefType::FUNCREF, 10, Some(20));
    let table = Table::new(&mut *store, table, Ref::Func(None)).expect("it is small");
    linker.define(&*store, "spectest", "table", table).expect("each has a name of its own");
    let memory = Memory::new(&mut *store, MemoryType::new(1, Some(2))).expect("it is small");
    linker.define(&*store, "spectest", "memory", memory).expect("each has a name of its own");
}

impl super::Store for Instances {
    fn instantiate(&mut self, wasm: &[u8]) -> Result<usize, Stop> {
        let module = Module::new(&self.engine, wasm).map_err(|error| Stop::Uncompiled(format!("{error:#}")))?;
        let instance = self.linker.instantiate(&mut self.store, &module).map_err(|error| {
            match error.is::<Trap>() || error.is::<Stop>() {
                true => stop(&error),
                false => Stop::Unlinked,
            }
        })?;
        self.instances.push(instance);
        Ok(self.instances.len() - 1)
    }

    fn register(&mut self, instance: usize, name: &str) {
        let instance = self.instances[instance];
        self.linker.instance(&mut self.store, name, instance).expect("shadowing is allowed");
    }

    fn call(&mut self, instance: usize, export: &str, arguments: &[Value]) -> Result<Vec<Value>, Stop> {
        let function = self.instances[instance].get_func(&mut self.store, export).expect("it is exported");
        let arguments: Vec<Val> = arguments.iter().map(|value| val(*value)).collect();
        let mut results = vec![Val::I32(0); function.ty(&self.store).results().len()];
        function.call(&mut self.store, &arguments, &mut results).map_err(|error| stop(&error))?;
        Ok(results.iter().map(value).collect())
    }

    fn global(&mut self, instance: usize, export: &str) -> Option<Value> {
        let global = self.instances[instance].get_global(&mut self.store, export)?;
        Some(value(&global.get(&mut self.store)))
    }

    fn memory(&mut self, instance: usize, export: &str) -> Option<Vec<u8>> {
        match self.instances[instance].get_export(&mut self.store, export)? {
            Extern::Memory(memory) => Some(memory.data(&self.store).to_vec()),
            _ => None,
        }
    }

    fn account(&mut self) -> &mut Account {
        self.store.data_mut()
    }
}

fn val(value: Value) -> Val {
    match value {
        Value::I32(bits) => Val::I32(bits as i32),
        Value::I64(bits) => Val::I64(bits as i64),
        Value::F32(bits) => Val::F32(bits),
        Value::F64(bits) => Val::F64(bits),
        Value::V128(bits) => Val::V128(bits.into()),
        Value::Null => Val::FuncRef(None::<Func>),
        Value::Reference => panic!("tests make no references"),
    }
}

fn value(val: &Val) -> Value {
    match val {
        Val::I32(bits) => Value::I32(*bits as u32),
        Val::I64(bits) => Value::I64(*bits as u64),
        Val::F32(bits) => Value::F32(*bits),
        Val::F64(bits) => Value::F64(*bits),
        Val::V128(bits) => Value::V128(bits.as_u128()),
        Val::FuncRef(None) => Value::Null,
        _ => Value::Reference,
    }
}

fn stop(error: &wasmtime::Error) -> Stop {
    if let Some(stop) = error.downcast_ref::<Stop>() {
        return stop.clone();
    }
    match error.downcast_ref::<Trap>() {
        Some(Trap::UnreachableCodeReached) => Stop::Unreachable,
        Some(Trap::IntegerDivisionByZero) => Stop::DivideByZero,
        Some(Trap::IntegerOverflow) => Stop::IntegerOverflow,
        Some(Trap::BadConversionToInteger) => Stop::InvalidConversion,
        Some(Trap::MemoryOutOfBounds) => Stop::MemoryOutOfBounds,
        Some(Trap::TableOutOfBounds) => Stop::TableOutOfBounds,
        Some(Trap::IndirectCallToNull) => Stop::NullFunction,
        Some(Trap::BadSignature) => Stop::WrongSignature,
        Some(Trap::StackOverflow) => Stop::EngineStackOverflow,
        _ => Stop::Other(format!("{error:#}")),
    }
}

//! wasmi, an interpreter that shares no code with the others.

use wasmi::{
    Caller, Config, Engine, Error, Extern, Func, FuncType, Global, Instance, Linker, Memory, MemoryType, Module,
    Mutability, Nullable, Ref, RefType, Store, Table, TableType, TrapCode, V128, Val, ValType,
};

use super::{Account, Form, NATIVE_STACK_BYTES, Stop, Value};

/// More frames than fit on the meter's stack.
const FRAMES_MAX: usize = 1 << 20;

pub struct Instances {
    engine: Engine,
    store: Store<Account>,
    linker: Linker<Account>,
    instances: Vec<Instance>,
}

impl Instances {
    pub fn new(form: Form) -> Self {
        let mut config = Config::default();
        config.set_max_recursion_depth(FRAMES_MAX).set_max_stack_height(NATIVE_STACK_BYTES);
        let engine = Engine::new(&config);
        let mut store = Store::new(&engine, Account::default());
        let mut linker = Linker::new(&engine);
        linker.allow_shadowing(true);
        let refill = |mut caller: Caller<'_, Account>, state: i64| caller.data_mut().refill(state).map_err(Error::host);
        linker.func_wrap("compute", "refill", refill).expect("it is the first");
        spectest(&mut linker, &mut store, form);
        Self { engine, store, linker, instances: Vec::new() }
    }
}

impl wasmi::errors::HostError for Stop {}

/// Defines the imports of the core test suite.
fn spectest(linker: &mut Linker<Account>, store: &mut Store<Account>, form: Form) {
    use ValType::{F32, F64, I32, I64};
    for (name, params) in [
        ("print", vec![]),
        ("print_i32", vec![I32]),
        ("print_i64", vec![I64]),
        ("print_f32", vec![F32]),
        ("print_f64", vec![F64]),
        ("print_i32_f32", vec![I32, F32]),
        ("print_f64_f64", vec![F64, F64]),
    ] {
        let state = (form != Form::Plain).then_some(I64);
        let ty = FuncType::new(params.into_iter().chain(state).collect::<Vec<_>>(), state);
        let print = |_: Caller<'_, Account>, params: &[Val], results: &mut [Val]| {
            results.iter_mut().zip(params.last()).for_each(|(result, state)| *result = state.clone());
            Ok(())
        };
        linker.func_new("spectest", name, ty, print).expect("each has a name of its own");
    }
    for (name, value) in [
        ("global_i32", Val::I32(666)),
        ("global_i64", Val::I64(666)),
        ("global_f32", Val::F32(666.6f32.into())),
        ("global_f64", Val::F64(666.6f64.into())),
    ] {
        let global = Global::new(&mut *store, value, Mutability::Const);
        linker.define("spectest", name, global).expect("each has a name of its own");
    }
    let table = Table::new(&mut *store, TableType::new(RefType::Func, 10, Some(20)), Ref::null(RefType::Func));
    linker.define("spectest", "table", table.expect("it is small")).expect("each has a name of its own");
    let memory = Memory::new(&mut *store, MemoryType::new(1, Some(2))).expect("it is small");
    linker.define("spectest", "memory", memory).expect("each has a name of its own");
}

impl super::Store for Instances {
    fn instantiate(&mut self, wasm: &[u8]) -> Result<usize, Stop> {
        // SAFETY: every module is validated before it comes here (`is_admissible`, `metered`,
        // `scrambled`).
        let module = unsafe { Module::new_unchecked(&self.engine, wasm) };
        let module = module.map_err(|error| Stop::Uncompiled(error.to_string()))?;
        let instance =
            self.linker.instantiate_and_start(&mut self.store, &module).map_err(|error| match stop(&error) {
                Stop::Other(_) => Stop::Unlinked,
                stop => stop,
            })?;
        self.instances.push(instance);
        Ok(self.instances.len() - 1)
    }

    fn register(&mut self, instance: usize, name: &str) {
        let instance = self.instances[instance];
        self.linker.instance(&mut self.store, name, instance).expect("shadowing is allowed");
    }

    fn call(&mut self, instance: usize, export: &str, arguments: &[Value]) -> Result<Vec<Value>, Stop> {
        let function = self.instances[instance].get_func(&self.store, export).expect("it is exported");
        let arguments: Vec<Val> = arguments.iter().map(|value| val(*value)).collect();
        let mut results = vec![Val::I32(0); function.ty(&self.store).results().len()];
        function.call(&mut self.store, &arguments, &mut results).map_err(|error| stop(&error))?;
        Ok(results.iter().map(value).collect())
    }

    fn global(&mut self, instance: usize, export: &str) -> Option<Value> {
        let global = self.instances[instance].get_global(&self.store, export)?;
        Some(value(&global.get(&self.store)))
    }

    fn memory(&mut self, instance: usize, export: &str) -> Option<Vec<u8>> {
        match self.instances[instance].get_export(&self.store, export)? {
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
        Value::F32(bits) => Val::F32(wasmi::F32::from_bits(bits)),
        Value::F64(bits) => Val::F64(wasmi::F64::from_bits(bits)),
        Value::V128(bits) => Val::V128(V128::from(bits)),
        Value::Null => Val::FuncRef(Nullable::<Func>::Null),
        Value::Reference => panic!("tests make no references"),
    }
}

fn value(val: &Val) -> Value {
    match val {
        Val::I32(bits) => Value::I32(*bits as u32),
        Val::I64(bits) => Value::I64(*bits as u64),
        Val::F32(float) => Value::F32(float.to_bits()),
        Val::F64(float) => Value::F64(float.to_bits()),
        Val::V128(bits) => Value::V128(bits.as_u128()),
        Val::FuncRef(Nullable::Null) => Value::Null,
        _ => Value::Reference,
    }
}

fn stop(error: &Error) -> Stop {
    if let Some(stop) = error.downcast_ref::<Stop>() {
        return stop.clone();
    }
    match error.as_trap_code() {
        Some(TrapCode::UnreachableCodeReached) => Stop::Unreachable,
        Some(TrapCode::IntegerDivisionByZero) => Stop::DivideByZero,
        Some(TrapCode::IntegerOverflow) => Stop::IntegerOverflow,
        Some(TrapCode::BadConversionToInteger) => Stop::InvalidConversion,
        Some(TrapCode::MemoryOutOfBounds) => Stop::MemoryOutOfBounds,
        Some(TrapCode::TableOutOfBounds) => Stop::TableOutOfBounds,
        Some(TrapCode::IndirectCallToNull) => Stop::NullFunction,
        Some(TrapCode::BadSignature) => Stop::WrongSignature,
        Some(TrapCode::StackOverflow) => Stop::EngineStackOverflow,
        _ => Stop::Other(error.to_string()),
    }
}

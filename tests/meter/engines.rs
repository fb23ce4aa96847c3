//! Five engines with one interface, so that a test can compare them.

mod wasmi;
mod wasmtime;

use compute_host::sandbox::meter::{self, MeterState, QUANTUM, STACK_BYTES};
use wasmparser::{Validator, WasmFeatures};

use crate::scramble;

/// Native stack of every engine. The meter stops a guest at a quarter of it.
const NATIVE_STACK_BYTES: usize = 256 << 20;

/// High half of the state when the stack is empty.
const WHOLE_STACK: i64 = STACK_BYTES as i64;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Cranelift,
    CraneliftUnoptimised,
    Winch,
    Pulley,
    Wasmi,
}

pub const ALL: [Kind; 5] = [Kind::Cranelift, Kind::CraneliftUnoptimised, Kind::Winch, Kind::Pulley, Kind::Wasmi];

/// Transformation of a module before an engine gets it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// None. The engine itself canonicalises NaNs, where it can.
    Plain,
    Metered,
    /// Metered, and with another NaN in the place of each NaN that arithmetic makes.
    Scrambled,
}

/// Bits of a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Value {
    I32(u32),
    I64(u64),
    F32(u32),
    F64(u64),
    V128(u128),
    Null,
    Reference,
}

/// Reason why a call stopped before its end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Stop {
    Unreachable,
    DivideByZero,
    IntegerOverflow,
    InvalidConversion,
    MemoryOutOfBounds,
    TableOutOfBounds,
    NullFunction,
    WrongSignature,
    /// The meter reports it.
    OutOfStack,
    OutOfGas,
    /// The meter must prevent it.
    EngineStackOverflow,
    /// An import is missing or has another type.
    Unlinked,
    /// The engine does not support the module.
    Uncompiled(String),
    Other(String),
}

impl std::fmt::Display for Stop {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{self:?}")
    }
}

impl std::error::Error for Stop {}

/// Result of a call and its gas. After a stop, `gas` is the gas that was granted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ran {
    pub ended: Result<Vec<Value>, Stop>,
    pub gas: u64,
}

impl Ran {
    #[track_caller]
    pub fn values(&self) -> &[Value] {
        self.ended.as_ref().expect("the call comes to its end")
    }
}

/// Host's state of a run.
#[derive(Debug, Default)]
pub struct Account {
    /// Most gas that may be granted.
    total: u64,
    granted: u64,
    /// Number of refills that the guest requested.
    pub refills: u64,
    /// Gas beyond the total that was spent before the host was called.
    overdrawn: u64,
}

impl Account {
    fn refill(&mut self, state: i64) -> Result<i64, Stop> {
        self.refills += 1;
        let (stack, gas) = halves(state);
        if stack < 0 {
            return Err(Stop::OutOfStack);
        }
        assert!(gas < 0, "nothing is overdrawn: {gas} gas, {stack} bytes of stack");
        let grant = (gas.unsigned_abs().div_ceil(QUANTUM) * QUANTUM).min(self.total - self.granted);
        self.granted += grant;
        if gas + (grant as i64) < 0 {
            self.overdrawn = (gas + grant as i64).unsigned_abs();
            return Err(Stop::OutOfGas);
        }
        Ok((stack << 32) | (gas + grant as i64))
    }
}

/// Returns the stack and the gas that are left.
fn halves(state: i64) -> (i64, i64) {
    let gas = i64::from(state as i32);
    ((state - gas) >> 32, gas)
}

/// A store and its instances.
trait Store {
    fn instantiate(&mut self, wasm: &[u8]) -> Result<usize, Stop>;
    fn register(&mut self, instance: usize, name: &str);
    fn call(&mut self, instance: usize, export: &str, arguments: &[Value]) -> Result<Vec<Value>, Stop>;
    fn global(&mut self, instance: usize, export: &str) -> Option<Value>;
    fn memory(&mut self, instance: usize, export: &str) -> Option<Vec<u8>>;
    fn account(&mut self) -> &mut Account;
}

/// Instances that can be linked with each other, on one engine.
pub struct Machine {
    form: Form,
    store: Box<dyn Store>,
}

impl Machine {
    pub fn new(kind: Kind, form: Form) -> Self {
        let store: Box<dyn Store> = match kind {
            Kind::Wasmi => Box::new(wasmi::Instances::new(form)),
            _ => Box::new(wasmtime::Instances::new(kind, form)),
        };
        Self { form, store }
    }

    /// Instantiates a module and returns the instance's number for the calls below.
    pub fn instantiate(&mut self, wasm: &[u8]) -> Result<usize, Stop> {
        *self.store.account() = Account { total: u64::MAX, ..Account::default() };
        match self.form {
            Form::Plain => self.store.instantiate(wasm),
            Form::Metered => self.store.instantiate(&metered(wasm)),
            Form::Scrambled => self.store.instantiate(&scramble::scrambled(&metered(wasm))),
        }
    }

    /// Makes an instance's exports available for the imports of later instances.
    pub fn register(&mut self, instance: usize, name: &str) {
        self.store.register(instance, name);
    }

    pub fn invoke(&mut self, instance: usize, export: &str, arguments: &[Value]) -> Ran {
        self.invoke_within(u64::MAX, instance, export, arguments)
    }

    pub fn invoke_within(&mut self, gas: u64, instance: usize, export: &str, arguments: &[Value]) -> Ran {
        if self.form == Form::Plain {
            return Ran { ended: self.store.call(instance, export, arguments), gas: 0 };
        }
        *self.store.account() = Account { total: gas, ..Account::default() };
        let mut arguments = arguments.to_vec();
        arguments.push(Value::I64(MeterState::BEGIN.to_i64() as u64));
        let ended = self.store.call(instance, export, &arguments);
        let account = self.store.account();
        let Ok(mut values) = ended else { return Ran { ended, gas: account.granted } };
        let Some(Value::I64(state)) = values.pop() else { panic!("the state is the last result") };
        let (stack, left) = halves(state as i64);
        assert_eq!(stack, WHOLE_STACK, "each frame is given back");
        // No check happens where a function ends. The host charges gas that is overdrawn there.
        let settled = if left < 0 { account.refill(state as i64) } else { Ok(state as i64) };
        match settled {
            Ok(state) => Ran { ended: Ok(values), gas: account.granted - halves(state).1 as u64 },
            Err(stop) => Ran { ended: Err(stop), gas: account.granted },
        }
    }

    /// Returns the number of refills that the last call requested.
    pub fn refills(&mut self) -> u64 {
        self.store.account().refills
    }

    /// Returns the gas that the last call spent beyond its total.
    pub fn overdrawn(&mut self) -> u64 {
        self.store.account().overdrawn
    }

    pub fn global(&mut self, instance: usize, export: &str) -> Option<Value> {
        self.store.global(instance, export)
    }

    pub fn memory(&mut self, instance: usize, export: &str) -> Option<Vec<u8>> {
        self.store.memory(instance, export)
    }
}

/// Returns the features that the gate allows (`sandbox::check`).
pub fn features() -> WasmFeatures {
    WasmFeatures::MUTABLE_GLOBAL
        | WasmFeatures::SATURATING_FLOAT_TO_INT
        | WasmFeatures::SIGN_EXTENSION
        | WasmFeatures::MULTI_VALUE
        | WasmFeatures::BULK_MEMORY
        | WasmFeatures::REFERENCE_TYPES
        | WasmFeatures::SIMD
        | WasmFeatures::FLOATS
        | WasmFeatures::EXTENDED_CONST
}

pub fn is_admissible(wasm: &[u8]) -> bool {
    Validator::new_with_features(features()).validate_all(wasm).is_ok()
}

/// Returns the metered module. Asserts that the metered module is valid too.
#[track_caller]
pub fn metered(wasm: &[u8]) -> Vec<u8> {
    assert!(is_admissible(wasm), "the module is not valid, without the meter");
    let metered = meter::metered(wasm).expect("the meter knows the module");
    if let Err(error) = Validator::new_with_features(features()).validate_all(&metered) {
        let text = wasmprinter::print_bytes(&metered).unwrap_or_default();
        panic!("the metered module is not valid: {error}\n{text}");
    }
    metered
}

/// Runs `test` on a thread with the stack that the engines need.
pub fn on_a_deep_stack<T: Send>(test: impl FnOnce() -> T + Send) -> T {
    std::thread::scope(|scope| {
        let deep = std::thread::Builder::new().stack_size(4 * NATIVE_STACK_BYTES);
        let thread = deep.spawn_scoped(scope, test).expect("a thread can be started");
        thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

/// Returns all that is observable of a call on a fresh instance. Panics if the engines differ.
#[track_caller]
pub fn alike(wasm: &[u8], export: &str, arguments: &[Value], gas: u64) -> Seen {
    alike_on(&ALL, wasm, export, arguments, gas)
}

/// Omits wasmi, for guests that take many steps. A wasmi built with debug assertions has operators
/// that leave bytes on the native stack until the guest ends.
#[track_caller]
pub fn alike_compiled(wasm: &[u8], export: &str, arguments: &[Value], gas: u64) -> Seen {
    alike_on(&ALL[..4], wasm, export, arguments, gas)
}

#[track_caller]
pub fn alike_on(kinds: &[Kind], wasm: &[u8], export: &str, arguments: &[Value], gas: u64) -> Seen {
    let on = |kind| on_a_deep_stack(|| seen(kind, wasm, export, arguments, gas));
    let first = on(kinds[0]);
    for kind in &kinds[1..] {
        assert_eq!(on(*kind), first, "{export} {arguments:x?} on {kind:?}, beside {:?}", kinds[0]);
    }
    first
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen {
    pub ran: Ran,
    pub refills: u64,
    /// Gas that was spent beyond the total.
    pub overdrawn: u64,
    /// The global that is exported as `count`.
    pub count: Option<Value>,
    /// BLAKE3 of the memory that is exported as `memory`.
    pub memory: Option<blake3::Hash>,
}

fn seen(kind: Kind, wasm: &[u8], export: &str, arguments: &[Value], gas: u64) -> Seen {
    let mut machine = Machine::new(kind, Form::Metered);
    let instance = machine.instantiate(wasm).expect("the module can be instantiated");
    let ran = machine.invoke_within(gas, instance, export, arguments);
    let (refills, overdrawn) = (machine.refills(), machine.overdrawn());
    let memory = machine.memory(instance, "memory").map(|memory| blake3::hash(&memory));
    Seen { ran, refills, overdrawn, count: machine.global(instance, "count"), memory }
}

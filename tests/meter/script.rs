//! Runner for the scripts of the official test suite. It reports the result of each assertion.

use std::collections::HashMap;

use wast::core::{NanPattern, V128Pattern, WastArgCore, WastRetCore};
use wast::lexer::Lexer;
use wast::parser::{self, ParseBuffer};
use wast::token::Id;
use wast::{QuoteWat, Wast, WastArg, WastDirective, WastExecute, WastInvoke, WastRet};

use crate::engines::{Form, Kind, Machine, Ran, Stop, Value, is_admissible};
use crate::start;

/// A directive with a call, executed or skipped.
pub struct Step {
    pub line: usize,
    pub became: Became,
}

pub enum Became {
    /// Skipped, for this reason.
    Skipped(&'static str),
    /// Result, and the difference from the expected one.
    Ran { ran: Ran, wrong: Option<String> },
}

/// Number of an instance, or the reason why there is none.
type Known = Result<usize, &'static str>;

const FEATURE: &str = "the module needs what the gate does not allow";
const COMPILER: &str = "the engine cannot compile the module";
const NO_MODULE: &str = "the module was not instantiated";
const NO_IMPORT: &str = "the module imports what is not there";
const REFERENCE: &str = "an argument is a reference";

struct Player<'a> {
    machine: Machine,
    current: Known,
    named: HashMap<&'a str, Known>,
}

/// Runs `script` from its first line to its last.
pub fn play(script: &str, kind: Kind, form: Form) -> Vec<Step> {
    let mut lexer = Lexer::new(script);
    lexer.allow_confusing_unicode(true);
    let buffer = ParseBuffer::new_with_lexer(lexer).expect("the script can be read");
    let Wast { directives } = parser::parse(&buffer).expect("the script is well-formed");
    let mut player = Player { machine: Machine::new(kind, form), current: Err(NO_MODULE), named: HashMap::new() };
    let line = |directive: &WastDirective<'_>| directive.span().linecol_in(script).0 + 1;
    let steps = directives.into_iter().map(|directive| (line(&directive), player.directive(directive)));
    steps.filter_map(|(line, became)| Some(Step { line, became: became? })).collect()
}

impl<'a> Player<'a> {
    fn directive(&mut self, directive: WastDirective<'a>) -> Option<Became> {
        match directive {
            WastDirective::Module(mut module) => {
                let name = module.name();
                self.current = match self.module(&mut module) {
                    Ok(known) => known.map_err(|_| NO_MODULE),
                    Err(reason) => Err(reason),
                };
                if let Some(name) = name {
                    self.named.insert(name.name(), self.current);
                }
                None
            }
            WastDirective::Register { name, module, .. } => {
                if let Ok(instance) = self.instance(module) {
                    self.machine.register(instance, name);
                }
                None
            }
            WastDirective::Invoke(invoke) => Some(self.assert(WastExecute::Invoke(invoke), |_| None)),
            WastDirective::AssertReturn { exec, results, .. } => Some(self.assert(exec, |ended| match ended {
                Ok(values) => wrong_values(values, &results),
                Err(stop) => Some(format!("stopped: {stop}")),
            })),
            WastDirective::AssertTrap { exec, message, .. } => {
                Some(self.assert(exec, |ended| wrong_stop(ended, message)))
            }
            WastDirective::AssertExhaustion { call, message, .. } => {
                Some(self.assert(WastExecute::Invoke(call), |ended| wrong_stop(ended, message)))
            }
            _ => None,
        }
    }

    fn assert(
        &mut self,
        execute: WastExecute<'a>,
        wrong: impl FnOnce(&Result<Vec<Value>, Stop>) -> Option<String>,
    ) -> Became {
        match self.execute(execute) {
            Err(reason) => Became::Skipped(reason),
            Ok(ran) => Became::Ran { wrong: wrong(&ran.ended), ran },
        }
    }

    fn execute(&mut self, execute: WastExecute<'a>) -> Result<Ran, &'static str> {
        match execute {
            WastExecute::Invoke(WastInvoke { module, name, args, .. }) => {
                let instance = self.instance(module)?;
                let arguments: Option<Vec<Value>> = args.iter().map(argument).collect();
                Ok(self.machine.invoke(instance, name, &arguments.ok_or(REFERENCE)?))
            }
            WastExecute::Wat(module) => {
                let ended = self.module(&mut QuoteWat::Wat(module))?.map(|_| Vec::new());
                Ok(Ran { ended, gas: 0 })
            }
            WastExecute::Get { module, global, .. } => {
                let instance = self.instance(module)?;
                let value = self.machine.global(instance, global).ok_or(NO_IMPORT)?;
                Ok(Ran { ended: Ok(vec![value]), gas: 0 })
            }
        }
    }

    fn instance(&self, name: Option<Id<'_>>) -> Known {
        match name {
            None => self.current,
            Some(name) => self.named.get(name.name()).copied().unwrap_or(Err(NO_MODULE)),
        }
    }

    /// Instantiates a module, or returns the reason for skipping it.
    fn module(&mut self, module: &mut QuoteWat<'_>) -> Result<Result<usize, Stop>, &'static str> {
        let wasm = module.encode().map_err(|_| FEATURE)?;
        if !is_admissible(&wasm) {
            return Err(FEATURE);
        }
        let (wasm, starts) = start::exported(&wasm);
        match self.machine.instantiate(&wasm) {
            Err(Stop::Uncompiled(_)) => Err(COMPILER),
            Err(Stop::Unlinked) => Err(NO_IMPORT),
            Ok(instance) if starts => Ok(self.machine.invoke(instance, start::EXPORT, &[]).ended.map(|_| instance)),
            instantiated => Ok(instantiated),
        }
    }
}

fn argument(argument: &WastArg<'_>) -> Option<Value> {
    Some(match argument {
        WastArg::Core(WastArgCore::I32(value)) => Value::I32(*value as u32),
        WastArg::Core(WastArgCore::I64(value)) => Value::I64(*value as u64),
        WastArg::Core(WastArgCore::F32(value)) => Value::F32(value.bits),
        WastArg::Core(WastArgCore::F64(value)) => Value::F64(value.bits),
        WastArg::Core(WastArgCore::V128(value)) => Value::V128(u128::from_le_bytes(value.to_le_bytes())),
        WastArg::Core(WastArgCore::RefNull(_)) => Value::Null,
        _ => return None,
    })
}

fn wrong_values(values: &[Value], expected: &[WastRet<'_>]) -> Option<String> {
    let is_right = |(value, expected): (&Value, &WastRet<'_>)| match expected {
        WastRet::Core(expected) => is_as_expected(*value, expected),
        _ => false,
    };
    let are_right = values.len() == expected.len() && values.iter().zip(expected).all(is_right);
    (!are_right).then(|| format!("{values:x?} is not {expected:x?}"))
}

fn is_as_expected(value: Value, expected: &WastRetCore<'_>) -> bool {
    match (value, expected) {
        (Value::I32(bits), WastRetCore::I32(expected)) => bits == *expected as u32,
        (Value::I64(bits), WastRetCore::I64(expected)) => bits == *expected as u64,
        (Value::F32(bits), WastRetCore::F32(expected)) => is_f32(bits, expected),
        (Value::F64(bits), WastRetCore::F64(expected)) => is_f64(bits, expected),
        (Value::V128(bits), WastRetCore::V128(expected)) => is_v128(bits.to_le_bytes(), expected),
        (Value::Null, WastRetCore::RefNull(_)) | (Value::Reference, WastRetCore::RefFunc(_)) => true,
        (_, WastRetCore::Either(cases)) => cases.iter().any(|case| is_as_expected(value, case)),
        _ => false,
    }
}

fn is_f32(bits: u32, expected: &NanPattern<wast::token::F32>) -> bool {
    match expected {
        NanPattern::Value(value) => bits == value.bits,
        NanPattern::CanonicalNan => bits & 0x7fff_ffff == 0x7fc0_0000,
        NanPattern::ArithmeticNan => bits & 0x7fc0_0000 == 0x7fc0_0000,
    }
}

fn is_f64(bits: u64, expected: &NanPattern<wast::token::F64>) -> bool {
    const QUIET: u64 = 0x7ff8_0000_0000_0000;
    match expected {
        NanPattern::Value(value) => bits == value.bits,
        NanPattern::CanonicalNan => bits & (u64::MAX >> 1) == QUIET,
        NanPattern::ArithmeticNan => bits & QUIET == QUIET,
    }
}

fn is_v128(bytes: [u8; 16], expected: &V128Pattern) -> bool {
    let singles = bytes.as_chunks::<4>().0.iter().map(|lane| u32::from_le_bytes(*lane));
    let doubles = bytes.as_chunks::<8>().0.iter().map(|lane| u64::from_le_bytes(*lane));
    let shorts = bytes.as_chunks::<2>().0.iter().map(|lane| i16::from_le_bytes(*lane));
    match expected {
        V128Pattern::I8x16(lanes) => bytes.iter().zip(lanes).all(|(byte, lane)| *byte == *lane as u8),
        V128Pattern::I16x8(lanes) => shorts.zip(lanes).all(|(bits, lane)| bits == *lane),
        V128Pattern::I32x4(lanes) => singles.zip(lanes).all(|(bits, lane)| bits == *lane as u32),
        V128Pattern::I64x2(lanes) => doubles.zip(lanes).all(|(bits, lane)| bits == *lane as u64),
        V128Pattern::F32x4(lanes) => singles.zip(lanes).all(|(bits, lane)| is_f32(bits, lane)),
        V128Pattern::F64x2(lanes) => doubles.zip(lanes).all(|(bits, lane)| is_f64(bits, lane)),
    }
}

/// Compares an engine's stop with the suite's message for it.
fn wrong_stop(ended: &Result<Vec<Value>, Stop>, message: &str) -> Option<String> {
    let is_expected = |stop: &Stop| match stop {
        Stop::Unreachable => message == "unreachable",
        Stop::DivideByZero => message == "integer divide by zero",
        Stop::IntegerOverflow => message == "integer overflow",
        Stop::InvalidConversion => message == "invalid conversion to integer",
        Stop::MemoryOutOfBounds => message == "out of bounds memory access",
        Stop::TableOutOfBounds => ["out of bounds table access", "undefined element"].contains(&message),
        Stop::NullFunction => message.starts_with("uninitialized element"),
        Stop::WrongSignature => message == "indirect call type mismatch",
        Stop::OutOfStack => message == "call stack exhausted",
        _ => false,
    };
    match ended {
        Err(stop) if is_expected(stop) => None,
        Err(stop) => Some(format!("stopped: {stop}, not: {message}")),
        Ok(values) => Some(format!("{values:x?}, not: {message}")),
    }
}

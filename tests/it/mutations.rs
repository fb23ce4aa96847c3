//! Mutated modules: real modules, damaged by noise and by changes that leave them valid. For each,
//! the gate admits or refuses it, the compiler compiles it or says why not, and a run ends. The
//! same seed makes the same mutations.

mod anatomy;
mod changes;
mod noise;
mod originals;

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use compute_host::digest::HashThreads;
use compute_host::limits::Limits;
use compute_host::sandbox::{
    Admitted, Compiler, Execution, Input, Invocation, NativeCode, Outcome, Program, Sandbox, SandboxError,
};
use compute_host::slice::Slice;

use self::anatomy::Anatomy;

const SEED: u64 = 0x6d75_7461_7465;
const MUTATIONS: u64 = 100_000;
const THREADS: u64 = 2;
/// One in this many of the compiled modules is run.
const RUN_EVERY: u64 = 20;
/// One in this many of the admitted modules is mutated further, at most `KEPT_MAX` at a time.
const KEEP_EVERY: u64 = 40;
const KEPT_MAX: usize = 100;

const LIMITS: Limits = Limits { gas: 300_000, memory_bytes: 32 << 16, output_bytes: 1000, log_bytes: 100 };

/// Results of the mutations, and the number of admitted modules by kind.
#[derive(Default)]
struct Tally {
    made: u64,
    admitted: u64,
    compiled: u64,
    run: u64,
    /// Kind of the change: made, admitted.
    kinds: BTreeMap<&'static str, (u64, u64)>,
    refusals: BTreeMap<&'static str, u64>,
    /// The compiler's verdicts on admitted modules.
    verdicts: BTreeMap<String, u64>,
    endings: BTreeMap<String, u64>,
}

#[test]
fn no_mutation_of_a_module_does_harm() {
    let sandbox = Sandbox::new(THREADS as u32).unwrap();
    let mut tally = Tally::default();
    std::thread::scope(|scope| {
        let sandbox = &sandbox;
        let workers: Vec<_> = (0..THREADS).map(|worker| scope.spawn(move || mutate(worker, sandbox))).collect();
        for worker in workers {
            tally.add(worker.join().unwrap());
        }
    });
    println!("{} mutations: {} admitted, {} compiled, {} run", tally.made, tally.admitted, tally.compiled, tally.run);
    println!("admitted by kind of change: {:?}", tally.kinds);
    println!("refused: {:?}", tally.refusals);
    println!("not compiled: {:?}", tally.verdicts);
    println!("ended: {:?}", tally.endings);
    assert_eq!(tally.made, MUTATIONS);
    assert_eq!(tally.verdicts, BTreeMap::new(), "what the gate admits, the compiler compiles");
    assert!(tally.admitted * 5 >= tally.made, "fewer than a fifth get as far as the compiler");
    assert!(tally.kinds.values().all(|(made, _)| *made >= 20), "each kind of change is tried");
    assert!(tally.endings.len() >= 5, "too few endings: {:?}", tally.endings);
}

/// Runs one thread's share of the mutations. Each thread has its own modules, so its mutations do
/// not depend on the other threads.
fn mutate(worker: u64, sandbox: &Sandbox) -> Tally {
    let compiler = Compiler::in_process().unwrap();
    let mut modules = originals::all();
    let originals = modules.len();
    let mut random = Random(SEED + worker);
    let mut tally = Tally::default();
    for case in 0..MUTATIONS / THREADS {
        let module = pick_small(&modules, &mut random);
        let (kind, wasm) = changes::change(module, &mut random);
        let tried = catch_unwind(AssertUnwindSafe(|| attempt(kind, &wasm, &compiler, sandbox, &mut tally)));
        if tried.is_err() {
            let file = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("mutation-{worker}-{case}.wasm"));
            std::fs::write(&file, &wasm).unwrap();
            panic!("mutation {case} of thread {worker} does harm: {kind}, kept as {}", file.display());
        }
        let longest = modules.iter().take(originals).map(|module| module.wasm.len()).max();
        if tried.is_ok_and(|is_admitted| is_admitted)
            && tally.admitted.is_multiple_of(KEEP_EVERY)
            && Some(wasm.len()) <= longest
        {
            // Mutations accumulate.
            let further = Anatomy::of(&wasm);
            if modules.len() < originals + KEPT_MAX {
                modules.push(further);
            } else {
                modules[originals + random.below(KEPT_MAX)] = further;
            }
        }
    }
    tally
}

/// Processes one module like a stranger's, and returns whether it was admitted.
fn attempt(kind: &'static str, wasm: &[u8], compiler: &Compiler, sandbox: &Sandbox, tally: &mut Tally) -> bool {
    tally.made += 1;
    let of_kind = tally.kinds.entry(kind).or_default();
    of_kind.0 += 1;
    let admitted = match Admitted::new(wasm) {
        Ok(admitted) => admitted,
        Err(refusal) => {
            assert!(!refusal.to_string().is_empty() && !refusal.hint().is_empty());
            *tally.refusals.entry(refusal.code()).or_default() += 1;
            return false;
        }
    };
    of_kind.1 += 1;
    tally.admitted += 1;
    let code = match compiler.compile(&admitted) {
        Ok(code) => code,
        Err(SandboxError::Compile(verdict)) => {
            *tally.verdicts.entry(verdict).or_default() += 1;
            return true;
        }
        Err(error) => panic!("the host failed: {error}"),
    };
    tally.compiled += 1;
    if tally.compiled.is_multiple_of(RUN_EVERY) {
        // SAFETY: our own compiler made this code just now.
        let program = unsafe { sandbox.load(NativeCode::of(&code).unwrap()) }.unwrap();
        let (first, second) = (run(sandbox, &program), run(sandbox, &program));
        let parts = |run: &Execution| (run.outcome, run.proof, run.output.clone(), run.log.clone(), run.usage);
        assert_eq!(parts(&first), parts(&second), "two runs of one module on one input");
        assert_eq!(first.proof.is_some(), first.outcome == Outcome::Done);
        assert!(first.output.len() as u64 <= LIMITS.output_bytes && first.log.len() as u64 <= LIMITS.log_bytes);
        assert!(first.usage.memory_bytes <= LIMITS.memory_bytes && first.usage.gas <= LIMITS.gas);
        tally.run += 1;
        *tally.endings.entry(first.outcome.code().0.to_owned()).or_default() += 1;
    }
    true
}

fn run(sandbox: &Sandbox, program: &Program) -> Execution {
    let slice = Slice::from_bytes(&b"abcdefghij"[..]);
    let input: Box<dyn Input> = Box::new(slice.open(&HashThreads::new(1), &AtomicU64::new(0)).unwrap());
    let work = Invocation {
        args: (*b"arguments").into(),
        assets: Arc::new([(*b"weights").into()]),
        ..Invocation::new(input, LIMITS)
    };
    sandbox.run(program, work).expect("what a guest does is an outcome")
}

/// Picks one of `modules`; longer ones are picked less often, because they cost more.
fn pick_small<'a>(modules: &'a [Anatomy], random: &mut Random) -> &'a Anatomy {
    const UNIT_BYTES: usize = 1024;
    loop {
        let module = &modules[random.below(modules.len())];
        let weight = 1 + module.wasm.len() / UNIT_BYTES;
        if random.below(weight * weight) == 0 {
            return module;
        }
    }
}

impl Tally {
    fn add(&mut self, other: Self) {
        self.made += other.made;
        self.admitted += other.admitted;
        self.compiled += other.compiled;
        self.run += other.run;
        for (kind, (made, admitted)) in other.kinds {
            let of_kind = self.kinds.entry(kind).or_default();
            *of_kind = (of_kind.0 + made, of_kind.1 + admitted);
        }
        other.refusals.into_iter().for_each(|(code, count)| *self.refusals.entry(code).or_default() += count);
        other.verdicts.into_iter().for_each(|(verdict, count)| *self.verdicts.entry(verdict).or_default() += count);
        other.endings.into_iter().for_each(|(name, count)| *self.endings.entry(name).or_default() += count);
    }
}

/// `SplitMix64`: a simple generator with the same output everywhere.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// Returns a number below `bound`, or 0 if there is none.
    fn below(&mut self, bound: usize) -> usize {
        (self.next() % bound.max(1) as u64) as usize
    }

    fn pick<'a, T>(&mut self, from: &'a [T]) -> Option<&'a T> {
        from.get(self.below(from.len()))
    }
}

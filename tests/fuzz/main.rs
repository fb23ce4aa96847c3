//! Random modules on every engine.

#[path = "../meter/scramble.rs"]
mod scramble;
mod wasmi_faults;
mod enliven;
mod constants;
mod subject;
mod agree;
mod tally;

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use agree::{Engines, GAS, Verdict};
use compute_host::sandbox::with_guest_stack;
use tally::Tally;

/// Number of seeds. Nearly each of them gives a module that the gate admits.
const SEEDS: u64 = 20_400;

/// Number of failures after which the test stops. The rest are likely to fail in the same way.
const FAILURES_MAX: usize = 10;

/// Scale of the number of random bytes for wasm-smith. The actual number is a quarter to five
/// quarters of it, which gives modules of some hundred operators.
const CHOICE_BYTES: u64 = 1_700;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Returns a number from the environment.
fn number(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |text| text.parse().unwrap_or_else(|_| panic!("{name} is to be a number")))
}

/// Returns the bytes for a seed.
fn bytes(seed: u64) -> Vec<u8> {
    let mut noise = blake3::Hasher::new().update(&seed.to_le_bytes()).finalize_xof();
    let mut length = [0; 8];
    noise.fill(&mut length);
    let length = CHOICE_BYTES / 4 + u64::from_le_bytes(length) % CHOICE_BYTES;
    let mut bytes = vec![0; subject::KIND_BYTES + length as usize];
    noise.fill(&mut bytes);
    bytes
}

/// Writes a module to a file, which stays if a test fails: an engine may abort the process. Returns
/// the path.
fn kept(seed: u64, wasm: &[u8]) -> PathBuf {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("fuzz-failures");
    std::fs::create_dir_all(&folder).unwrap();
    let file = folder.join(format!("{seed}.wasm"));
    std::fs::write(&file, wasm).unwrap();
    file
}

/// Compares the engines on the module of a seed.
fn judge(engines: &Engines, seed: u64, tally: &mut Tally) -> Option<String> {
    let Ok(subject) = subject::subject(&bytes(seed)) else {
        tally.unmade += 1;
        return None;
    };
    let file = kept(seed, &subject.wasm);
    let judged = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| subject.judged(engines)));
    let judged = judged.unwrap_or_else(|_| Verdict::Differ("it panicked".to_owned()));
    tally.note(&judged, &subject.wasm);
    let (Verdict::Differ(difference) | Verdict::WasmiDiffers(difference)) = judged else {
        std::fs::remove_file(file).unwrap();
        return None;
    };
    Some(format!("seed {seed}, {} (again: FUZZ_FIRST={seed} FUZZ_SEEDS=1)\n{difference}", file.display()))
}

#[test]
fn engines_agree_on_random_modules() {
    let (first, seeds) = (number("FUZZ_FIRST", 0), number("FUZZ_SEEDS", SEEDS));
    let (next, failures, total) = (AtomicU64::new(first), Mutex::new(Vec::new()), Mutex::new(Tally::default()));
    let began = std::time::Instant::now();
    std::thread::scope(|scope| {
        for _ in 0..std::thread::available_parallelism().map_or(1, usize::from) {
            scope.spawn(|| {
                let engines = Engines::new();
                let work = || {
                    let mut tally = Tally::default();
                    loop {
                        let seed = next.fetch_add(1, Ordering::Relaxed);
                        if seed >= first + seeds || failures.lock().unwrap().len() >= FAILURES_MAX {
                            return tally;
                        }
                        let failure = judge(&engines, seed, &mut tally);
                        failures.lock().unwrap().extend(failure);
                    }
                };
                let tally = with_guest_stack(work).unwrap();
                total.lock().unwrap().add(tally);
            });
        }
    });
    let (failures, tally) = (failures.into_inner().unwrap(), total.into_inner().unwrap());
    let seconds = began.elapsed().as_secs();
    // `println` would be shown only for tests that fail.
    let _ = writeln!(std::io::stderr(), "\nseeds {first}..{} in {seconds} s\n{tally}", first + seeds);
    assert!(failures.is_empty(), "{} modules differ:\n{}", failures.len(), failures.join("\n"));
    if seeds >= SEEDS {
        assert!(tally.modules >= seeds * 100 / 102, "there were only {} modules", tally.modules);
        assert!(2 * tally.more_than_little >= tally.modules, "too many modules do next to nothing");
        for (what, count) in tally.kinds() {
            assert!(8 * count >= tally.modules, "only {count} modules have {what}");
        }
    }
}

/// Modules on which engines once differed, one in each file.
#[test]
fn engines_agree_on_what_they_differed_on() {
    let engines = Engines::new();
    let mut files: Vec<PathBuf> =
        std::fs::read_dir(root().join("tests/fuzz/fixtures")).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    assert!(!files.is_empty());
    for file in files {
        let shown = file.display();
        let is_named = |start: &str| file.file_name().is_some_and(|name| name.to_string_lossy().starts_with(start));
        let (fails, differs) = (is_named("wasmi-fails"), is_named("wasmi-differs"));
        match engines.judge(&wat::parse_file(&file).unwrap(), GAS) {
            Verdict::Agree(_) => {
                assert!(!fails && !differs, "{shown}: wasmi is mended, and this is to have another name")
            }
            Verdict::WasmiFails(_) => assert!(fails, "{shown}: wasmi alone differs"),
            Verdict::WasmiDiffers(difference) => assert!(differs, "{shown}: wasmi alone differs:\n{difference}"),
            Verdict::Refused(refusal) => panic!("{shown}: {refusal}"),
            Verdict::Differ(difference) => panic!("{shown}:\n{difference}"),
        }
    }
}

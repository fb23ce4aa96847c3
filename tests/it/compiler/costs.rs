//! Compile costs of a module: they fall on the child, and the module is at fault, not the host.

use compute_host::digest::Digest;
use compute_host::sandbox::{Compiler, GateLimits, GateReport, PrepareError};

use super::{CONFINED_BY_ALL, Workplace, frame, settings};
use crate::common::NODE;

/// Returns a compiler that sends these frames and then dies as if it had exceeded its bounds.
fn dying(here: &Workplace, told: &[Vec<u8>], how: &str) -> Compiler {
    let frames = told.concat();
    let (hello, frames) = (
        here.file("hello", [settings().as_bytes().as_slice(), &[CONFINED_BY_ALL]].concat()),
        here.file("frames", frames),
    );
    let script = format!("/bin/cat {}; /bin/cat > /dev/null; /bin/cat {}; {how}", hello.display(), frames.display());
    Compiler::child(here.program("compiler", &script), settings())
}

#[test]
fn what_a_module_costs_is_its_own_fault_at_each_stage() {
    let here = Workplace::new();
    let out_of_time = "kill -XCPU $$";
    let out_of_memory = "echo memory allocation of 77 bytes failed >&2; kill -ABRT $$";
    for how in [out_of_time, out_of_memory] {
        for (stage, expected) in [(0, "reading the text"), (1, "checking it took"), (2, "compiling it took")] {
            let compiler = dying(&here, &[frame(0, &[stage])], how);
            let error = compiler.prepare(&GateLimits::DEFAULT, b"(module)".as_slice()).err().unwrap();
            assert!(error.to_string().contains(expected), "{how}, at {stage}: {error}");
            assert!(!error.to_string().contains("another try"), "{error}");
        }
        // A refusal that was reported before the child died is returned.
        let refused = GateReport::of(&wat::parse_str("(module)").unwrap(), &GateLimits::DEFAULT);
        let told = [frame(0, &[1]), frame(2, &serde_json::to_vec(&refused).unwrap())];
        let error = dying(&here, &told, how).prepare(&GateLimits::DEFAULT, b"(module)".as_slice()).err().unwrap();
        assert!(matches!(error, PrepareError::Refused(report) if *report == refused));
    }
    // A child that dies from another cause, or before it has a module, is the host's failure.
    for (told, how) in [(vec![frame(0, &[2])], "kill -KILL $$"), (vec![], out_of_time), (vec![], out_of_memory)] {
        let error = dying(&here, &told, how).prepare(&GateLimits::DEFAULT, b"(module)".as_slice()).err().unwrap();
        assert!(error.to_string().ends_with("at another try"), "{error}");
    }
}

#[test]
fn text_is_made_binary_in_the_child_and_nowhere_else() {
    let text = "(module (memory (export \"memory\") 1) (func (export \"run\") (result i32) i32.const 0))";
    let binary = wat::parse_str(text).unwrap();
    let compiler = Compiler::child(NODE, settings());
    let of = |bytes: &[u8]| compiler.prepare(&GateLimits::DEFAULT, bytes);
    let prepared = of(text.as_bytes()).unwrap();
    assert_eq!((prepared.admitted.wasm(), prepared.admitted.digest()), (&*binary, Digest::of(&binary)));
    assert_eq!(prepared.code, of(&binary).unwrap().code);
    assert!(matches!(of(b"(module (func $f) (func $f))").err(), Some(PrepareError::NotAModule(_))));
    match of(b"(module)").err() {
        Some(PrepareError::Refused(report)) => {
            assert_eq!(*report, GateReport::of(&wat::parse_str("(module)").unwrap(), &GateLimits::DEFAULT));
        }
        other => panic!("{:?}", other.map(|error| error.to_string())),
    }
    // Parsing text happens in the child, because it can take a hundred times its size in memory.
    let dear = format!("(module {})", "(rec)".repeat(3_000_000));
    let error = of(dear.as_bytes()).err().unwrap();
    assert!(matches!(error, PrepareError::NotAModule(_)), "{error}");
}

/// Engines to verify with get a stranger's module, too. No command reads one in its own process.
#[test]
fn commands_that_verify_have_a_strangers_module_read_in_the_child() {
    let here = Workplace::new();
    here.file("data", "a slice");
    // In a process without bounds it would be a module, of more bytes than are admitted.
    here.file("dear.wat", format!("(module {})", "(rec)".repeat(3_000_000)));
    for line in ["verify data --module ./dear.wat", "diff data --module ./dear.wat", "module profile ./dear.wat data"] {
        let ran = here.run(&format!("compute {line}"));
        let said = "error: cannot use `./dear.wat`: reading the text of the module took more than ";
        assert!(ran.code == 2 && ran.stderr.starts_with(said), "{line}: {ran:?}");
    }
}

//! Compiled code that is kept for the next start, and for whom.

use std::fs;
use std::sync::Arc;

use compute_host::digest::MacKey;
use compute_host::modules::{CompiledCode, Modules};
use compute_host::sandbox::{Admitted, Compiler, GateLimits, Sandbox};
use compute_host::slice::Tenant;
use compute_host::workload::WorkloadGuest;

use super::lines::distinct;
use super::{Workplace, settings};
use crate::common::NODE;

/// A flood of one token's modules costs another no compilation: not when all of these were compiled
/// later, and not when nothing is in memory any more.
#[test]
fn one_token_does_not_have_anothers_module_compiled_anew_each_run() {
    let here = Workplace::new();
    fs::create_dir(here.path("cache")).unwrap();
    let script = format!("echo >> {}\nexec {NODE} \"$@\"", here.path("tried").display());
    let compiler = here.program("compiler", &script);
    let (mallory, victim): (Tenant, Tenant) = ("mallory".parse().unwrap(), "victim".parse().unwrap());
    let start = |bytes_max: u64| {
        let sandbox = Arc::new(Sandbox::new(1).unwrap());
        let compiler = Compiler::child(&compiler, settings());
        let files = CompiledCode::new(here.path("cache"), MacKey::new([7; 32]), bytes_max);
        Modules::new(sandbox, compiler, GateLimits::DEFAULT).with_code(files)
    };
    let run = |modules: &Modules, module: &Admitted, scope: &Tenant| {
        let before = here.tries();
        modules.program_for(WorkloadGuest::Admitted(module), scope).map(drop).unwrap();
        here.tries() - before
    };
    let own = distinct(1_000);
    assert_eq!(run(&start(1 << 30), &own, &victim), 1);
    let kept = fs::read_dir(here.path("cache")).unwrap().next().unwrap().unwrap().metadata().unwrap();
    // Room for six such modules, and two floods of twelve.
    let modules = start(6 * kept.len());
    for number in 0..12 {
        assert_eq!(run(&modules, &distinct(number), &mallory), 1);
    }
    // Whose code it was, nobody knows after a start: so this may cost a compilation, once.
    run(&modules, &own, &victim);
    for number in 12..24 {
        assert_eq!(run(&modules, &distinct(number), &mallory), 1);
    }
    assert_eq!(run(&start(6 * kept.len()), &own, &victim), 0, "it is still there");
}

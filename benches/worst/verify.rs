//! Most expensive check of a proof over the run that made it, found by hill climbing. The kernels
//! are guests of the node's command line: one run, and one check with the default engine.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Instant;

use tempfile::TempDir;

use super::kernels::Kernel;
use super::lab::{Context, guest};
use super::{Program, Random, changed};

/// A check may take so many times what the run took,
const RATIO_AIM: f64 = 1.5;
/// and so many seconds.
const SECONDS_AIM: f64 = 1.0;

const NODE: &str = env!("CARGO_BIN_EXE_node");
/// Enough to be seen beside the start of two processes; each loop goes on until it is used up.
const GAS: &str = "400000000";
const ALONE_STEP: usize = 9;
const STARTS: usize = 3;
const STEPS: usize = 25;

/// Seconds of a run, and of its check.
#[derive(Clone, Copy)]
struct Spent {
    run: f64,
    check: f64,
}

impl Spent {
    /// Seconds of the check that are not in the aim's share of the run.
    fn over(self) -> f64 {
        self.check - RATIO_AIM * self.run
    }
}

/// The node's command line in a folder of its own; how long it took, if it ended well.
fn seconds(folder: &Path, arguments: &[&str]) -> Option<f64> {
    let mut command = Command::new(NODE);
    command
        .current_dir(folder)
        .args(["--data-dir", "data"])
        .args(arguments)
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    let clock = Instant::now();
    let status = command.status().unwrap();
    status.success().then(|| clock.elapsed().as_secs_f64())
}

/// Runs a program and checks its proof; `None` where it makes none.
fn spent(folder: &Path, text: &str, engines: &[&str]) -> Option<Spent> {
    std::fs::write(folder.join("m.wat"), text).unwrap();
    std::fs::write(folder.join("x.slice"), [7; 1 << 16]).unwrap();
    // The proof of the program before.
    _ = std::fs::remove_dir_all(folder.join("out"));
    let run = ["compute", "run", "--no-cache", "--gas", GAS, "--module", "./m.wat", "--out", "out", "x.slice"];
    let clock = Instant::now();
    // Whatever its outcome, it has a proof.
    let _ended = seconds(folder, &run);
    let run = clock.elapsed().as_secs_f64();
    let verify = [&["compute", "verify", "out/x.slice.proof", "x.slice", "--module", "./m.wat"], engines].concat();
    Some(Spent { run, check: seconds(folder, &verify)? })
}

pub fn climb(kernels: &[Kernel], is_timed: bool, shown: impl Fn(&Program) -> String) {
    let folder = TempDir::new().unwrap();
    let text = |program: &Program| {
        let code: String = program.kernels.iter().map(|at| format!("{}\n", kernels[*at].code)).collect();
        guest(&code, program.times, program.context, u32::MAX)
    };
    let cost = |program: &Program| spent(folder.path(), &text(program), &[]);
    let alone = |at| Program { kernels: vec![at], times: 8, context: Context::Loop };
    let count = if is_timed { kernels.len() } else { 1 };
    let tried = (0..count).step_by(ALONE_STEP).map(alone);
    let mut found: Vec<(Spent, Program)> = tried.filter_map(|program| Some((cost(&program)?, program))).collect();
    assert!(!found.is_empty(), "no proof is verified");
    let sort = |found: &mut Vec<(Spent, Program)>| found.sort_by(|a, b| b.0.over().total_cmp(&a.0.over()));
    sort(&mut found);
    let mut random = Random(3);
    found.truncate(STARTS);
    for best in &mut found {
        for _ in 0..if is_timed { STEPS } else { 1 } {
            let next = changed(&best.1, kernels, &mut random);
            if let Some(spent) = cost(&next).filter(|spent| spent.over() > best.0.over()) {
                *best = (spent, next);
            }
        }
    }
    sort(&mut found);
    if !is_timed {
        return;
    }
    println!("\n{:<70} {:>8} {:>8} {:>8}", "a check of a proof, climbed", "run s", "check s", "ratio");
    for (Spent { run, check }, program) in &found {
        println!("  {:<68} {run:>8.2} {check:>8.2} {:>8.2}", shown(program), check / run);
    }
    let (dearest, program) = &found[0];
    if let Some(all) = spent(folder.path(), &text(program), &["--engines", "all"]) {
        println!(
            "  the first of these with --engines all: {:.2} s, {:.1} times its run",
            all.check,
            all.check / all.run
        );
    }
    println!("\nat most {:.2} s over {RATIO_AIM} times the run; aim {SECONDS_AIM}", dearest.over());
}

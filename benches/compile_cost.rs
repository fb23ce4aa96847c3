//! Compile cost of the modules that the gate admits. For each shape that is expensive to compile,
//! the bench compiles the most expensive admitted module, each in a process of its own. It also
//! reports how much of each limit real modules use.
//!
//! `REAL_MODULES` names a folder of modules (`*.wasm`) to compare with. The default is the modules
//! of this repository.

#[path = "common/bombs.rs"]
mod bombs;

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::time::Duration;

use bombs::{BOMBS, Bomb, Shape};
use compute_host::sandbox::{
    Admitted, CompileEngine, CompileEstimate, GateLimits, GateReport, LIMITS, LimitName, Refusal, Rule, meter,
};

/// Maximum ratio of the compile time a byte to that of a real module. A module above it should be
/// refused,
const RATIO_MAX: f64 = 4.0;
/// if it has more than this many bytes. So should a module of any size whose compilation takes more
/// memory than this.
const SMALL_BYTES: usize = 10_000;
const MEMORY_MIB_MAX: f64 = 512.0;
/// Maximum time of a unit of the estimate, in us. A unit is meant to take one, on a machine without
/// other work.
const US_A_UNIT_MAX: f64 = 2.0;

/// Modules of this repository, which compilers made of ordinary programs.
const OWN: [&str; 2] = ["benches/kernels/dist", "guest-workloads/dist"];

/// Time and memory of a compilation.
#[derive(Clone, Copy)]
struct Cost {
    bytes: usize,
    seconds: f64,
    memory_mib: f64,
}

impl Cost {
    fn us_per_byte(self) -> f64 {
        self.seconds * 1e6 / self.bytes as f64
    }
}

struct Real {
    name: String,
    report: GateReport,
    cost: Option<Cost>,
    /// Estimate for the metered module.
    units: Option<f64>,
}

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
        ["compile", name, n, copies] => {
            let bomb = BOMBS.iter().find(|bomb| bomb.name == *name).unwrap();
            compile(&bomb.module(n.parse().unwrap(), copies.parse().unwrap()))
        }
        ["compile", path] => compile(&std::fs::read(path).unwrap()),
        options => calibration(options.contains(&"--test"), options.iter().find(|option| !option.starts_with('-'))),
    }
}

/// Compiles a module with the meter in this process, and prints the time and memory.
fn compile(wasm: &[u8]) -> ExitCode {
    let engine = CompileEngine::new().unwrap();
    let Ok(metered) = meter::metered(wasm) else { return ExitCode::FAILURE };
    let mut seconds = Vec::new();
    // Repeats short measurements.
    while seconds.len() < 5 && seconds.iter().sum::<f64>() < 0.05 {
        let before = cpu_seconds();
        if let Err(error) = engine.compile(&metered) {
            eprintln!("{error}");
            return ExitCode::FAILURE;
        }
        seconds.push(cpu_seconds() - before);
    }
    seconds.sort_by(f64::total_cmp);
    println!("{} {}", seconds[seconds.len() / 2], peak_memory_mib());
    ExitCode::SUCCESS
}

/// Returns the processor time of this thread, which is the only one.
fn cpu_seconds() -> f64 {
    // The kernel updates it when the thread gives up the processor.
    std::thread::sleep(Duration::from_micros(50));
    let times = std::fs::read_to_string("/proc/self/schedstat").unwrap();
    times.split(' ').next().unwrap().parse::<f64>().unwrap() / 1e9
}

fn peak_memory_mib() -> f64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<f64>().unwrap() / 1024.0
}

/// Measures a compilation in a process of its own; `None` if it fails.
fn measure(arguments: &[&str], bytes: usize) -> Option<Cost> {
    let this = std::env::current_exe().unwrap();
    let output = Command::new(this).arg("compile").args(arguments).stderr(Stdio::null()).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let (seconds, memory) = text.trim().split_once(' ')?;
    Some(Cost { bytes, seconds: seconds.parse().ok()?, memory_mib: memory.parse().ok()? })
}

fn calibration(is_quick: bool, filter: Option<&&str>) -> ExitCode {
    let own = modules(&OWN.map(|folder| Path::new(env!("CARGO_MANIFEST_DIR")).join(folder)));
    let real = std::env::var_os("REAL_MODULES").map(|folder| modules(&[PathBuf::from(folder)]));
    let dear = dear(&own);
    let real = real.unwrap_or(own);
    let mut speeds: Vec<f64> = real.iter().filter_map(|module| Some(module.cost?.us_per_byte())).collect();
    let median = median(&mut speeds);
    println!("Real modules: {} that compile, median {median:.2} us/B, peak {:.0} MiB.\n", speeds.len(), peak(&real));
    uses(&real);
    estimates(&real);

    println!(
        "\n| shape | worst that is admitted | bytes | us/B | times the median | peak MiB |\n|---|---|---|---|---|---|"
    );
    let mut wrong = 0;
    for bomb in BOMBS.iter().filter(|bomb| filter.is_none_or(|filter| bomb.name.contains(filter))) {
        let sizes = if is_quick { 64..=64 } else { 4..=1 << 18 };
        wrong += usize::from(!holds(bomb, sizes, median));
    }
    if wrong + dear == 0 {
        return ExitCode::SUCCESS;
    }
    eprintln!(
        "{wrong} shapes are admitted that cost too much; {dear} modules of this repository are estimated wrongly"
    );
    ExitCode::FAILURE
}

/// Prints the most expensive module of a shape that the gate admits. Returns whether its cost is
/// within the limits.
fn holds(bomb: &Bomb, sizes: std::ops::RangeInclusive<u32>, median: f64) -> bool {
    let mut admitted: Vec<(String, Cost)> = Vec::new();
    let mut n = *sizes.start();
    while sizes.contains(&n) {
        let one = bomb.module(n, 1);
        if one.len() > LimitName::ModuleBytes.limit().default as usize {
            break;
        }
        for copies in [1, copies_of(bomb, &one, sizes.start() == sizes.end())] {
            let wasm = bomb.module(n, copies);
            let is_known = copies == 1 && admitted.last().is_some_and(|(size, _)| *size == format!("{n} x 1"));
            if is_known || Admitted::new(wasm.as_slice()).is_err() {
                continue;
            }
            let cost = measure(&[bomb.name, &n.to_string(), &copies.to_string()], wasm.len());
            admitted.push((format!("{n} x {copies}"), cost.expect("what the gate admits compiles")));
        }
        n *= 4;
    }
    let speed = |(_, cost): &&(String, Cost)| cost.us_per_byte();
    let Some(worst) = admitted.iter().max_by(|one, other| speed(one).total_cmp(&speed(other))) else {
        println!("| {} | none | | | | |", bomb.name);
        return true;
    };
    let large = admitted.iter().filter(|(_, cost)| cost.bytes > SMALL_BYTES);
    let worst_large = large.max_by(|one, other| speed(one).total_cmp(&speed(other)));
    let memory = admitted.iter().map(|(_, cost)| cost.memory_mib).fold(0.0, f64::max);
    for (size, cost) in [Some(worst), worst_large.filter(|large| large.0 != worst.0)].into_iter().flatten() {
        let (speed, ratio) = (cost.us_per_byte(), cost.us_per_byte() / median);
        println!("| {} | {size} | {} | {speed:.2} | {ratio:.1} | {memory:.0} |", bomb.name, cost.bytes);
    }
    memory <= MEMORY_MIB_MAX && worst_large.is_none_or(|(_, cost)| cost.us_per_byte() <= RATIO_MAX * median)
}

/// Returns the number of copies for a compilation long enough to measure: a tenth of a second, or a
/// mebibyte.
fn copies_of(bomb: &Bomb, one: &[u8], is_quick: bool) -> u32 {
    if is_quick || matches!(bomb.shape, Shape::Module(_)) {
        return 1;
    }
    let used = GateReport::of(one, &GateLimits::DEFAULT).used;
    (120_000 / used.function_cost.max(1)).min((1 << 20) / used.body_bytes.max(1)).max(1) as u32
}

/// Returns the number of this repository's modules that are refused, or take longer than their
/// estimate says.
fn dear(own: &[Real]) -> usize {
    let is_dear = |module: &&Real| {
        let is_refused = module.report.refusals.iter().any(is_of_shape);
        let (Some(cost), Some(units)) = (module.cost, module.units) else { return true };
        let is_late = cost.bytes > SMALL_BYTES && cost.seconds * 1e6 > units * US_A_UNIT_MAX;
        if is_refused || is_late {
            eprintln!("{}: refused: {is_refused}; {:.0} us for {units:.0} units", module.name, cost.seconds * 1e6);
        }
        is_refused || is_late
    };
    own.iter().filter(is_dear).count()
}

/// Reads and compiles the modules in these folders.
fn modules(folders: &[PathBuf]) -> Vec<Real> {
    let entries = folders.iter().flat_map(|folder| std::fs::read_dir(folder).unwrap());
    let mut files: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
    files.retain(|file| file.extension().is_some_and(|extension| extension == "wasm"));
    files.sort();
    let read = |file: PathBuf| {
        let wasm = std::fs::read(&file).unwrap();
        let report = GateReport::of(&wasm, &GateLimits::DEFAULT);
        let is_comparable = wasm.len() as u64 <= LimitName::ModuleBytes.limit().default
            && !report.refusals.iter().any(|refusal| matches!(refusal.rule, Rule::Invalid { .. }));
        let cost = || measure(&[file.to_str().unwrap()], wasm.len());
        let name = file.file_stem().unwrap().to_string_lossy().into_owned();
        let units = || Some(CompileEstimate::of(&meter::metered(&wasm).ok()?).ok()?.milli as f64 / 1_000.0);
        is_comparable.then(|| Real { name, cost: cost(), units: units(), report })
    };
    files.into_iter().filter_map(read).collect()
}

fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

fn peak(real: &[Real]) -> f64 {
    real.iter().filter_map(|module| module.cost).map(|cost| cost.memory_mib).fold(0.0, f64::max)
}

/// Prints how much of each limit the real modules use, and which modules a limit refuses.
fn uses(real: &[Real]) {
    println!("| limit | value | largest | second | median |\n|---|---|---|---|---|");
    for limit in LIMITS {
        let mut uses: Vec<(u64, &str)> =
            real.iter().map(|module| (module.report.used.of(limit.name), module.name.as_str())).collect();
        uses.sort_by(|one, other| other.cmp(one));
        let shown = |at: usize| uses.get(at).map_or_else(String::new, |(used, name)| format!("{used} {name}"));
        let median = uses.get(uses.len() / 2).map_or(0, |(used, _)| *used);
        println!("| `{}` | {} | {} | {} | {median} |", limit.key, limit.default, shown(0), shown(1));
    }
    println!();
    for module in real {
        let refusals: Vec<String> =
            module.report.refusals.iter().filter(|refusal| is_of_shape(refusal)).map(said).collect();
        if !refusals.is_empty() {
            println!("Refused: {}: {}.", module.name, refusals.join("; "));
        }
    }
}

/// Prints the estimate for each real module, in units a byte, beside its compile time.
fn estimates(real: &[Real]) {
    println!("\n| module | bytes | metered | units/B | us/B | MiB |\n|---|---|---|---|---|---|");
    for Real { name, report, cost, units } in real {
        let (Some(cost), Some(units)) = (cost, units) else { continue };
        let (bytes, metered, speed, memory) =
            (cost.bytes, report.used.metered_bytes, cost.us_per_byte(), cost.memory_mib);
        println!("| {name} | {bytes} | {metered} | {:.2} | {speed:.2} | {memory:.0} |", units / bytes as f64);
    }
}

/// Returns whether the refusal is for a limit on the compiled code.
fn is_of_shape(refusal: &Refusal) -> bool {
    const INTERFACE: &[LimitName] = &[LimitName::Imports, LimitName::Exports, LimitName::NameBytes];
    matches!(refusal.rule, Rule::Limit { name, .. } if !INTERFACE.contains(&name))
}

fn said(refusal: &Refusal) -> String {
    match refusal.rule {
        Rule::Limit { name, found, .. } => format!("{} {found}", name.limit().key),
        _ => refusal.code().to_owned(),
    }
}

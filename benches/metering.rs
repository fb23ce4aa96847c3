//! Cost of the meter: the sixteen kernels of `kernels/`, each under every setting in turn, in one
//! run; and the speed of the rewriting. The engines are wasmtime's own, because the meter must be
//! better than their own mechanisms.
//!
//! Arguments select kernels by parts of their names. With `--test` everything runs once, untimed.

#[path = "common/large.rs"]
mod large;
#[path = "metering/guest.rs"]
mod guest;

use std::path::Path;
use std::time::Duration;

use compute_host::sandbox::meter;

use self::guest::{Guest, SETTINGS, Setting, processor_time};

/// Number of runs of each setting. The best time counts, because every disturbance makes a run
/// longer. All times are processor times, so other processes have little effect on them.
const ROUNDS: usize = 15;

/// Maximum cost of the meter relative to plain: as a geometric mean, and for any one kernel.
const MEAN_AIM: f64 = 1.05;
const WORST_AIM: f64 = 1.25;

/// Aim for the speed of rewriting, on one thread.
const REWRITING_AIM_MB_S: f64 = 20.0;

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    // `cargo bench` passes this argument; `cargo test` does not.
    let is_timed = arguments.iter().any(|a| a == "--bench") && !arguments.iter().any(|a| a == "--test");
    let names: Vec<&str> = arguments.iter().filter(|a| !a.starts_with("--")).map(String::as_str).collect();
    let kernels: Vec<(String, Vec<u8>)> = kernels()
        .into_iter()
        .filter(|(name, _)| names.is_empty() || names.iter().any(|part| name.contains(part)))
        .collect();
    tax(&kernels, if is_timed { ROUNDS } else { 1 }, is_timed);
    if names.is_empty() {
        rewriting(&kernels, is_timed);
    }
}

/// Returns names and code, sorted by name.
fn kernels() -> Vec<(String, Vec<u8>)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("benches/kernels/dist");
    let files = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let mut kernels: Vec<(String, Vec<u8>)> = files
        .filter(|path| path.extension().is_some_and(|extension| extension == "wasm"))
        .map(|path| (path.file_stem().unwrap().to_str().unwrap().to_owned(), std::fs::read(path).unwrap()))
        .collect();
    kernels.sort();
    kernels
}

/// Measures each kernel under each setting, as the ratio to plain.
fn tax(kernels: &[(String, Vec<u8>)], rounds: usize, is_timed: bool) {
    if is_timed {
        print!("{:<16} {:>8}", "time over plain", "plain");
        SETTINGS[1..].iter().for_each(|setting| print!(" {:>10}", setting.name));
        println!(" {:>8} {:>9}", "Mgas", "ps/gas");
    }
    let mut ratios = Vec::new();
    for (name, wasm) in kernels {
        let (best, gas) = best(name, wasm, rounds);
        if !is_timed {
            continue;
        }
        let over_plain = best.map(|time| time.as_secs_f64() / best[0].as_secs_f64());
        print!("{name:<16} {:>5.1} ms", best[0].as_secs_f64() * 1e3);
        over_plain[1..].iter().for_each(|ratio| print!(" {ratio:>10.3}"));
        let metered_ps = best[SETTINGS.len() - 1].as_secs_f64() * 1e12;
        println!(" {:>8.1} {:>9.0}", gas as f64 / 1e6, metered_ps / gas as f64);
        ratios.push(over_plain);
    }
    if !is_timed || ratios.is_empty() {
        return;
    }
    let of = |setting: usize| ratios.iter().map(move |ratios| ratios[setting]);
    let mean = |setting| (of(setting).map(f64::ln).sum::<f64>() / ratios.len() as f64).exp();
    let worst = |setting| of(setting).fold(0.0, f64::max);
    for (what, figure) in [("geometric mean", &mean as &dyn Fn(usize) -> f64), ("worst", &worst)] {
        print!("{what:<25}");
        (1..SETTINGS.len()).for_each(|setting| print!(" {:>10.3}", figure(setting)));
        println!();
    }
    println!("aim: a mean of {MEAN_AIM}, a worst of {WORST_AIM}");
}

/// Returns the best time of each setting, and the gas of the metered one.
fn best(name: &str, wasm: &[u8], rounds: usize) -> ([Duration; SETTINGS.len()], u64) {
    let guests = SETTINGS.each_ref().map(|setting: &Setting| Guest::new(setting, wasm));
    let mut best = [Duration::MAX; SETTINGS.len()];
    let mut gas = None;
    for _ in 0..rounds {
        let runs = guests.each_ref().map(Guest::run);
        for (best, run) in best.iter_mut().zip(&runs) {
            *best = (*best).min(run.time);
        }
        let [.., with_canonical_nans, metered] = &runs;
        assert_eq!(metered.output, with_canonical_nans.output, "{name} puts out something else");
        assert_eq!(*gas.get_or_insert(metered.gas), metered.gas, "{name} uses another amount of gas each time");
    }
    (best, gas.unwrap_or_default())
}

/// Measures the speed of rewriting: all kernels, and a module with code like a Rust compiler's.
fn rewriting(kernels: &[(String, Vec<u8>)], is_timed: bool) {
    let kernels = kernels.iter().map(|(_, wasm)| wasm.clone()).collect();
    for (name, modules) in [("the kernels", kernels), ("1 MiB", vec![large::module(1 << 20)])] {
        let bytes: usize = modules.iter().map(Vec::len).sum();
        let mut best = Duration::MAX;
        let mut written = 0;
        for _ in 0..if is_timed { ROUNDS } else { 1 } {
            let start = processor_time();
            written = modules.iter().map(|wasm| meter::metered(wasm).unwrap().len()).sum();
            best = best.min(processor_time() - start);
        }
        if is_timed {
            let rate = bytes as f64 / best.as_secs_f64() / 1e6;
            let growth = written as f64 / bytes as f64;
            println!(
                "rewriting {name}: {rate:.0} MB/s, aim {REWRITING_AIM_MB_S}; the result is {growth:.2} of the size"
            );
        }
    }
}

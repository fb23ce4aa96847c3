//! Time of each operator on Cranelift, beside its price in the gas schedule.
//!
//! Each operator is measured as a chain in which each step waits for the one before, with its data
//! in the L1 cache. The code is compiled without optimisation across operators, because the
//! compiler would simplify a chain. Operators that leave nothing to wait for are measured by their
//! throughput and printed separately. So are operators whose time depends on the size of the data.

#[path = "calibration/chains.rs"]
mod chains;
#[allow(dead_code, reason = "guests are run by the bench `worst`")]
#[path = "common/lab.rs"]
mod lab;

use std::collections::HashMap;

use compute_host::sandbox::meter;

use self::chains::{Chain, chain, moving, round_trip};
use self::lab::Bare;

/// Aim for the ratio of the longest and the shortest time of a unit of gas.
const SPREAD_AIM: f64 = 5.0;

/// Bytes and elements that bulk operators move: as many as stay in the L1 cache.
const BULK_BYTES: u32 = 8 << 10;
const BULK_ELEMENTS: u32 = 1 << 10;

struct Row {
    name: String,
    ns: f64,
    gas: u64,
}

impl Row {
    fn ns_per_gas(&self) -> f64 {
        self.ns / self.gas as f64
    }
}

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    // `cargo bench` passes this argument; `cargo test` does not.
    let is_timed = arguments.iter().any(|a| a == "--bench") && !arguments.iter().any(|a| a == "--test");
    let lab = Bare::new(is_timed);
    let operators = Operators::measured(&lab);
    let bulk = bulk(&lab, &operators.costs);
    let apart = lab.apart();
    if is_timed {
        operators.print();
        print("moving, in the first cache", &bulk);
        spread(operators.chains.iter().chain(&bulk).chain(operators.streams.iter().filter(|row| row.gas > 1)));
        println!("\napart, as no price of an operator's covers it");
        apart.iter().for_each(|(what, ns)| println!("  {what:<44} {ns:>10.2} ns"));
    }
}

struct Operators {
    chains: Vec<Row>,
    /// Operators that leave nothing to wait for.
    streams: Vec<Row>,
    /// No instruction, or nothing that can be repeated.
    unmeasured: Vec<(String, u64)>,
    costs: HashMap<String, u64>,
}

impl Operators {
    fn measured(lab: &Bare) -> Self {
        let costs: Vec<(String, u64)> = meter::costs().collect();
        let mut operators =
            Self { chains: vec![], streams: vec![], unmeasured: vec![], costs: costs.iter().cloned().collect() };
        let mut trips = HashMap::new();
        let mut others = HashMap::new();
        for (name, gas) in costs {
            let Some(Chain { code, round_trips, others: names, parts, is_chain }) = chain(&name) else {
                operators.unmeasured.push((name, gas));
                continue;
            };
            let mut ns = lab.ns(&code);
            for trip in round_trips {
                ns -= *trips.entry(trip).or_insert_with(|| lab.ns(&round_trip(trip).code)) / 2.0;
            }
            for name in names {
                ns -= *others.entry(name).or_insert_with(|| alone(lab, name));
            }
            let row = Row { name, ns: ns.max(0.0) / parts, gas };
            if is_chain { operators.chains.push(row) } else { operators.streams.push(row) }
        }
        operators.streams.push(Row { name: "a turn of a loop".to_owned(), ns: lab.turn_ns(), gas: meter::TURN });
        operators
    }

    fn print(&self) {
        print("one waiting for the other", &self.chains);
        print("what waits for nothing", &self.streams);
        println!("\nnot measured");
        self.unmeasured.iter().for_each(|(name, gas)| println!("  {name:<32} {gas:>14}"));
    }
}

/// Returns the time of an operator that is subtracted from the times of others.
fn alone(lab: &Bare, name: &str) -> f64 {
    let Some(Chain { code, round_trips, .. }) = chain(name) else { return 0.0 };
    lab.ns(&code) - round_trips.into_iter().map(|trip| lab.ns(&round_trip(trip).code) / 2.0).sum::<f64>()
}

fn bulk(lab: &Bare, costs: &HashMap<String, u64>) -> Vec<Row> {
    let row = |name: &str, count: u32, per_unit: u64, of: &str| {
        let gas = costs[name] + u64::from(count) / per_unit;
        Row { name: format!("{name}, {count} {of}"), ns: lab.ns(&moving(name, count)), gas }
    };
    let bytes =
        ["memory.fill", "memory.copy", "memory.init"].map(|name| row(name, BULK_BYTES, meter::BYTES_PER_UNIT, "bytes"));
    let elements = ["table.fill", "table.copy", "table.init"]
        .map(|name| row(name, BULK_ELEMENTS, meter::ELEMENTS_PER_UNIT, "elements"));
    bytes.into_iter().chain(elements).collect()
}

fn print(what: &str, rows: &[Row]) {
    println!("\n{what:<34} {:>8} {:>6} {:>8}", "ns", "gas", "ns/gas");
    let mut sorted: Vec<&Row> = rows.iter().collect();
    sorted.sort_by(|a, b| a.ns_per_gas().total_cmp(&b.ns_per_gas()));
    for row in sorted {
        println!("  {:<32} {:>8.3} {:>6} {:>8.3}", row.name, row.ns, row.gas, row.ns_per_gas());
    }
}

fn spread<'a>(rows: impl Iterator<Item = &'a Row> + Clone) {
    let per_gas = rows.clone().filter(|row| row.gas > 0).map(Row::ns_per_gas);
    let (least, most) = per_gas.fold((f64::MAX, 0.0), |(least, most), ns| (ns.min(least), ns.max(most)));
    println!("\none unit takes from {least:.3} to {most:.3} ns: {:.1} times, aim {SPREAD_AIM}", most / least);
}

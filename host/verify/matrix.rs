//! Matrix of guests and engines: runs the same slice through each pair several times, and compares
//! the results.

use std::path::Path;
use std::sync::Arc;

use super::child;
use super::job::{EngineJob, EngineResult, EngineRun, SliceSource};
use crate::limits::Limits;
use crate::sandbox::{EngineKind, TraceWindow};

/// A guest, with the name that its user knows.
#[derive(Clone)]
pub struct NamedGuest {
    pub name: String,
    /// The metered module.
    pub module: Arc<[u8]>,
}

/// The slice, arguments, assets and limits of each run.
#[derive(Clone)]
pub struct Case {
    pub slice: SliceSource,
    pub args: Arc<[u8]>,
    pub assets: Vec<Arc<[u8]>>,
    pub limits: Limits,
    pub timeout_ms: Option<u64>,
}

impl Case {
    pub(super) fn order(&self, engine: EngineKind, module: &Arc<[u8]>, runs: u32) -> EngineJob {
        EngineJob {
            engine,
            module: module.clone(),
            slice: self.slice.clone(),
            args: self.args.clone(),
            assets: self.assets.clone(),
            limits: self.limits,
            timeout_ms: self.timeout_ms,
            runs,
            window: Some(TraceWindow::WHOLE),
            claimed: None,
            tells_trace: false,
        }
    }
}

/// Number of runs of each guest on each engine.
#[derive(Clone, Copy)]
pub struct RunCount {
    /// Runs one after the other.
    pub runs: u32,
    /// Additional runs at the same time, if more than 1.
    pub jobs: usize,
}

/// The answers of one guest on one engine, run by run.
pub struct Cell {
    pub guest: usize,
    pub engine: EngineKind,
    pub answers: Vec<EngineResult>,
}

impl Cell {
    fn found(&self) -> impl Iterator<Item = &EngineRun> {
        self.answers.iter().filter_map(|answer| match answer {
            EngineResult::Found(found) => Some(found.as_ref()),
            EngineResult::Beyond(_) | EngineResult::OtherSlice(_) | EngineResult::Failed { .. } => None,
        })
    }

    /// Returns the first run that has a result.
    pub fn first(&self) -> Option<&EngineRun> {
        self.found().next()
    }

    /// Returns the median duration, in microseconds.
    pub fn duration_us(&self) -> Option<u64> {
        let mut durations: Vec<u64> = self.found().map(|found| found.duration_us).collect();
        durations.sort_unstable();
        durations.get(durations.len() / 2).copied()
    }
}

/// The results: a row for each guest, a column for each engine.
pub struct Matrix {
    pub guests: Vec<String>,
    pub cells: Vec<Cell>,
    /// Results that should agree but do not, each as a sentence.
    pub disagreements: Vec<String>,
    /// Runs that failed, each as a sentence.
    pub failures: Vec<String>,
}

impl Matrix {
    /// Runs each guest on each engine, and calls `progress` after each pair.
    pub fn of(
        program: &Path,
        guests: &[NamedGuest],
        engines: &[EngineKind],
        case: &Case,
        RunCount { runs, jobs }: RunCount,
        progress: &(dyn Fn() + Sync),
    ) -> Self {
        let mut cells: Vec<Cell> = Vec::new();
        for (index, guest) in guests.iter().enumerate() {
            for engine in engines {
                let answers = answers(program, &case.order(*engine, &guest.module, runs));
                cells.push(Cell { guest: index, engine: *engine, answers });
                progress();
            }
        }
        if jobs > 1 {
            let next = std::sync::Mutex::new(cells.iter_mut());
            std::thread::scope(|scope| {
                for _ in 0..jobs {
                    scope.spawn(|| {
                        let take = || next.lock().unwrap_or_else(std::sync::PoisonError::into_inner).next();
                        while let Some(cell) = take() {
                            let order = case.order(cell.engine, &guests[cell.guest].module, 1);
                            cell.answers.extend(answers(program, &order));
                            progress();
                        }
                    });
                }
            });
        }
        let names: Vec<String> = guests.iter().map(|guest| guest.name.clone()).collect();
        let (disagreements, failures) = (disagreements(&names, &cells), failures(&names, &cells));
        Self { guests: names, cells, disagreements, failures }
    }

    pub fn cell(&self, guest: usize, engine: EngineKind) -> Option<&Cell> {
        self.cells.iter().find(|cell| cell.guest == guest && cell.engine == engine)
    }

    pub fn agrees(&self) -> bool {
        self.disagreements.is_empty() && self.failures.is_empty()
    }
}

fn answers(program: &Path, order: &EngineJob) -> Vec<EngineResult> {
    child::run(program, order).into_iter().map(|(answer, _)| answer).collect()
}

fn failures(names: &[String], cells: &[Cell]) -> Vec<String> {
    let mut failures: Vec<String> = Vec::new();
    for cell in cells {
        for answer in &cell.answers {
            let message = match answer {
                EngineResult::Found(_) => continue,
                EngineResult::Failed { message, .. } => message,
                EngineResult::Beyond(_) | EngineResult::OtherSlice(_) => "it answers what was not asked",
            };
            let failure = format!("{} on {}: {message}", names[cell.guest], cell.engine);
            if !failures.contains(&failure) {
                failures.push(failure);
            }
        }
    }
    failures
}

/// Compares the results. All runs of one guest must agree on everything, on every engine. Different
/// guests must agree on the outcome and the proof.
fn disagreements(names: &[String], cells: &[Cell]) -> Vec<String> {
    let mut disagreements = Vec::new();
    for (guest, name) in names.iter().enumerate() {
        let of_guest = || cells.iter().filter(move |cell| cell.guest == guest);
        let Some((first_engine, first)) = of_guest().find_map(|cell| Some((cell.engine, cell.first()?))) else {
            continue;
        };
        for cell in of_guest() {
            for what in cell.found().filter_map(|found| differs(first, found)) {
                let sentence = match cell.engine == first_engine {
                    true => format!("{name}: two runs on {first_engine} differ in {what}"),
                    false => format!("{name}: {first_engine} and {} differ in {what}", cell.engine),
                };
                if !disagreements.contains(&sentence) {
                    disagreements.push(sentence);
                }
            }
        }
    }
    let of = |guest: usize| cells.iter().filter(move |cell| cell.guest == guest).find_map(Cell::first);
    if let Some((first, found)) = (0..names.len()).find_map(|guest| Some((guest, of(guest)?))) {
        for (guest, name) in names.iter().enumerate().skip(first + 1) {
            if let Some(other) = of(guest)
                && (other.proof, other.outcome()) != (found.proof, found.outcome())
            {
                disagreements.push(format!("{} and {name} differ in the proof", names[first]));
            }
        }
    }
    disagreements
}

/// Returns the first property in which two runs of one job differ.
pub(super) fn differs(one: &EngineRun, other: &EngineRun) -> Option<&'static str> {
    match () {
        () if one.input != other.input => Some("the slice that they read"),
        () if one.outcome() != other.outcome() => Some("the outcome"),
        () if one.proof != other.proof => Some("the proof"),
        () if one.output != other.output => Some("the output"),
        () if one.gas != other.gas => Some("the gas"),
        () if one.memory_bytes != other.memory_bytes => Some("the memory's size"),
        () if one.trace != other.trace => Some("the checkpoints"),
        () => None,
    }
}

//! Output of a matrix of runs.

use serde_json::{Value, json};

use super::printable;
use crate::sandbox::EngineKind;
use crate::verify::{Cell, EngineResult, Matrix};

/// Formats the matrix with one row for each guest and one column for each engine.
pub fn text(matrix: &Matrix, engines: &[EngineKind]) -> String {
    let mut rows = vec![std::iter::once(String::new()).chain(engines.iter().map(ToString::to_string)).collect()];
    for (index, name) in matrix.guests.iter().enumerate() {
        let cells = engines.iter().map(|engine| matrix.cell(index, *engine).map_or_else(String::new, cell));
        rows.push(std::iter::once(printable(name)).chain(cells).collect::<Vec<String>>());
    }
    let widths: Vec<usize> = (0..=engines.len())
        .map(|column| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0))
        .collect();
    let line = |row: &Vec<String>| {
        let cells = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:width$}"));
        format!("{}\n", cells.collect::<Vec<_>>().join("  ").trim_end())
    };
    rows.iter().map(line).collect()
}

/// Formats the result of a cell, its gas, and its median time.
pub fn cell(cell: &Cell) -> String {
    let Some(found) = cell.first() else { return "failed".to_owned() };
    let came_to = match found.proof {
        Some(proof) => proof.to_string()[..8].to_owned(),
        None => found.outcome().map_or("?", |outcome| outcome.code().0).to_owned(),
    };
    let ms = cell.duration_us().unwrap_or(0) as f64 / 1000.0;
    format!("{came_to} {} gas {ms:.1} ms", found.gas)
}

pub fn json(matrix: &Matrix, engines: &[EngineKind]) -> Value {
    let guests = matrix.guests.iter().enumerate().map(|(index, name)| {
        let cells = engines.iter().filter_map(|engine| Some(cell_json(matrix.cell(index, *engine)?)));
        json!({ "guest": name, "engines": cells.collect::<Vec<_>>() })
    });
    json!({
        "agree": matrix.agrees(),
        "guests": guests.collect::<Vec<_>>(),
        "disagreements": matrix.disagreements,
        "failures": matrix.failures,
    })
}

fn cell_json(cell: &Cell) -> Value {
    let runs = cell.answers.iter().map(|answer| match answer {
        EngineResult::Failed { code, message } => json!({ "error": { "code": code, "message": message } }),
        EngineResult::Beyond(_) | EngineResult::OtherSlice(_) => json!({ "error": { "code": "no_answer" } }),
        EngineResult::Found(found) => {
            let (code, failure) = found.outcome().map_or(("?", None), |outcome| outcome.code());
            json!({
                "outcome": { "code": code, "failure": failure },
                "proof": found.proof,
                "output": found.output,
                "gas": found.gas,
                "memory_bytes": found.memory_bytes,
                "duration_us": found.duration_us,
                "checkpoints": found.trace,
            })
        }
    });
    json!({ "engine": cell.engine.full_name(), "runs": runs.collect::<Vec<_>>() })
}

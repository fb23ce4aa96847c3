//! Output of answers as they arrive.

use std::io::{self, IsTerminal as _, Write as _};

use indicatif::{ProgressBar, ProgressStyle};

use super::super::{ExitStatus, print, print_error};
use super::{INTERRUPTED, show};
use crate::courier::Event;
use crate::courier::events::CourierEvent;

/// Shows answers.
pub struct Screen {
    json: bool,
    /// True if receipts that were dead before make the command exit with 1.
    counts_dead: bool,
    bar: Option<ProgressBar>,
    /// Exit status of the command, from the answers so far.
    pub end: anyhow::Result<ExitStatus>,
}

impl Screen {
    pub const fn new(json: bool, counts_dead: bool) -> Self {
        Self { json, counts_dead, bar: None, end: Ok(ExitStatus::Done) }
    }

    pub fn show(&mut self, answer: CourierEvent) {
        let failed = match &answer {
            CourierEvent::Error { message } => Some(message.clone()),
            _ => None,
        };
        if let Some(message) = failed {
            self.end = Err(anyhow::anyhow!(message));
            return;
        }
        match &answer {
            CourierEvent::Flush(Event::Begun { pending, .. }) if !self.json && io::stderr().is_terminal() => {
                let style = ProgressStyle::with_template("{bar:30} {pos}/{len} forwarded, {per_sec}, {elapsed}");
                let bar = ProgressBar::new(*pending).with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
                self.bar = Some(bar);
            }
            CourierEvent::Flush(Event::Forwarded { .. } | Event::Carried { .. }) => {
                self.bar.iter().for_each(|bar| bar.inc(1));
            }
            CourierEvent::Flushed(summary) if self.end.is_ok() => {
                self.end = Ok(match summary {
                    summary if summary.interrupted => ExitStatus::Interrupted,
                    // Exported bundles stay pending until their acknowledgement is imported.
                    summary if summary.pending > summary.carried || summary.died > 0 => ExitStatus::No,
                    summary if self.counts_dead && summary.dead > 0 => ExitStatus::No,
                    _ => ExitStatus::Done,
                });
            }
            CourierEvent::Problem { what } if what == INTERRUPTED => self.end = Ok(ExitStatus::Interrupted),
            CourierEvent::Problem { .. } if self.end.is_ok() => self.end = Ok(ExitStatus::No),
            _ => {}
        }
        let shown = if self.json { show::json(&answer) } else { show::text(&answer) };
        let written = match shown {
            show::Table::Line(line) => self.aside(|| print(format!("{line}\n").as_bytes())),
            show::Table::Aside(kind, line) => self.aside(|| {
                print_error(kind, &line);
                Ok(())
            }),
            show::Table::Noted(line, note) => self.aside(|| {
                print_error("note", &note);
                print(format!("{line}\n").as_bytes())
            }),
            show::Table::Nothing => Ok(()),
        };
        if let Err(error) = written {
            self.end = Err(error);
        }
    }

    fn aside<T>(&self, write: impl FnOnce() -> T) -> T {
        match &self.bar {
            Some(bar) => bar.suspend(write),
            None => write(),
        }
    }

    pub fn finish(&self) {
        self.bar.iter().for_each(ProgressBar::finish_and_clear);
        let _ = io::stdout().flush();
    }
}

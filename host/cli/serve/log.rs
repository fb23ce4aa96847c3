//! Log of the running node: for people on a terminal, for programs elsewhere.

mod backlog;

use std::io::{self, IsTerminal as _, Write};
use std::time::Duration;

use tracing::{Level, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::util::SubscriberInitExt as _;

use self::backlog::Backlog;
use crate::modules::Modules;
use crate::node::OpenNotice;
use crate::sandbox::Confinement;

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum LogFormat {
    /// One line of plain text for each event
    Human,
    /// One JSON object a line
    Json,
}

/// Default level, unless `NODE_LOG` sets another, such as `debug` or `info,node=debug`.
const DEFAULT: Level = Level::INFO;

/// Longest wait at shutdown for a slow reader of the log.
const LAST_LINES: Duration = Duration::from_secs(1);

/// The log of a node.
pub struct Log(Backlog);

/// Starts to log to standard error, on a thread of its own. Panics are logged, too.
pub fn start(format: Option<LogFormat>) -> io::Result<Log> {
    let format = format.unwrap_or(if io::stderr().is_terminal() { LogFormat::Human } else { LogFormat::Json });
    let asked = std::env::var("NODE_LOG").ok().filter(|asked| !asked.is_empty());
    let parsed = asked.as_deref().map(str::parse::<Targets>);
    let targets = match &parsed {
        Some(Ok(targets)) => targets.clone(),
        _ => Targets::new().with_default(DEFAULT),
    };
    let backlog = Backlog::default();
    let (sink, writer) = (backlog.clone(), backlog.clone());
    std::thread::Builder::new().name("log".to_owned()).spawn(move || {
        writer.write_to(io::stderr(), |lines| {
            tracing::warn!(lines, "the log was not read, and lines of it were dropped");
        });
    })?;
    // Only the first subscriber counts. That affects only a test that starts two.
    let _ = tracing_subscriber::registry().with(targets).with(lines(format, move || sink.clone())).try_init();
    // The default hook writes from the panicking thread, which would then wait for the log's
    // reader.
    std::panic::set_hook(Box::new(|panic| tracing::error!("{panic}")));
    if let Some(Err(error)) = parsed {
        tracing::warn!("NODE_LOG is not understood, and left out: {error}");
    }
    Ok(Log(backlog))
}

impl Log {
    /// Returns a function that reads the number of dropped lines.
    pub fn dropped(&self) -> impl Fn() -> u64 + Send + Sync + 'static {
        let backlog = self.0.clone();
        move || backlog.dropped()
    }

    /// Waits for a short time until all lines are written.
    pub fn finish(&self) {
        self.0.finish(LAST_LINES);
    }
}

/// Logs at the start how well the compiler is confined: fully by the kernel, partly, or not
/// available at all.
pub fn compiler(modules: &Modules) {
    match modules.probe_compiler() {
        Ok(()) => {
            let missing = modules.confinement().map(Confinement::missing).unwrap_or_default();
            if !missing.is_empty() {
                let missing = missing.join(" and ");
                tracing::warn!(
                    "this kernel confines the compiler without {missing}: a module that takes it over is held by less than \
                     SECURITY.md says"
                );
            }
        }
        Err(error) => tracing::error!("no module can be compiled: {error}"),
    }
}

/// Writes each event as one line. Control characters are escaped, so that strangers' text cannot
/// begin another line or control a terminal. There are no colours, so that no escape sequence has
/// to pass.
fn lines<S, W>(format: LogFormat, sink: impl Fn() -> W + Send + Sync + 'static) -> Box<dyn Layer<S> + Send + Sync>
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    W: Write + 'static,
{
    let layer = tracing_subscriber::fmt::layer().with_target(false).with_ansi(false);
    let layer = layer.with_writer(move || LineWriter(sink()));
    match format {
        LogFormat::Human => layer.boxed(),
        LogFormat::Json => layer.json().flatten_event(true).with_span_list(false).boxed(),
    }
}

/// A writer that receives whole events, and writes each as one line.
struct LineWriter<W>(W);

impl<W: Write> Write for LineWriter<W> {
    fn write(&mut self, event: &[u8]) -> io::Result<usize> {
        let text = String::from_utf8_lossy(event);
        let text = text.strip_suffix('\n').unwrap_or(&text);
        let mut line = String::with_capacity(event.len() + 1);
        for c in text.chars() {
            // The escape format is that of JSON, too. Some line readers treat U+2028 and U+2029 as
            // line ends.
            if c.is_control() || matches!(c, '\u{2028}' | '\u{2029}') {
                line.push_str(&format!("\\u{:04x}", u32::from(c)));
            } else {
                line.push(c);
            }
        }
        line.push('\n');
        self.0.write_all(line.as_bytes())?;
        Ok(event.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

/// Logs a message to the owner while the node opens.
pub fn notice(notice: OpenNotice) {
    match notice {
        OpenNotice::Waiting { directory } => {
            tracing::info!("waiting for another node to be done with `{}`", directory.display());
        }
        OpenNotice::StoreMovedAside { to } => {
            tracing::warn!("the proof store was damaged: moved to `{}`, and begun anew", to.display());
        }
        OpenNotice::ConfigWasEmpty { path } => {
            tracing::warn!("`{}` was empty, and shows the defaults now", path.display());
        }
        OpenNotice::PricesLost { result } => tracing::warn!("{result}"),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;

    /// Every control character, and the characters that some readers take for line ends.
    fn hostile() -> String {
        let controls = (0..=0x9f).filter_map(char::from_u32).filter(|c| c.is_control());
        controls.chain(['\u{2028}', '\u{2029}']).collect::<String>() + "\r\n{\"level\":\"ERROR\"}\n\u{1b}[2J"
    }

    /// Returns the line of an event with a stranger's text in every field.
    fn written(format: LogFormat) -> String {
        let bytes = Arc::<Mutex<Vec<u8>>>::default();
        let sink = bytes.clone();
        let layer = lines(format, move || Sink(sink.clone()));
        tracing::subscriber::with_default(tracing_subscriber::registry().with(layer), || {
            let text = hostile();
            let _span = tracing::error_span!("request", id = %text, path = text).entered();
            tracing::error!(plain = text, shown = %text, detailed = ?text, "{text}");
        });
        let bytes = bytes.lock().unwrap().clone();
        String::from_utf8(bytes).unwrap()
    }

    struct Sink(Arc<Mutex<Vec<u8>>>);

    impl Write for Sink {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn control_characters_are_written_out_in_both_formats() {
        for format in [LogFormat::Human, LogFormat::Json] {
            let line = written(format);
            let line = line.strip_suffix('\n').unwrap();
            let is_plain = |c: char| !c.is_control() && !matches!(c, '\u{2028}' | '\u{2029}');
            assert!(line.chars().all(is_plain), "{format:?}: {line:?}");
            assert!(line.contains("\\u009b") && line.contains("\\u2028"), "{line}");
        }
    }

    #[test]
    fn a_line_of_json_says_what_was_meant() {
        let event: serde_json::Value = serde_json::from_str(&written(LogFormat::Json)).unwrap();
        assert_eq!(event["message"].as_str(), Some(&*hostile()));
        assert_eq!((event["plain"].as_str(), event["span"]["path"].as_str()), (Some(&*hostile()), Some(&*hostile())));
        assert_eq!(event["level"], "ERROR");
    }
}

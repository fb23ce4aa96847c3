//! `node serve`.

mod log;
mod memory;
mod signals;

use std::io::ErrorKind;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use sd_notify::NotifyState;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use self::log::{Log, LogFormat};
use self::signals::{SignalEffect, Signals};
use super::ExitStatus;
use crate::access::{Exposure, Tokens};
use crate::config::{Config, ListenAddress, Serve};
use crate::courier::{Courier, FlushMode};
use crate::http::{
    Addresses, AppState, Authenticator, Certificate, DRAIN, ListenerConfig, Tls, bind_socket, certificate, listen,
    local_routes, network_routes, serve_local, serve_network,
};
use crate::metrics::Metrics;
use crate::node::Node;
use crate::prices::SharedBoard;
use crate::process;
use crate::runner::Capacity;
use crate::sandbox::prioritise_server;

/// Retry delay after a flush fails for a reason other than a bundle.
const FLUSH_RETRY: Duration = Duration::from_secs(5);

/// Save interval of the price board. After a kill, later offers are read from the journal.
const SAVE_PRICES_EVERY: Duration = Duration::from_secs(60);

/// Longest wait for threads that are still busy when everything else has ended.
const LAST_THREADS: Duration = Duration::from_secs(1);

/// Interval between checks of the stores.
const LOOK_AT_STORES: Duration = Duration::from_secs(1);

/// Longest sleep between flushes. New work wakes the loop earlier, but a clock may be set.
const LOOK_MAX: Duration = Duration::from_secs(60);

#[derive(clap::Args)]
pub struct ServeArgs {
    /// Address to listen at; a name means all its addresses [default: `serve.listen` in the config]
    #[arg(long, value_name = "ADDRESS:PORT")]
    listen: Option<ListenAddress>,
    /// Accept clients from the network through a proxy that does TLS
    #[arg(long)]
    behind_proxy: bool,
    /// Format of the log [default: `human` on a terminal, or else `json`]
    #[arg(long, value_name = "FORMAT", value_enum)]
    log_format: Option<LogFormat>,
}

pub const SERVE_EXAMPLES: &str = "\
Examples:
  node serve
  node serve --listen 127.0.0.1:0     at any free port, which is said
  node serve --listen localhost:7700  at each address of a name
  node serve 2>> node.log             a line of JSON for each event

Takes modules, slices and bundles from peers over HTTP, forwards what is due, and shows its numbers at /metrics. Beyond this
machine it listens only with tokens (`node token new`) and TLS, or behind a proxy that has TLS.
SIGTERM or Ctrl-C has it finish what is under way and end; a second one ends it at once. SIGHUP has it read its tokens and
its certificate anew.";

pub fn serve(args: &ServeArgs, data_dir: &Path) -> anyhow::Result<ExitStatus> {
    // Checked before the first thread starts, because code that fails to start a thread later
    // cannot report it clearly.
    let files_max = process::raise_limit_of_files();
    prioritise_server();
    let config = Config::read(&data_dir.join("config.toml"))?;
    process::check_threads(workers() + config.capacity(None).jobs + process::THREADS_RESERVED)?;
    let log = log::start(args.log_format).context("cannot start the thread that writes the log")?;
    let connections_max = connections_max(config.serve.connections_max, files_max);
    let end = connections_max.and_then(|connections_max| serve_and_log(args, data_dir, connections_max, &log));
    log.finish();
    end
}

/// Returns the number of threads of the runtime.
fn workers() -> usize {
    Capacity::of_this_machine().jobs
}

fn serve_and_log(args: &ServeArgs, data_dir: &Path, connections_max: u64, log: &Log) -> anyhow::Result<ExitStatus> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(workers()).enable_all().build();
    let runtime = runtime.context("cannot start the threads that serve")?;
    {
        let _in_runtime = runtime.enter();
        signals::disregard().context("cannot handle signals")?;
    }
    let serving = Node::open_to_serve(data_dir, log::notice)?;
    let settings = serving.node.config.serve.clone();
    let listen = args.listen.as_ref().unwrap_or(&settings.listen);
    let addresses = listen.resolve().with_context(|| format!("cannot find where to listen, `{listen}`"))?;
    let entry = AccessSettings::read(&serving.node.config, data_dir)?;
    let exposure = Exposure::of(&addresses, &entry.tokens, entry.certificate.is_some(), args.behind_proxy)?;
    let keeper = Arc::new(Authenticator::new(entry.tokens, exposure, &settings.hosts));
    let tls = entry.certificate.map(Tls::new).transpose()?;
    let (stop, stopped) = watch::channel(false);
    let served = AppState::new(serving, stopped.clone());
    served.metrics.show_dropped_lines(log.dropped());
    let state = Node::state(data_dir);
    let end = runtime.block_on(async {
        let listeners = listen_at(&addresses)?;
        let socket = bind_socket(&state).context("cannot make the node's socket")?;
        // Handlers first: a process that reads the line `listening` may send a signal at once.
        let signals = Signals::listen()?;
        let scheme = if tls.is_some() { "https" } else { "http" };
        for listener in &listeners {
            tracing::info!("listening on {scheme}://{}", listener.local_addr()?);
        }
        let stopping = move || {
            let mut stopped = stopped.clone();
            async move { drop(stopped.wait_for(|stopped| *stopped).await) }
        };
        let modules = served.node.clone();
        tokio::task::spawn_blocking(move || log::compiler(modules.runner.modules()));
        let reload = Reload {
            data_dir: data_dir.to_owned(),
            addresses: addresses.clone(),
            is_behind_proxy: args.behind_proxy,
            exposure,
            keeper: keeper.clone(),
            tls: tls.clone(),
        };
        tokio::spawn(heed(signals, stop, reload));
        let flush = tokio::spawn(flush_what_is_due(served.clone(), stopping.clone()));
        let queue = served.queue.clone();
        let until_stopped = stopping();
        let work = tokio::spawn(async move { queue.work(until_stopped).await });
        let save = tokio::spawn(save_prices(served.prices.clone(), stopping()));
        tokio::spawn(memory::give_back(stopping()));
        let keep = tokio::spawn(keep_stores(served.clone(), stopping()));
        let routes = network_routes(served.clone(), keeper);
        let addresses = exposure.tells_by_address().then(|| Addresses::new(connections_max, served.metrics.clone()));
        tell_manager(&[NotifyState::Ready]);
        let entrance = ListenerConfig { tls: tls.map(|tls| tls.acceptor), connections_max, addresses };
        tokio::join!(
            serve_network(listeners, entrance, routes, stopping()),
            serve_local(socket, local_routes(served.clone()), stopping()),
            end_runs(work, stopping()),
        );
        flush.await.context("the task that forwards has failed")?;
        save.await.context("the task that saves the price board has failed")?;
        keep.await.context("the task that keeps the stores open has failed")?;
        tracing::info!("stopped");
        Ok(ExitStatus::Done)
    });
    runtime.shutdown_timeout(LAST_THREADS);
    end
}

/// Tells the service manager a new state, if one started this process with `Type=notify`
/// (`sd_notify(3)`).
fn tell_manager(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        tracing::warn!("cannot tell the service manager the node's state: {error}");
    }
}

/// Listens at each address of a family that this machine supports. With port 0, all listeners get
/// the same free port.
fn listen_at(addresses: &[SocketAddr]) -> anyhow::Result<Vec<TcpListener>> {
    let mut listeners: Vec<TcpListener> = Vec::new();
    let mut without = None;
    for address in addresses {
        let mut address = *address;
        if let (0, Some(first)) = (address.port(), listeners.first()) {
            address.set_port(first.local_addr()?.port());
        }
        match listen(address) {
            Ok(listener) => listeners.push(listener),
            Err(error) if matches!(error.kind(), ErrorKind::AddrNotAvailable | ErrorKind::Unsupported) => {
                without = Some((address, error));
            }
            Err(error) => return Err(error).with_context(|| format!("cannot listen on {address}")),
        }
    }
    match without {
        Some((address, error)) if listeners.is_empty() => {
            Err(error).with_context(|| format!("cannot listen on {address}"))
        }
        _ => Ok(listeners),
    }
}

/// Access settings, read from the config.
struct AccessSettings {
    tokens: Tokens,
    /// `None` if TLS is not configured.
    certificate: Option<Certificate>,
}

impl AccessSettings {
    fn read(config: &Config, data_dir: &Path) -> anyhow::Result<Self> {
        let Serve { tls_certificate, tls_key, .. } = &config.serve;
        let certificate = match (tls_certificate, tls_key) {
            (Some(chain), Some(key)) => Some(certificate(&data_dir.join(chain), &data_dir.join(key))?),
            _ => None,
        };
        Ok(Self { tokens: config.tokens()?, certificate })
    }
}

/// State for a reload by SIGHUP.
struct Reload {
    data_dir: PathBuf,
    addresses: Vec<SocketAddr>,
    is_behind_proxy: bool,
    exposure: Exposure,
    keeper: Arc<Authenticator>,
    tls: Option<Tls>,
}

impl Reload {
    /// Replaces the tokens and the certificate, both or neither. Returns the number of tokens.
    fn execute(&self) -> anyhow::Result<usize> {
        let config = Config::read(&self.data_dir.join("config.toml"))?;
        let AccessSettings { tokens, certificate } = AccessSettings::read(&config, &self.data_dir)?;
        let exposure = Exposure::of(&self.addresses, &tokens, certificate.is_some(), self.is_behind_proxy)?;
        if exposure != self.exposure || certificate.is_some() != self.tls.is_some() {
            anyhow::bail!("whether TLS is used can change at a start alone; start the node again");
        }
        let count = tokens.list().len();
        self.keeper.replace(tokens);
        if let (Some(tls), Some(certificate)) = (&self.tls, certificate) {
            tls.replace(certificate);
        }
        Ok(count)
    }
}

/// Gives queued slices that still run the same time to finish as connections when the node shuts
/// down.
async fn end_runs(mut work: JoinHandle<()>, stopping: impl Future<Output = ()>) {
    stopping.await;
    match tokio::time::timeout(DRAIN, &mut work).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::error!("the task that runs accepted slices has failed: {error}"),
        Err(_) => {
            work.abort();
            tracing::info!("slices that still run begin anew at the next start");
        }
    }
}

/// Returns the configured limit on connections, reduced to what the limit of open files allows.
fn connections_max(wanted: u64, files_max: u64) -> anyhow::Result<u64> {
    let there = process::connections_max(files_max)?;
    if there < wanted {
        tracing::warn!(
            "connections are limited to {there}, not `serve.connections_max` ({wanted}): this process may have {files_max} files \
             open; raise the limit (`ulimit -Hn`)"
        );
    }
    Ok(wanted.min(there))
}

/// Handles signals, until the second one that ends the node.
async fn heed(mut signals: Signals, stop: watch::Sender<bool>, reload: Reload) {
    let reload = Arc::new(reload);
    while let Some(effect) = signals.next().await {
        match effect {
            SignalEffect::End if *stop.borrow() => std::process::exit(ExitStatus::Interrupted as i32),
            SignalEffect::End => {
                tell_manager(&[NotifyState::Stopping]);
                stop.send_replace(true);
            }
            SignalEffect::Reload => {
                let reload = reload.clone();
                let performed = tokio::task::spawn_blocking(move || reload.execute()).await;
                match performed.map_err(anyhow::Error::from).flatten() {
                    Ok(tokens) => tracing::info!(tokens, "read tokens and certificate anew"),
                    Err(error) => {
                        tracing::error!("cannot read tokens and certificate anew, and keeps those before: {error:#}")
                    }
                }
            }
            SignalEffect::Nothing => {}
        }
    }
}

/// Reopens stores that have failed, for example because the disk was full. Logs each failure once.
async fn keep_stores(served: AppState, stopping: impl Future<Output = ()>) {
    let mut stopping = std::pin::pin!(stopping);
    let mut told: Vec<&str> = Vec::new();
    loop {
        let look = served.clone();
        let looked = tokio::task::spawn_blocking(move || (look.mend(), look.unwell())).await;
        if let Ok((mended, unwell)) = looked {
            mended.iter().for_each(|name| tracing::info!("the store `{name}` has been opened again"));
            for (name, error) in unwell.iter().filter(|(name, _)| !told.contains(name)) {
                tracing::error!("`{name}` takes nothing now: {error}");
            }
            told = unwell.iter().map(|(name, _)| *name).collect();
        }
        tokio::select! {
            () = &mut stopping => return,
            () = tokio::time::sleep(LOOK_AT_STORES) => {}
        }
    }
}

/// Saves the price board at intervals, and at shutdown.
async fn save_prices(prices: Arc<SharedBoard>, stopping: impl Future<Output = ()>) {
    let mut stopping = std::pin::pin!(stopping);
    loop {
        let is_over = tokio::select! {
            () = &mut stopping => true,
            () = tokio::time::sleep(SAVE_PRICES_EVERY) => false,
        };
        let prices = prices.clone();
        match tokio::task::spawn_blocking(move || prices.save_if_changed()).await {
            Ok(Ok(_)) => {}
            Ok(Err(error)) => tracing::error!("{error}"),
            Err(error) => tracing::error!("the price board is not saved: {error}"),
        }
        if is_over {
            return;
        }
    }
}

/// Forwards bundles as they become due.
async fn flush_what_is_due<S: Future<Output = ()>>(served: AppState, stopping: impl Fn() -> S) {
    let AppState { courier, metrics, .. } = served;
    let mut new_work = courier.new_work();
    loop {
        new_work.mark_unchanged();
        let wait = match flush_once(&courier, &metrics, stopping()).await {
            Ok(wait) => wait,
            Err(error) => {
                courier.note_storage_failure();
                tracing::error!("cannot forward: {error:#}");
                FLUSH_RETRY
            }
        };
        tokio::select! {
            () = stopping() => return,
            _ = new_work.changed() => {}
            () = tokio::time::sleep(wait) => {}
        }
    }
}

/// Flushes once, and returns the time until the next bundle is due.
async fn flush_once(
    courier: &Arc<Courier>,
    metrics: &Metrics,
    stopping: impl Future<Output = ()>,
) -> anyhow::Result<Duration> {
    let forwarder = courier.http()?;
    let route = |destination: Option<&_>| courier.peer_over_http(destination).map(Some);
    let tell = |event| metrics.flush(&event);
    let summary = courier.flush(forwarder, FlushMode::Due, route, tell, stopping).await?;
    let wait =
        summary.next_due_ms.map_or(LOOK_MAX, |due_ms| Duration::from_millis(due_ms.saturating_sub(courier.now_ms())));
    Ok(wait.clamp(Duration::from_millis(1), LOOK_MAX))
}

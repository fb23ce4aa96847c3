//! `node compute courier`: each command is an order. The running node executes it if there is one;
//! else this process does.

mod args;
mod mounts;
mod show;
mod screen;

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context as _, bail};
use indicatif::HumanCount;
use tokio::io::AsyncRead;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::Notify;

use self::args::{AckCommand, PeerCommand};
pub use self::args::{COURIER_EXAMPLES, CourierCommand};
use self::screen::Screen;
use super::executor::{Executor, connect_or_open, runtime};
use super::{ExitStatus, print, printable};
use crate::courier::commands::{CourierRequest, ListFilter, execute};
use crate::courier::events::CourierEvent;
use crate::http::ask_courier;
use crate::key::read_rotation;
use crate::node::Node;
use crate::private_file;
use crate::receipt::{ACKNOWLEDGEMENT_BYTES_MAX, Acknowledgement, IdPrefix};

pub fn main(command: CourierCommand, data_dir: &Path) -> anyhow::Result<ExitStatus> {
    let mut session = CourierSession { data_dir, json: false, body: None };
    match command {
        CourierCommand::Send { file, sender, to, expires, json } => {
            if file != Path::new("-") {
                let opened = File::open(&file).and_then(|opened| {
                    let is_file = opened.metadata()?.is_file();
                    if is_file { Ok(opened) } else { Err(io::Error::other("it is not a regular file")) }
                });
                session.body = Some(opened.with_context(|| format!("cannot read the bundle `{}`", file.display()))?);
            }
            let expires_in_ms = expires.map(|expires| u64::try_from(expires.as_millis()).unwrap_or(u64::MAX));
            session.order(CourierRequest::Send { sender, to, expires_in_ms }, json)
        }
        CourierCommand::Onward { id, to, json } => session.order(CourierRequest::Onward { id, to }, json),
        CourierCommand::Flush { retry_for, json } => {
            let retry_for_ms = u64::try_from(retry_for.as_millis()).unwrap_or(u64::MAX);
            session.order(CourierRequest::Flush { retry_for_ms }, json)
        }
        CourierCommand::List { pending: _, dead, acked, received, json } => {
            let which = match (dead, acked, received) {
                (true, ..) => ListFilter::Dead,
                (_, true, _) => ListFilter::Acknowledged,
                (.., true) => ListFilter::Received,
                _ => ListFilter::Pending,
            };
            session.order(CourierRequest::List { which }, json)
        }
        CourierCommand::Show { id, json } => session.order(CourierRequest::Show { id }, json),
        CourierCommand::Retry { ids, dead, json } => session.order(CourierRequest::Retry { ids, all_dead: dead }, json),
        CourierCommand::Drop { ids, json } => session.order(CourierRequest::Drop { ids }, json),
        CourierCommand::Export { directory, to, json } => {
            let directory = mounts::export_directory(&directory)?;
            session.order(CourierRequest::Export { directory, to }, json)
        }
        CourierCommand::Import { directory, json } => {
            session.order(CourierRequest::Import { directory: absolute(&directory)? }, json)
        }
        CourierCommand::Peer(PeerCommand::Add { name, key, address, json }) => {
            session.order(CourierRequest::AddPeer { name, public_key: key.to_string(), address }, json)
        }
        CourierCommand::Peer(PeerCommand::Follow { statement, json }) => {
            session.order(CourierRequest::FollowPeer { statement: read_rotation(&statement)?.to_text() }, json)
        }
        CourierCommand::Peer(PeerCommand::List { json }) => session.order(CourierRequest::ListPeers, json),
        CourierCommand::Peer(PeerCommand::Remove { name, json }) => {
            session.order(CourierRequest::RemovePeer { name }, json)
        }
        CourierCommand::Rewards { json } => session.order(CourierRequest::Rewards, json),
        CourierCommand::Ack(AckCommand::Export { id, file }) => export_acknowledgement(&session, id, &file),
        CourierCommand::Ack(AckCommand::Verify { files, json }) => verify_acknowledgements(&files, json, data_dir),
        CourierCommand::Fsck { json } => fsck(data_dir, json),
    }
}

fn absolute(path: &Path) -> anyhow::Result<PathBuf> {
    path.canonicalize().with_context(|| format!("cannot use the directory `{}`", path.display()))
}

struct CourierSession<'a> {
    data_dir: &'a Path,
    json: bool,
    /// The bundle to send; `None` means standard input.
    body: Option<File>,
}

impl CourierSession<'_> {
    /// Executes the order and shows its answers.
    fn order(mut self, order: CourierRequest, json: bool) -> anyhow::Result<ExitStatus> {
        self.json = json;
        let (is_list, unread) = (matches!(order, CourierRequest::List { .. }), Notify::new());
        let mut screen = Screen::new(json, matches!(order, CourierRequest::Flush { .. }));
        let show = |answer| {
            screen.show(answer);
            // A closed output ends a list only. Other orders are executed even if no one reads the
            // answers.
            if is_list && screen.end.is_err() {
                unread.notify_one();
            }
        };
        let result = self.tell(order, show, unread.notified());
        screen.finish();
        result?;
        screen.end
    }

    /// Executes the order, until it is done or `unwanted` resolves.
    fn tell(
        &mut self,
        order: CourierRequest,
        tell: impl FnMut(CourierEvent),
        unwanted: impl Future<Output = ()>,
    ) -> anyhow::Result<()> {
        let runtime = runtime()?;
        let done = runtime.block_on(async {
            tokio::select! {
                done = self.execute(order, tell) => done,
                () = unwanted => Ok(()),
            }
        });
        // A blocking read from a pipe cannot be cancelled.
        runtime.shutdown_background();
        done
    }

    async fn execute(&mut self, order: CourierRequest, mut tell: impl FnMut(CourierEvent)) -> anyhow::Result<()> {
        let takes_body = matches!(order, CourierRequest::Send { .. });
        let body: Box<dyn AsyncRead + Send + Unpin> = match (takes_body, self.body.take()) {
            (false, _) => Box::new(tokio::io::empty()),
            (true, Some(file)) => Box::new(tokio::fs::File::from_std(file)),
            (true, None) => Box::new(tokio::io::stdin()),
        };
        match connect_or_open(self.data_dir, || Node::try_courier(self.data_dir)).await? {
            Executor::Daemon(stream) => {
                tokio::select! {
                    asked = ask_courier(stream, &order, body, &mut tell) => Ok(asked?),
                    () = interrupted() => { tell(CourierEvent::Problem { what: INTERRUPTED.to_owned() }); Ok(()) }
                }
            }
            Executor::InProcess((courier, _lock)) => {
                Ok(execute(&Arc::new(courier), order, body, tell, interrupted()).await?)
            }
        }
    }
}

const INTERRUPTED: &str = "interrupted";

async fn interrupted() {
    let (Ok(mut interrupt), Ok(mut terminate)) = (signal(SignalKind::interrupt()), signal(SignalKind::terminate()))
    else {
        return std::future::pending().await;
    };
    tokio::select! {
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
    }
}

fn export_acknowledgement(session: &CourierSession<'_>, id: IdPrefix, file: &Path) -> anyhow::Result<ExitStatus> {
    let mut result: anyhow::Result<Option<String>> = Ok(None);
    let mut session = CourierSession { data_dir: session.data_dir, json: false, body: None };
    let hear = |answer| match answer {
        CourierEvent::AcknowledgementBytes { hex } => result = Ok(Some(hex)),
        CourierEvent::Error { message } => result = Err(anyhow::anyhow!(message)),
        _ => {}
    };
    session.tell(CourierRequest::ExportAcknowledgement { id }, hear, std::future::pending())?;
    let Some(hex) = result? else { bail!("the running node did not answer") };
    let digit = |at: usize| u8::from_str_radix(hex.get(at..at + 2).unwrap_or_default(), 16);
    let bytes =
        (0..hex.len()).step_by(2).map(digit).collect::<Result<Vec<u8>, _>>().context("the answer is damaged")?;
    let acknowledgement = Acknowledgement::from_bytes(&bytes).context("the acknowledgement is damaged")?;
    private_file::create(file, &bytes).with_context(|| format!("cannot write `{}`", file.display()))?;
    print(format!("{}  {}\n", acknowledgement.delivery().receipt, printable(&file.to_string_lossy())).as_bytes())?;
    Ok(ExitStatus::Done)
}

fn verify_acknowledgements(files: &[PathBuf], json: bool, data_dir: &Path) -> anyhow::Result<ExitStatus> {
    let owners = Node::known_keys(data_dir).owners()?;
    let peers = Node::known_peers(data_dir)?;
    let mut end = ExitStatus::Done;
    for file in files {
        let bytes = private_file::read_shared(file, ACKNOWLEDGEMENT_BYTES_MAX as u64);
        let found = bytes.map_err(|error| error.to_string());
        let found = found.and_then(|bytes| Acknowledgement::from_bytes(&bytes).map_err(|error| error.to_string()));
        if found.is_err() {
            end = ExitStatus::No;
        }
        print(show::verified(file, &found, &owners, &peers, json).as_bytes())?;
    }
    Ok(end)
}

fn fsck(data_dir: &Path, json: bool) -> anyhow::Result<ExitStatus> {
    let runtime = runtime()?;
    let report = match runtime.block_on(connect_or_open(data_dir, || Node::try_fsck_courier(data_dir)))? {
        Executor::InProcess(report) => report,
        Executor::Daemon(stream) => {
            let mut told = None;
            let asked = ask_courier(stream, &CourierRequest::Fsck, tokio::io::empty(), |answer| told = Some(answer));
            runtime.block_on(asked)?;
            match told {
                Some(CourierEvent::Checked(report)) => report,
                Some(CourierEvent::Error { message }) => bail!("{message}"),
                _ => bail!("the running node did not answer"),
            }
        }
    };
    print(show::fsck(&report, json).as_bytes())?;
    Ok(if report.is_sound() { ExitStatus::Done } else { ExitStatus::No })
}

/// Formats a number for a summary.
fn count(number: u64) -> String {
    HumanCount(number).to_string()
}

//! `node compute courier`: each command is an order. The running node executes it if there is one;
//! else this process does.

mod args;
mod mounts;
mod screen;
mod show;

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
use super::reach::{By, reach, runtime};
use super::{End, print, printable};
use crate::courier::answers::Answer;
use crate::courier::orders::{Order, Which, perform};
use crate::http::ask_courier;
use crate::key::read_rotation;
use crate::node::Node;
use crate::private_file;
use crate::receipt::{ACKNOWLEDGEMENT_BYTES_MAX, Acknowledgement, IdPrefix};

pub fn main(command: CourierCommand, data_dir: &Path) -> anyhow::Result<End> {
    let mut session = Session { data_dir, json: false, body: None };
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
            session.order(Order::Send { sender, to, expires_in_ms }, json)
        }
        CourierCommand::Onward { id, to, json } => session.order(Order::Onward { id, to }, json),
        CourierCommand::Flush { retry_for, json } => {
            let retry_for_ms = u64::try_from(retry_for.as_millis()).unwrap_or(u64::MAX);
            session.order(Order::Flush { retry_for_ms }, json)
        }
        CourierCommand::List { pending: _, dead, acked, received, json } => {
            let which = match (dead, acked, received) {
                (true, ..) => Which::Dead,
                (_, true, _) => Which::Acknowledged,
                (.., true) => Which::Received,
                _ => Which::Pending,
            };
            session.order(Order::List { which }, json)
        }
        CourierCommand::Show { id, json } => session.order(Order::Show { id }, json),
        CourierCommand::Retry { ids, dead, json } => session.order(Order::Retry { ids, all_dead: dead }, json),
        CourierCommand::Drop { ids, json } => session.order(Order::Drop { ids }, json),
        CourierCommand::Export { directory, to, json } => {
            let directory = mounts::export_directory(&directory)?;
            session.order(Order::Export { directory, to }, json)
        }
        CourierCommand::Import { directory, json } => {
            session.order(Order::Import { directory: absolute(&directory)? }, json)
        }
        CourierCommand::Peer(PeerCommand::Add { name, key, address, json }) => {
            session.order(Order::AddPeer { name, public_key: key.to_string(), address }, json)
        }
        CourierCommand::Peer(PeerCommand::Follow { statement, json }) => {
            session.order(Order::FollowPeer { statement: read_rotation(&statement)?.to_text() }, json)
        }
        CourierCommand::Peer(PeerCommand::List { json }) => session.order(Order::ListPeers, json),
        CourierCommand::Peer(PeerCommand::Remove { name, json }) => session.order(Order::RemovePeer { name }, json),
        CourierCommand::Rewards { json } => session.order(Order::Rewards, json),
        CourierCommand::Ack(AckCommand::Export { id, file }) => export_acknowledgement(&session, id, &file),
        CourierCommand::Ack(AckCommand::Verify { files, json }) => verify_acknowledgements(&files, json, data_dir),
        CourierCommand::Fsck { json } => fsck(data_dir, json),
    }
}

fn absolute(path: &Path) -> anyhow::Result<PathBuf> {
    path.canonicalize().with_context(|| format!("cannot use the directory `{}`", path.display()))
}

struct Session<'a> {
    data_dir: &'a Path,
    json: bool,
    /// The bundle to send; `None` means standard input.
    body: Option<File>,
}

impl Session<'_> {
    /// Executes the order and shows its answers.
    fn order(mut self, order: Order, json: bool) -> anyhow::Result<End> {
        self.json = json;
        let (is_list, unread) = (matches!(order, Order::List { .. }), Notify::new());
        let mut screen = Screen::new(json, matches!(order, Order::Flush { .. }));
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
        order: Order,
        tell: impl FnMut(Answer),
        unwanted: impl Future<Output = ()>,
    ) -> anyhow::Result<()> {
        let runtime = runtime()?;
        let done = runtime.block_on(async {
            tokio::select! {
                done = self.carry_out(order, tell) => done,
                () = unwanted => Ok(()),
            }
        });
        // A blocking read from a pipe cannot be cancelled.
        runtime.shutdown_background();
        done
    }

    async fn carry_out(&mut self, order: Order, mut tell: impl FnMut(Answer)) -> anyhow::Result<()> {
        let takes_body = matches!(order, Order::Send { .. });
        let body: Box<dyn AsyncRead + Send + Unpin> = match (takes_body, self.body.take()) {
            (false, _) => Box::new(tokio::io::empty()),
            (true, Some(file)) => Box::new(tokio::fs::File::from_std(file)),
            (true, None) => Box::new(tokio::io::stdin()),
        };
        match reach(self.data_dir, || Node::try_courier(self.data_dir)).await? {
            By::Node(stream) => {
                tokio::select! {
                    asked = ask_courier(stream, &order, body, &mut tell) => Ok(asked?),
                    () = interrupted() => { tell(Answer::Problem { what: INTERRUPTED.to_owned() }); Ok(()) }
                }
            }
            By::Us((courier, _lock)) => Ok(perform(&Arc::new(courier), order, body, tell, interrupted()).await?),
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

fn export_acknowledgement(session: &Session<'_>, id: IdPrefix, file: &Path) -> anyhow::Result<End> {
    let mut result: anyhow::Result<Option<String>> = Ok(None);
    let mut session = Session { data_dir: session.data_dir, json: false, body: None };
    let hear = |answer| match answer {
        Answer::AcknowledgementBytes { hex } => result = Ok(Some(hex)),
        Answer::Error { message } => result = Err(anyhow::anyhow!(message)),
        _ => {}
    };
    session.tell(Order::ExportAcknowledgement { id }, hear, std::future::pending())?;
    let Some(hex) = result? else { bail!("the running node did not answer") };
    let digit = |at: usize| u8::from_str_radix(hex.get(at..at + 2).unwrap_or_default(), 16);
    let bytes =
        (0..hex.len()).step_by(2).map(digit).collect::<Result<Vec<u8>, _>>().context("the answer is damaged")?;
    let acknowledgement = Acknowledgement::from_bytes(&bytes).context("the acknowledgement is damaged")?;
    private_file::create(file, &bytes).with_context(|| format!("cannot write `{}`", file.display()))?;
    print(format!("{}  {}\n", acknowledgement.delivery().receipt, printable(&file.to_string_lossy())).as_bytes())?;
    Ok(End::Done)
}

fn verify_acknowledgements(files: &[PathBuf], json: bool, data_dir: &Path) -> anyhow::Result<End> {
    let owners = Node::known_keys(data_dir).owners()?;
    let peers = Node::known_peers(data_dir)?;
    let mut end = End::Done;
    for file in files {
        let bytes = private_file::read_shared(file, ACKNOWLEDGEMENT_BYTES_MAX as u64);
        let found = bytes.map_err(|error| error.to_string());
        let found = found.and_then(|bytes| Acknowledgement::from_bytes(&bytes).map_err(|error| error.to_string()));
        if found.is_err() {
            end = End::No;
        }
        print(show::verified(file, &found, &owners, &peers, json).as_bytes())?;
    }
    Ok(end)
}

fn fsck(data_dir: &Path, json: bool) -> anyhow::Result<End> {
    let runtime = runtime()?;
    let report = match runtime.block_on(reach(data_dir, || Node::try_fsck_courier(data_dir)))? {
        By::Us(report) => report,
        By::Node(stream) => {
            let mut told = None;
            let asked = ask_courier(stream, &Order::Fsck, tokio::io::empty(), |answer| told = Some(answer));
            runtime.block_on(asked)?;
            match told {
                Some(Answer::Checked(report)) => report,
                Some(Answer::Error { message }) => bail!("{message}"),
                _ => bail!("the running node did not answer"),
            }
        }
    };
    print(show::fsck(&report, json).as_bytes())?;
    Ok(if report.is_sound() { End::Done } else { End::No })
}

/// Formats a number for a summary.
fn count(number: u64) -> String {
    HumanCount(number).to_string()
}

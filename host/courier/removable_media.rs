//! Transport by removable media between nodes without a network. One node exports to a directory,
//! and the other imports it. The directory then returns with the acknowledgements.

use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::events::CourierEvent;
use super::forward::{
    DirectoryError, DirectoryForwarder, ExportName, ExportedBundle, acknowledgements, clear, deliveries,
    write_acknowledgement,
};
use super::{Admission, Courier, CourierError, DeliveryRefusal, FlushMode, rewards};
use crate::key::KeyName;
use crate::receipt::{Acknowledgement, Delivery};

/// Bytes per copy step.
const CHUNK_BYTES: usize = 256 << 10;

#[derive(Debug, thiserror::Error)]
pub enum CarryError {
    #[error(transparent)]
    Directory(#[from] DirectoryError),
    #[error(transparent)]
    Courier(#[from] CourierError),
}

/// Exports the pending bundles, for the peer `to` or for all peers, to `directory`. Credits the
/// acknowledgements that came back in it.
pub async fn export(
    courier: &Arc<Courier>,
    directory: &Path,
    to: Option<&KeyName>,
    tell: &mut impl FnMut(CourierEvent),
    interrupted: impl Future<Output = ()>,
) -> Result<(), CarryError> {
    let forwarder = Arc::new(DirectoryForwarder::new(directory.to_owned()));
    let route = |destination: Option<&KeyName>| {
        let peer = courier.peer_for(destination)?;
        Ok(to.is_none_or(|to| peer.name == *to).then_some(peer))
    };
    let summary =
        courier.flush(forwarder, FlushMode::Once, route, |event| tell(CourierEvent::Flush(event)), interrupted).await?;
    tell(CourierEvent::Flushed(summary));
    Ok(())
}

/// Imports `directory`: stores and acknowledges bundles for this node, and credits acknowledgements
/// of this node's exports. Files for other nodes are not changed.
pub async fn import(
    courier: &Arc<Courier>,
    directory: &Path,
    tell: &mut impl FnMut(CourierEvent),
) -> Result<(), CarryError> {
    // Acknowledgements come first: a credited delivery need not be examined.
    for found in acknowledgements(directory)? {
        match found {
            Ok((name, bytes)) => {
                let (courier, directory) = (courier.clone(), directory.to_owned());
                let taken = blocking(move || take_acknowledgement(&courier, &directory, &name, &bytes)).await?;
                taken.into_iter().for_each(&mut *tell);
            }
            Err(error) => tell(problem(&error)),
        }
    }
    for found in deliveries(directory)? {
        match found {
            Ok(carried) if carried.delivery.destination == courier.public_key() => {
                let (courier, directory) = (courier.clone(), directory.to_owned());
                tell(blocking(move || Ok(take_in(&courier, directory, carried))).await?);
            }
            Ok(_) => {}
            Err(error) => tell(problem(&error)),
        }
    }
    Ok(())
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, CarryError> + Send + 'static,
) -> Result<T, CarryError> {
    tokio::task::spawn_blocking(work).await.map_err(CourierError::task)?
}

fn problem(error: &impl std::fmt::Display) -> CourierEvent {
    CourierEvent::Problem { what: error.to_string() }
}

fn take_in(courier: &Arc<Courier>, directory: PathBuf, carried: ExportedBundle) -> CourierEvent {
    let (id, sender, bytes) =
        (carried.delivery.receipt, carried.delivery.sender.clone(), carried.delivery.bundle.bytes);
    let taken = store(courier, &carried);
    let (acknowledgement, is_new) = match taken {
        Ok(taken) => taken,
        Err(why) => return problem(&format!("the bundle of receipt {id} is not taken in: {why}")),
    };
    match write_acknowledgement(&directory, &carried.name, &acknowledgement) {
        Ok(()) => CourierEvent::Imported { id, sender, bytes, is_new },
        Err(error) => problem(&error),
    }
}

fn store(courier: &Arc<Courier>, carried: &ExportedBundle) -> Result<(Vec<u8>, bool), String> {
    let refused = |refusal: DeliveryRefusal| refusal.to_string();
    let mut incoming = match courier.admit(carried.delivery.clone(), &carried.signature).map_err(refused)? {
        Admission::Already(acknowledgement) => return Ok((acknowledgement, false)),
        Admission::Open(incoming) => incoming,
    };
    let mut file = carried.open_bundle().map_err(|error| error.to_string())?;
    loop {
        let mut chunk = Vec::with_capacity(CHUNK_BYTES);
        let read = file.by_ref().take(CHUNK_BYTES as u64).read_to_end(&mut chunk);
        read.map_err(|error| format!("it cannot be read: {error}"))?;
        if chunk.is_empty() {
            return incoming.finish().map_err(refused);
        }
        incoming.write(&chunk).map_err(refused)?;
    }
}

/// Credits an acknowledgement. Returns `None` if it is for another node, or has no effect.
fn take_acknowledgement(
    courier: &Courier,
    directory: &Path,
    name: &ExportName,
    bytes: &[u8],
) -> Result<Option<CourierEvent>, CarryError> {
    let acknowledgement = match Acknowledgement::from_bytes(bytes) {
        Ok(acknowledgement) => acknowledgement,
        Err(error) => return Ok(Some(problem(&format!("`{name}`: not an acknowledgement: {error}")))),
    };
    let delivery = acknowledgement.delivery();
    if delivery.carrier != courier.public_key() {
        return Ok(None);
    }
    let Some(receipt) = courier.store().receipt(&delivery.receipt).map_err(CourierError::from)? else {
        // The receipt was credited earlier, or dropped.
        clear(directory, name)?;
        return Ok(None);
    };
    let asked = match courier.peer_for(receipt.destination.as_ref()) {
        Ok(peer) => Delivery::of(&receipt, peer.public_key, courier.public_key()),
        Err(why) => return Ok(Some(problem(&why))),
    };
    if ExportName::of(delivery) != *name || !acknowledgement.answers(&asked) {
        let what = format!(
            "`{name}`: an acknowledgement of something else, or signed by another key than the one that is pinned"
        );
        return Ok(Some(problem(&what)));
    }
    let credit = rewards::credit(&receipt.bundle, delivery.hops, courier.settings());
    let credited = courier.store().acknowledge(&acknowledgement, credit, courier.now_ms(), None);
    let is_credited = credited.map_err(CourierError::from)?;
    while courier.store().archive().map_err(CourierError::from)? > 0 {}
    clear(directory, name)?;
    Ok(is_credited.then_some(CourierEvent::Credited { id: receipt.id, credit }))
}

//! Body of a request to run: the slice itself, or a form with arguments and assets before the
//! slice. For an immediate run, a short slice stays in memory and a longer one is written to disk
//! as it arrives. For a queued run, the slice goes into the queue.

use std::io::Write as _;

use axum::extract::Request;
use tempfile::{NamedTempFile, TempPath};

use super::super::Served;
use super::super::body::{Form, Pieces, Source, blocking, check_length, content_length, is_form};
use super::super::problem::Problem;
use super::super::room::Memory;
use super::super::stores::no_space;
use crate::private_file;
use crate::proof::ASSETS_MAX;
use crate::queue::Incoming;
use crate::runner::{ARGS_BYTES_MAX, ASSETS_BYTES_MAX};
use crate::shares::Share;
use crate::slice::{Scope, Slice};
use crate::store::Reserve;
use crate::workload::Asset;

/// Longest slice in memory. A longer slice goes to disk.
const HELD_BYTES_MAX: u64 = 1 << 20;

/// Limit on the parts of a form: without it, a form could have a part for every few bytes.
const PARTS_MAX: usize = 1_024;

/// Destination of a slice.
pub enum Destination {
    Run(Scope),
    Queue(Box<Incoming>),
}

/// A slice at its destination.
pub enum Placed {
    Slice(Slice),
    Queued(Box<Incoming>),
}

/// Content of a request body.
pub struct Brought {
    pub slice: Placed,
    pub args: Vec<Vec<u8>>,
    pub assets: Vec<Asset>,
    pub _kept: Kept,
}

/// Resources that live as long as the slice is in use.
pub struct Kept {
    _memory: Memory,
    _file: Option<Spooled>,
}

/// A slice's file, deleted on drop, and its share of the disk quota.
struct Spooled {
    _path: TempPath,
    _share: Share<Scope>,
}

pub async fn take_in(
    served: &Served,
    mut memory: Memory,
    request: Request,
    destination: Destination,
) -> Result<Brought, Problem> {
    if is_form(request.headers()) {
        return take_in_form(served, memory, request, destination).await;
    }
    check_length(request.headers(), served.node.config.serve.slice_bytes_max)?;
    if let (Destination::Run(scope), Some(length)) = (&destination, content_length(request.headers())) {
        // The check only refuses a body that is too large before it is sent; space is reserved as
        // the bytes arrive.
        served.rooms.check_spool(scope, if length > HELD_BYTES_MAX { length } else { 0 })?;
    }
    let mut source = Source::Body(Pieces::new(request.into_body()));
    let (slice, file) = take_in_slice(served, &mut source, destination, &mut memory).await?;
    Ok(Brought { slice, args: Vec::new(), assets: Vec::new(), _kept: Kept { _memory: memory, _file: file } })
}

async fn take_in_form(
    served: &Served,
    mut memory: Memory,
    request: Request,
    destination: Destination,
) -> Result<Brought, Problem> {
    let (parts, body) = request.into_parts();
    let mut form = Form::new(&parts.headers, body)?;
    let (mut args, mut assets) = (Vec::new(), Vec::new());
    let (mut args_left, mut assets_left) = (ARGS_BYTES_MAX, ASSETS_BYTES_MAX);
    for _ in 0..PARTS_MAX {
        let Some(name) = form.next_part().await? else {
            return Err(Problem::malformed("the form has no part `slice`"));
        };
        let mut source = Source::Part(&mut form);
        match &*name {
            "arg" => {
                let arg = source.collect(args_left, &mut memory).await?;
                args_left -= arg.len() as u64;
                args.push(arg);
            }
            "asset" if assets.len() >= ASSETS_MAX => {
                return Err(Problem::new(422, "too_many_assets", format!("a job brings at most {ASSETS_MAX} assets")));
            }
            "asset" => {
                let bytes = source.collect(assets_left, &mut memory).await?;
                assets_left -= bytes.len() as u64;
                assets.push(Asset::new(bytes));
            }
            "slice" => {
                let (slice, file) = take_in_slice(served, &mut source, destination, &mut memory).await?;
                if form.next_part().await?.is_some() {
                    return Err(Problem::malformed("the part `slice` is the last of the form"));
                }
                return Ok(Brought { slice, args, assets, _kept: Kept { _memory: memory, _file: file } });
            }
            _ => return Err(Problem::malformed("the parts of the form are `arg`, `asset` and, last, `slice`")),
        }
    }
    Err(Problem::malformed(format!("the form has more than {PARTS_MAX} parts")))
}

async fn take_in_slice(
    served: &Served,
    source: &mut Source<'_>,
    destination: Destination,
    memory: &mut Memory,
) -> Result<(Placed, Option<Spooled>), Problem> {
    let scope = match destination {
        Destination::Queue(incoming) => return Ok((Placed::Queued(enqueue(source, memory, incoming).await?), None)),
        Destination::Run(scope) => scope,
    };
    let bytes_max = served.node.config.serve.slice_bytes_max;
    let mut held = Vec::new();
    while let Some(piece) = source.next().await? {
        memory.hold(piece.len())?;
        held.extend_from_slice(&piece);
        if held.len() as u64 > HELD_BYTES_MAX.min(bytes_max) {
            return spool(served, &scope, source, held, memory).await;
        }
    }
    Ok((Placed::Slice(Slice::from_bytes(held)), None))
}

async fn enqueue(
    source: &mut Source<'_>,
    memory: &mut Memory,
    incoming: Box<Incoming>,
) -> Result<Box<Incoming>, Problem> {
    source.write_to(Vec::new(), memory, incoming, |incoming, bytes| Ok(incoming.write(bytes)?), Ok).await
}

/// A slice that is being written to a file.
struct Spooling {
    file: NamedTempFile,
    bytes: u64,
    share: Share<Scope>,
    /// Free disk space that must remain.
    reserve: Reserve,
}

async fn spool(
    served: &Served,
    scope: &Scope,
    source: &mut Source<'_>,
    held: Vec<u8>,
    memory: &mut Memory,
) -> Result<(Placed, Option<Spooled>), Problem> {
    let (directory, bytes_max) = (served.spool.clone(), served.node.config.serve.slice_bytes_max);
    let share = served.rooms.spool.take(scope, 0)?;
    let reserve = served.node.reserve.clone();
    let file =
        blocking(move || private_file::temporary_in(&directory, "slice-")).await?.map_err(|error| of_disk(&error))?;
    let write = move |spooling: &mut Spooling, bytes: &[u8]| {
        spooling.bytes += bytes.len() as u64;
        if spooling.bytes > bytes_max {
            return Err(Problem::too_large(bytes_max));
        }
        spooling.share.cover(spooling.bytes)?;
        spooling.reserve.check(bytes.len() as u64).map_err(|_| no_space())?;
        spooling.file.write_all(bytes).map_err(|error| of_disk(&error))
    };
    let finish = move |Spooling { file, share, .. }: Spooling| {
        let path = file.into_temp_path();
        let slice = Slice::from_file(path.to_path_buf(), bytes_max);
        let slice = slice.map_err(|error| Problem::of_host("storage_failed", &error))?;
        Ok((Placed::Slice(slice), Some(Spooled { _path: path, _share: share })))
    };
    let spooled = source.write_to(held, memory, Spooling { file, bytes: 0, share, reserve }, write, finish).await;
    memory.trim();
    spooled
}

fn of_disk(error: &std::io::Error) -> Problem {
    Problem::of_host("storage_failed", error)
}

//! The body of a request to run: the slice itself, or a form with arguments and assets before it. Of what is run at once, a
//! short slice stays in memory and a longer one goes to the disk as it comes; what is run later goes into the queue.

use std::io::Write as _;

use axum::body::Body;
use axum::extract::{FromRequest as _, Multipart, Request};
use axum::http::header::CONTENT_TYPE;
use futures_util::stream;
use tempfile::{NamedTempFile, TempPath};

use super::super::Served;
use super::super::body::{CHUNK_BYTES, Pieces, Source, Taken, blocking, content_length, of_form};
use super::super::problem::Problem;
use crate::proof::ASSETS_MAX;
use crate::queue::Incoming;
use crate::runner::{ARGS_BYTES_MAX, ASSETS_BYTES_MAX};
use crate::slice::Slice;
use crate::workload::Asset;

/// What is longer goes to the disk.
const HELD_BYTES_MAX: u64 = 1 << 20;

/// What is spoken for at a time for what has not said how long it is.
const ROOM_BYTES: u64 = 64 << 10;

const FORM: &str = "multipart/form-data";

/// Parts of a form. Arguments can be as many as are bytes between them.
const PARTS_MAX: usize = 1_024;

/// Where a slice goes.
pub enum Destination {
    Run,
    Queue(Box<Incoming>),
}

/// Where it is.
pub enum Placed {
    Slice(Slice),
    Queued(Box<Incoming>),
}

/// What a request has brought.
pub struct Brought {
    pub slice: Placed,
    pub args: Vec<Vec<u8>>,
    pub assets: Vec<Asset>,
    pub _kept: Kept,
}

/// What lasts for as long as the slice is in use.
#[derive(Default)]
pub struct Kept {
    _room: Vec<Taken>,
    /// Removed when this goes.
    _file: Option<TempPath>,
}

pub async fn take_in(served: &Served, request: Request, destination: Destination) -> Result<Brought, Problem> {
    let media_type = request.headers().get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    if media_type.get(..FORM.len()).is_some_and(|start| start.eq_ignore_ascii_case(FORM)) {
        return take_in_form(served, request, destination).await;
    }
    let length = content_length(request.headers());
    let mut source = Source::Body(Pieces::new(request.into_body()));
    let mut room = Vec::new();
    let (slice, file) = take_in_slice(served, &mut source, length, destination, &mut room).await?;
    Ok(Brought { slice, args: Vec::new(), assets: Vec::new(), _kept: Kept { _room: room, _file: file } })
}

async fn take_in_form(served: &Served, request: Request, destination: Destination) -> Result<Brought, Problem> {
    let (parts, body) = request.into_parts();
    let paced = stream::unfold(Pieces::new(body), |mut pieces| async {
        let next = pieces.next().await.map_err(|problem| std::io::Error::other(problem.code()));
        next.transpose().map(|piece| (piece, pieces))
    });
    let request = Request::from_parts(parts, Body::from_stream(paced));
    let form = Multipart::from_request(request, &()).await;
    let mut form = form.map_err(|error| Problem::malformed(error.body_text()))?;
    let (mut args, mut assets, mut room) = (Vec::new(), Vec::new(), Vec::new());
    let (mut args_room, mut assets_room) = (ARGS_BYTES_MAX, ASSETS_BYTES_MAX);
    for _ in 0..PARTS_MAX {
        let Some(field) = form.next_field().await.map_err(of_form)? else {
            return Err(Problem::malformed("the form has no part `slice`"));
        };
        let name = field.name().unwrap_or_default().to_owned();
        let mut source = Source::Field(Box::new(field));
        match &*name {
            "arg" => args.push(take_in_memory(served, &mut source, &mut args_room, &mut room).await?),
            "asset" if assets.len() >= ASSETS_MAX => {
                return Err(Problem::new(422, "too_many_assets", format!("a job brings at most {ASSETS_MAX} assets")));
            }
            "asset" => {
                let bytes = take_in_memory(served, &mut source, &mut assets_room, &mut room).await?;
                assets.push(Asset::new(bytes));
            }
            "slice" => {
                let (slice, file) = take_in_slice(served, &mut source, None, destination, &mut room).await?;
                drop(source);
                if form.next_field().await.map_err(of_form)?.is_some() {
                    return Err(Problem::malformed("the part `slice` is the last of the form"));
                }
                return Ok(Brought { slice, args, assets, _kept: Kept { _room: room, _file: file } });
            }
            _ => return Err(Problem::malformed("the parts of the form are `arg`, `asset` and, last, `slice`")),
        }
    }
    Err(Problem::malformed(format!("the form has more than {PARTS_MAX} parts")))
}

/// Up to `bytes_max`, which gets less by what was taken.
async fn take_in_memory(
    served: &Served,
    source: &mut Source<'_>,
    bytes_max: &mut u64,
    room: &mut Vec<Taken>,
) -> Result<Vec<u8>, Problem> {
    let (mut bytes, mut spoken_for) = (Vec::new(), 0);
    while let Some(piece) = source.next().await? {
        let len = piece.len() as u64;
        *bytes_max = bytes_max.checked_sub(len).ok_or_else(|| Problem::too_large(ASSETS_BYTES_MAX))?;
        while spoken_for < bytes.len() as u64 + len {
            room.push(served.room.take(ROOM_BYTES)?);
            spoken_for += ROOM_BYTES;
        }
        bytes.extend_from_slice(&piece);
    }
    Ok(bytes)
}

async fn take_in_slice(
    served: &Served,
    source: &mut Source<'_>,
    length: Option<u64>,
    destination: Destination,
    room: &mut Vec<Taken>,
) -> Result<(Placed, Option<TempPath>), Problem> {
    let bytes_max = served.node.config.serve.slice_bytes_max;
    if length.is_some_and(|length| length > bytes_max) {
        return Err(Problem::too_large(bytes_max));
    }
    if let Destination::Queue(incoming) = destination {
        room.push(served.room.take(CHUNK_BYTES as u64)?);
        return Ok((Placed::Queued(enqueue(source, incoming).await?), None));
    }
    // What stays in memory, or else what waits for the disk and its copy.
    room.push(served.room.take(length.unwrap_or(HELD_BYTES_MAX).min(HELD_BYTES_MAX))?);
    let mut held = Vec::with_capacity(length.unwrap_or(0).min(HELD_BYTES_MAX) as usize);
    while let Some(piece) = source.next().await? {
        held.extend_from_slice(&piece);
        if held.len() as u64 > HELD_BYTES_MAX.min(bytes_max) {
            return spool(served, source, held, bytes_max).await;
        }
    }
    Ok((Placed::Slice(Slice::from_bytes(held)), None))
}

async fn enqueue(source: &mut Source<'_>, incoming: Box<Incoming>) -> Result<Box<Incoming>, Problem> {
    source.write_to(Vec::new(), incoming, |incoming, bytes| Ok(incoming.write(bytes)?), Ok).await
}

async fn spool(
    served: &Served,
    source: &mut Source<'_>,
    held: Vec<u8>,
    bytes_max: u64,
) -> Result<(Placed, Option<TempPath>), Problem> {
    let directory = served.spool.clone();
    let file = blocking(move || NamedTempFile::new_in(&directory)).await?.map_err(|error| of_disk(&error))?;
    let write = move |(file, written): &mut (NamedTempFile, u64), bytes: &[u8]| {
        *written += bytes.len() as u64;
        if *written > bytes_max {
            return Err(Problem::too_large(bytes_max));
        }
        file.write_all(bytes).map_err(|error| of_disk(&error))
    };
    let finish = move |(file, _): (NamedTempFile, u64)| {
        let path = file.into_temp_path();
        let slice = Slice::from_file(path.to_path_buf(), bytes_max);
        let slice = slice.map_err(|error| Problem::of_host("storage_failed", &error))?;
        Ok((Placed::Slice(slice), Some(path)))
    };
    source.write_to(held, (file, 0), write, finish).await
}

fn of_disk(error: &std::io::Error) -> Problem {
    Problem::of_host("storage_failed", error)
}

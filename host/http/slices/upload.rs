//! Body of a request to run: the slice itself, or a form with arguments and assets before the
//! slice. For an immediate run, a short slice stays in memory and a longer one is written to disk
//! as it arrives. For a queued run, the slice goes into the queue.

use std::io::Write as _;

use axum::extract::Request;
use tempfile::{NamedTempFile, TempPath};

use super::super::AppState;
use super::super::body::{BodyPieces, FormReader, UploadSource, blocking, check_length, content_length, is_form};
use super::super::pools::RequestMemory;
use super::super::problem::HttpProblem;
use super::super::stores::no_space;
use crate::private_file;
use crate::proof::ASSETS_MAX;
use crate::queue::TaskUpload;
use crate::runner::{ARGS_BYTES_MAX, ASSETS_BYTES_MAX};
use crate::shares::Share;
use crate::slice::{Slice, Tenant};
use crate::store::Reserve;
use crate::workload::Asset;

/// Longest slice in memory. A longer slice goes to disk.
const HELD_BYTES_MAX: u64 = 1 << 20;

/// Limit on the parts of a form: without it, a form could have a part for every few bytes.
const PARTS_MAX: usize = 1_024;

/// Destination of a slice.
pub enum UploadTarget {
    Run(Tenant),
    Queue(Box<TaskUpload>),
}

/// A slice at its destination.
pub enum PlacedSlice {
    Slice(Slice),
    Queued(Box<TaskUpload>),
}

/// Content of a request body.
pub struct Upload {
    pub slice: PlacedSlice,
    pub args: Vec<Vec<u8>>,
    pub assets: Vec<Asset>,
    pub _kept: UploadResources,
}

/// Resources that live as long as the slice is in use.
pub struct UploadResources {
    _memory: RequestMemory,
    _file: Option<SpooledFile>,
}

/// A slice's file, deleted on drop, and its share of the disk quota.
struct SpooledFile {
    _path: TempPath,
    _share: Share<Tenant>,
}

pub async fn receive(
    served: &AppState,
    mut memory: RequestMemory,
    request: Request,
    destination: UploadTarget,
) -> Result<Upload, HttpProblem> {
    if is_form(request.headers()) {
        return take_in_form(served, memory, request, destination).await;
    }
    check_length(request.headers(), served.node.config.serve.slice_bytes_max)?;
    if let (UploadTarget::Run(scope), Some(length)) = (&destination, content_length(request.headers())) {
        // The check only refuses a body that is too large before it is sent; space is reserved as
        // the bytes arrive.
        served.rooms.check_spool(scope, if length > HELD_BYTES_MAX { length } else { 0 })?;
    }
    let mut source = UploadSource::Body(BodyPieces::new(request.into_body()));
    let (slice, file) = take_in_slice(served, &mut source, destination, &mut memory).await?;
    Ok(Upload { slice, args: Vec::new(), assets: Vec::new(), _kept: UploadResources { _memory: memory, _file: file } })
}

async fn take_in_form(
    served: &AppState,
    mut memory: RequestMemory,
    request: Request,
    destination: UploadTarget,
) -> Result<Upload, HttpProblem> {
    let (parts, body) = request.into_parts();
    let mut form = FormReader::new(&parts.headers, body)?;
    let (mut args, mut assets) = (Vec::new(), Vec::new());
    let (mut args_left, mut assets_left) = (ARGS_BYTES_MAX, ASSETS_BYTES_MAX);
    for _ in 0..PARTS_MAX {
        let Some(name) = form.next_part().await? else {
            return Err(HttpProblem::malformed("the form has no part `slice`"));
        };
        let mut source = UploadSource::Part(&mut form);
        match &*name {
            "arg" => {
                let arg = source.collect(args_left, &mut memory).await?;
                args_left -= arg.len() as u64;
                args.push(arg);
            }
            "asset" if assets.len() >= ASSETS_MAX => {
                return Err(HttpProblem::new(
                    422,
                    "too_many_assets",
                    format!("a job brings at most {ASSETS_MAX} assets"),
                ));
            }
            "asset" => {
                let bytes = source.collect(assets_left, &mut memory).await?;
                assets_left -= bytes.len() as u64;
                assets.push(Asset::new(bytes));
            }
            "slice" => {
                let (slice, file) = take_in_slice(served, &mut source, destination, &mut memory).await?;
                if form.next_part().await?.is_some() {
                    return Err(HttpProblem::malformed("the part `slice` is the last of the form"));
                }
                return Ok(Upload { slice, args, assets, _kept: UploadResources { _memory: memory, _file: file } });
            }
            _ => return Err(HttpProblem::malformed("the parts of the form are `arg`, `asset` and, last, `slice`")),
        }
    }
    Err(HttpProblem::malformed(format!("the form has more than {PARTS_MAX} parts")))
}

async fn take_in_slice(
    served: &AppState,
    source: &mut UploadSource<'_>,
    destination: UploadTarget,
    memory: &mut RequestMemory,
) -> Result<(PlacedSlice, Option<SpooledFile>), HttpProblem> {
    let scope = match destination {
        UploadTarget::Queue(incoming) => {
            return Ok((PlacedSlice::Queued(enqueue(source, memory, incoming).await?), None));
        }
        UploadTarget::Run(scope) => scope,
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
    Ok((PlacedSlice::Slice(Slice::from_bytes(held)), None))
}

async fn enqueue(
    source: &mut UploadSource<'_>,
    memory: &mut RequestMemory,
    incoming: Box<TaskUpload>,
) -> Result<Box<TaskUpload>, HttpProblem> {
    source.write_to(Vec::new(), memory, incoming, |incoming, bytes| Ok(incoming.write(bytes)?), Ok).await
}

/// A slice that is being written to a file.
struct SpoolWriter {
    file: NamedTempFile,
    bytes: u64,
    share: Share<Tenant>,
    /// Free disk space that must remain.
    reserve: Reserve,
}

async fn spool(
    served: &AppState,
    scope: &Tenant,
    source: &mut UploadSource<'_>,
    held: Vec<u8>,
    memory: &mut RequestMemory,
) -> Result<(PlacedSlice, Option<SpooledFile>), HttpProblem> {
    let (directory, bytes_max) = (served.spool.clone(), served.node.config.serve.slice_bytes_max);
    let share = served.rooms.spool.take(scope, 0)?;
    let reserve = served.node.reserve.clone();
    let file =
        blocking(move || private_file::temporary_in(&directory, "slice-")).await?.map_err(|error| of_disk(&error))?;
    let write = move |spooling: &mut SpoolWriter, bytes: &[u8]| {
        spooling.bytes += bytes.len() as u64;
        if spooling.bytes > bytes_max {
            return Err(HttpProblem::too_large(bytes_max));
        }
        spooling.share.cover(spooling.bytes)?;
        spooling.reserve.check(bytes.len() as u64).map_err(|_| no_space())?;
        spooling.file.write_all(bytes).map_err(|error| of_disk(&error))
    };
    let finish = move |SpoolWriter { file, share, .. }: SpoolWriter| {
        let path = file.into_temp_path();
        let slice = Slice::from_file(path.to_path_buf(), bytes_max);
        let slice = slice.map_err(|error| HttpProblem::of_host("storage_failed", &error))?;
        Ok((PlacedSlice::Slice(slice), Some(SpooledFile { _path: path, _share: share })))
    };
    let spooled = source.write_to(held, memory, SpoolWriter { file, bytes: 0, share, reserve }, write, finish).await;
    memory.trim();
    spooled
}

fn of_disk(error: &std::io::Error) -> HttpProblem {
    HttpProblem::of_host("storage_failed", error)
}

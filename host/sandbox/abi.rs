//! The `compute` ABI, version 1: host functions as plain functions over the guest's memory and the state of its run.
//! Nothing else reads or writes guest memory, and nothing here knows which engine runs the guest.
//!
//! A pointer is checked over the whole range that the call names, also where fewer bytes are moved, so that whether a
//! call is allowed does not depend on the data.

use std::io;
use std::ops::Range;
use std::sync::Arc;

use super::outcome::Outcome;
use crate::digest::{Digest, Hasher};
use crate::limits::Limits;

/// The bytes that a guest works on. Long ones are not held in memory, so each read can fail.
pub trait Input: Send {
    fn len(&self) -> u64;

    /// BLAKE3 of all bytes; known before the run begins.
    fn digest(&self) -> Digest;

    /// Fills `buffer` with the bytes from `offset` on; never asked beyond [`Input::len`].
    fn read(&mut self, offset: u64, buffer: &mut [u8]) -> Result<(), InputError>;

    /// How many bytes the host handles to give the guest `len` bytes from `offset` on; the guest is charged for these.
    fn cost(&self, _offset: u64, len: u64) -> u64 {
        len
    }

    fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// The host cannot give the guest the input that the run began with.
#[derive(Debug, thiserror::Error)]
pub enum InputError {
    #[error("it changed while it was read")]
    Changed,
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// Why a host call ends the run.
#[derive(Debug)]
pub enum Stop {
    /// The guest's fault: a result like any other.
    Guest(Outcome),
    /// The host's: no result.
    Input(InputError),
    /// The host has no memory for what the job's limits allow.
    HostMemory,
}

impl From<Outcome> for Stop {
    fn from(outcome: Outcome) -> Self {
        Self::Guest(outcome)
    }
}

impl From<InputError> for Stop {
    fn from(error: InputError) -> Self {
        Self::Input(error)
    }
}

type Called<T> = Result<T, Stop>;

/// What host calls have to work with in one run, and what they leave behind.
pub struct RunState {
    pub input: Box<dyn Input>,
    pub args: Arc<[u8]>,
    pub assets: Arc<[Arc<[u8]>]>,
    pub limits: Limits,
    pub output: Vec<u8>,
    pub log: Vec<u8>,
    pub committed: Option<Digest>,
    hasher: Option<Box<Hasher>>,
}

/// How much a hash over a part of the input reads at a time: what a level-1 cache holds beside the hash's own state.
const HASH_PIECE_BYTES: usize = 16 * 1024;

impl RunState {
    pub fn new(input: Box<dyn Input>, args: Arc<[u8]>, assets: Arc<[Arc<[u8]>]>, limits: Limits) -> Self {
        Self { input, args, assets, limits, output: Vec::new(), log: Vec::new(), committed: None, hasher: None }
    }
}

pub fn input_len(run: &RunState) -> u64 {
    run.input.len()
}

pub fn input_read(memory: &mut [u8], run: &mut RunState, dst: u32, offset: u64, len: u32) -> Called<u32> {
    let target = part_mut(memory, dst, len)?;
    let Some(rest) = run.input.len().checked_sub(offset) else { return Ok(0) };
    let count = (target.len() as u64).min(rest) as usize;
    run.input.read(offset, &mut target[..count])?;
    Ok(count as u32)
}

/// The host has hashed the whole input before the run, so this range alone costs no second pass.
pub fn input_blake3(memory: &mut [u8], run: &mut RunState, offset: u64, len: u64, dst: u32) -> Called<()> {
    let target = range(memory, dst, 32)?;
    let end = offset.checked_add(len).filter(|end| *end <= run.input.len()).ok_or(Outcome::InputRange)?;
    let digest =
        if end - offset == run.input.len() { run.input.digest() } else { hash_part(&mut *run.input, offset..end)? };
    memory[target].copy_from_slice(digest.as_bytes());
    Ok(())
}

fn hash_part(input: &mut dyn Input, mut part: Range<u64>) -> Result<Digest, InputError> {
    let mut hasher = Hasher::default();
    let mut piece = [0; HASH_PIECE_BYTES];
    while !part.is_empty() {
        let count = (part.end - part.start).min(piece.len() as u64) as usize;
        input.read(part.start, &mut piece[..count])?;
        hasher.update(&piece[..count]);
        part.start += count as u64;
    }
    Ok(hasher.finish())
}

pub fn blake3(memory: &mut [u8], ptr: u32, len: u32, dst: u32) -> Called<()> {
    let source = range(memory, ptr, len)?;
    let target = range(memory, dst, 32)?;
    let digest = Digest::of(&memory[source]);
    memory[target].copy_from_slice(digest.as_bytes());
    Ok(())
}

pub fn blake3_update(memory: &[u8], run: &mut RunState, ptr: u32, len: u32) -> Called<()> {
    let source = part(memory, ptr, len)?;
    run.hasher.get_or_insert_default().update(source);
    Ok(())
}

/// Writes the digest of what was given to [`blake3_update`] since the last call, and begins anew.
pub fn blake3_finish(memory: &mut [u8], run: &mut RunState, dst: u32) -> Called<()> {
    let target = range(memory, dst, 32)?;
    let digest = run.hasher.take().unwrap_or_default().finish();
    memory[target].copy_from_slice(digest.as_bytes());
    Ok(())
}

pub fn args_len(run: &RunState) -> u64 {
    run.args.len() as u64
}

pub fn args_read(memory: &mut [u8], run: &RunState, dst: u32, offset: u64, len: u32) -> Called<u32> {
    let target = part_mut(memory, dst, len)?;
    Ok(copy(&run.args, offset, target))
}

/// -1 for an index that the job brings no asset for, so that a guest can ask how many there are.
pub fn asset_len(run: &RunState, index: u32) -> i64 {
    run.assets.get(index as usize).map_or(-1, |asset| asset.len() as i64)
}

pub fn asset_read(memory: &mut [u8], run: &RunState, index: u32, dst: u32, offset: u64, len: u32) -> Called<u32> {
    let target = part_mut(memory, dst, len)?;
    let asset = run.assets.get(index as usize).ok_or(Outcome::NoSuchAsset)?;
    Ok(copy(asset, offset, target))
}

pub fn output_write(memory: &[u8], run: &mut RunState, ptr: u32, len: u32) -> Called<()> {
    let bytes = part(memory, ptr, len)?;
    if (run.output.len() + bytes.len()) as u64 > run.limits.output_bytes {
        return Err(Outcome::OutputLimit.into());
    }
    run.output.try_reserve(bytes.len()).map_err(|_| Stop::HostMemory)?;
    run.output.extend_from_slice(bytes);
    Ok(())
}

pub fn proof_commit(memory: &[u8], run: &mut RunState, ptr: u32) -> Called<()> {
    let mut proof = [0; 32];
    proof.copy_from_slice(part(memory, ptr, 32)?);
    match run.committed.replace(proof.into()) {
        None => Ok(()),
        Some(_) => Err(Outcome::SecondCommit.into()),
    }
}

/// A line for the operator; what is beyond the limit is dropped without a word, because what the guest hears must not
/// depend on the operator's taste.
pub fn log(memory: &[u8], run: &mut RunState, ptr: u32, len: u32) -> Called<()> {
    let line = part(memory, ptr, len)?;
    let rest = (run.limits.log_bytes as usize).saturating_sub(run.log.len());
    run.log.try_reserve(rest.min(line.len() + 1)).map_err(|_| Stop::HostMemory)?;
    run.log.extend(line.iter().chain(b"\n").take(rest));
    Ok(())
}

fn range(memory: &[u8], ptr: u32, len: u32) -> Result<Range<usize>, Outcome> {
    let (start, len) = (ptr as usize, len as usize);
    let end = start.checked_add(len).filter(|end| *end <= memory.len()).ok_or(Outcome::PointerOutOfRange)?;
    Ok(start..end)
}

fn part(memory: &[u8], ptr: u32, len: u32) -> Result<&[u8], Outcome> {
    Ok(&memory[range(memory, ptr, len)?])
}

fn part_mut(memory: &mut [u8], ptr: u32, len: u32) -> Result<&mut [u8], Outcome> {
    let range = range(memory, ptr, len)?;
    Ok(&mut memory[range])
}

/// Copies what `source` has from `offset` on, and says how much that was.
fn copy(source: &[u8], offset: u64, target: &mut [u8]) -> u32 {
    let rest = usize::try_from(offset).ok().and_then(|offset| source.get(offset..)).unwrap_or_default();
    let count = rest.len().min(target.len());
    target[..count].copy_from_slice(&rest[..count]);
    count as u32
}

//! The `compute` ABI, version 1. Each host function is a plain function of the guest's memory and
//! the state of its run. No other code reads or writes guest memory, and nothing here knows which
//! engine runs the guest.
//!
//! Each pointer is checked over the whole range that the call names, even if fewer bytes are moved.
//! So whether a call is allowed does not depend on the data. Functions that handle many bytes do so
//! in pieces, and check for an interrupt (cancellation, deadline) between pieces.

use std::ops::Range;
use std::sync::Arc;

use super::gas_meter::{GasMeter, RunControl};
use super::interrupt::{ClaimedAmount, HostInterrupt, InputError};
use super::meter::{HASH_END_BYTES, MeterState, hash_gas, host_call_gas, output_gas};
use super::outcome::Outcome;
use super::trace::{TraceWindow, Tracer};
use crate::digest::{Digest, Hasher};
use crate::limits::Limits;

/// The input bytes of a guest. Long inputs are not held in memory, so each read can fail.
pub trait Input: Send {
    fn len(&self) -> u64;

    /// Returns the BLAKE3 digest of all bytes, which is known before the run begins.
    fn digest(&self) -> Digest;

    /// Fills `buffer` with the bytes from `offset` on. The caller never reads beyond
    /// [`Input::len`].
    fn read(&mut self, offset: u64, buffer: &mut [u8]) -> Result<(), InputError>;

    /// Returns how many bytes the host handles to give the guest `len` bytes from `offset` on. The
    /// guest is charged for this number.
    fn cost(&self, _offset: u64, len: u64) -> u64 {
        len
    }

    fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

pub type HostResult<T> = Result<T, HostInterrupt>;

/// The input, arguments, assets and limits of one run.
pub struct Invocation {
    pub input: Box<dyn Input>,
    pub args: Arc<[u8]>,
    pub assets: Arc<[Arc<[u8]>]>,
    pub limits: Limits,
    pub watch: RunControl,
    /// The window of gas in which checkpoints are taken; `None` for a run without a trace.
    pub trace: Option<TraceWindow>,
}

impl Invocation {
    /// Creates work without arguments, assets, deadline or trace.
    pub fn new(input: Box<dyn Input>, limits: Limits) -> Self {
        Self { input, args: Arc::default(), assets: Arc::default(), limits, watch: RunControl::default(), trace: None }
    }
}

/// The data that host calls use in one run, and the results that they produce.
pub struct HostState {
    pub input: Box<dyn Input>,
    pub args: Arc<[u8]>,
    pub assets: Arc<[Arc<[u8]>]>,
    pub limits: Limits,
    pub gas_meter: GasMeter,
    pub output: Vec<u8>,
    pub log: Vec<u8>,
    pub committed: Option<Digest>,
    pub tracer: Option<Tracer>,
    hasher: Option<Box<Hasher>>,
}

/// Bytes that a hash over a part of the input reads at a time. As many fit a level-1 cache beside
/// the hash's own state.
const HASH_PIECE_BYTES: usize = 16 * 1024;

/// Bytes that are handled between two checks of the deadline. A piece takes a millisecond at most,
/// even if it comes from a disk.
const PIECE_BYTES: usize = 1 << 20;

impl HostState {
    pub fn new(work: Invocation) -> Self {
        let Invocation { input, args, assets, limits, watch, trace } = work;
        Self {
            input,
            args,
            assets,
            limits,
            gas_meter: GasMeter::new(limits.gas, watch, trace),
            output: Vec::new(),
            log: Vec::new(),
            committed: None,
            tracer: trace.map(Tracer::new),
            hasher: None,
        }
    }

    /// Charges the gas of the run's start, and returns the state that the guest begins with.
    pub fn start(&mut self, gas: u64) -> HostResult<i64> {
        self.gas_meter.check_interrupt()?;
        let state = self.gas_meter.charge(MeterState::BEGIN, gas)?;
        if let Some(tracer) = &mut self.tracer {
            tracer.start(gas);
        }
        Ok(state.to_i64())
    }

    /// Executes a host call for a guest whose meter state is `state`.
    pub fn call<R: HostReturn>(
        &mut self,
        memory: &mut [u8],
        state: i64,
        (name, arguments): (&str, &[u64]),
        act: impl FnOnce(&mut HostCall<'_>) -> HostResult<R>,
    ) -> HostResult<(R, i64)> {
        let state = MeterState::from_i64(state);
        let charged = self.gas_meter.charged(state);
        let mut call = HostCall { memory, run: self, state };
        let answer = act(&mut call)?;
        let state = call.state;
        if let Some(tracer) = &mut self.tracer {
            let gas = self.gas_meter.charged(state) - charged;
            tracer.call((self.gas_meter.granted(), gas), name, arguments, answer.number());
        }
        Ok((answer, state.to_i64()))
    }

    /// Returns whether a checkpoint is taken at this refill. Called once per refill, before the
    /// globals are read.
    pub fn is_at_checkpoint(&mut self, memory_bytes: usize) -> bool {
        let granted = self.gas_meter.granted();
        self.tracer.as_mut().is_some_and(|tracer| tracer.is_due(granted, memory_bytes))
    }

    /// Grants more gas to a guest that has overdrawn `state`, or ends its run. `globals` holds the
    /// bytes of the guest's mutable numeric globals if a checkpoint is taken.
    pub fn refill(&mut self, state: i64, memory: &[u8], globals: Option<&[u8]>) -> HostResult<i64> {
        let state = MeterState::from_i64(state);
        if let (Some(tracer), Some(globals)) = (&mut self.tracer, globals) {
            tracer.checkpoint(self.gas_meter.charged(state), memory, globals);
        }
        self.gas_meter.refill(state).map(MeterState::to_i64)
    }

    /// Records the final memory and the counters of the module in the trace.
    pub fn end(&mut self, memory: &[u8], counters: Vec<u64>) {
        if let Some(tracer) = &mut self.tracer {
            tracer.end(self.gas_meter.granted(), memory, counters);
        }
    }
}

/// The return value of a host call: nothing, or a number.
pub trait HostReturn {
    fn number(&self) -> Option<u64>;
}

impl HostReturn for () {
    fn number(&self) -> Option<u64> {
        None
    }
}

impl HostReturn for u32 {
    fn number(&self) -> Option<u64> {
        Some((*self).into())
    }
}

impl HostReturn for u64 {
    fn number(&self) -> Option<u64> {
        Some(*self)
    }
}

impl HostReturn for i64 {
    fn number(&self) -> Option<u64> {
        Some(self.cast_unsigned())
    }
}

/// One host call: the guest's memory, its run, and the meter's state.
pub struct HostCall<'a> {
    pub memory: &'a mut [u8],
    pub run: &'a mut HostState,
    pub state: MeterState,
}

impl HostCall<'_> {
    pub fn input_len(&mut self) -> HostResult<u64> {
        self.charge(0)?;
        Ok(self.run.input.len())
    }

    pub fn input_read(&mut self, dst: u32, offset: u64, len: u32) -> HostResult<u32> {
        self.charge(self.run.input.cost(offset, len.into()))?;
        let Self { memory, run, .. } = self;
        let target = part_mut(memory, dst, len)?;
        let Some(rest) = run.input.len().checked_sub(offset) else { return Ok(0) };
        let count = (target.len() as u64).min(rest) as usize;
        let mut offset = offset;
        for piece in target[..count].chunks_mut(PIECE_BYTES) {
            run.gas_meter.check_interrupt()?;
            run.input.read(offset, piece)?;
            offset += piece.len() as u64;
        }
        Ok(count as u32)
    }

    /// Writes the digest of a range of the input. The host hashed the whole input before the run,
    /// so the whole range needs no second pass.
    pub fn input_blake3(&mut self, offset: u64, len: u64, dst: u32) -> HostResult<()> {
        self.charge_hash(self.run.input.cost(offset, len))?;
        let Self { memory, run, .. } = self;
        let target = range(memory, dst, 32)?;
        let input_len = run.input.len();
        let end = offset.checked_add(len).filter(|end| *end <= input_len).ok_or(Outcome::InputRange)?;
        let digest = if end - offset == input_len { run.input.digest() } else { hash_part(run, offset..end)? };
        memory[target].copy_from_slice(digest.as_bytes());
        Ok(())
    }

    pub fn blake3(&mut self, ptr: u32, len: u32, dst: u32) -> HostResult<()> {
        self.charge_hash(len.into())?;
        let Self { memory, run, .. } = self;
        let source = range(memory, ptr, len)?;
        let target = range(memory, dst, 32)?;
        let mut hasher = Hasher::default();
        hash(&mut hasher, &memory[source], &run.gas_meter)?;
        memory[target].copy_from_slice(hasher.finish().as_bytes());
        Ok(())
    }

    pub fn blake3_update(&mut self, ptr: u32, len: u32) -> HostResult<()> {
        self.charge_hash(len.into())?;
        let Self { memory, run, .. } = self;
        let source = part(memory, ptr, len)?;
        hash(run.hasher.get_or_insert_default(), source, &run.gas_meter)
    }

    /// Writes the digest of all bytes given to [`HostCall::blake3_update`] since the last call, and
    /// resets the hasher.
    pub fn blake3_finish(&mut self, dst: u32) -> HostResult<()> {
        self.charge_hash(HASH_END_BYTES)?;
        let target = range(self.memory, dst, 32)?;
        let digest = self.run.hasher.take().unwrap_or_default().finish();
        self.memory[target].copy_from_slice(digest.as_bytes());
        Ok(())
    }

    pub fn args_len(&mut self) -> HostResult<u64> {
        self.charge(0)?;
        Ok(self.run.args.len() as u64)
    }

    pub fn args_read(&mut self, dst: u32, offset: u64, len: u32) -> HostResult<u32> {
        self.charge(len.into())?;
        let target = part_mut(self.memory, dst, len)?;
        copy(&self.run.args, offset, target, &self.run.gas_meter)
    }

    /// Returns the length of an asset, or -1 if the job has no asset with this index. So a guest
    /// can find out how many assets there are.
    pub fn asset_len(&mut self, index: u32) -> HostResult<i64> {
        self.charge(0)?;
        Ok(self.run.assets.get(index as usize).map_or(-1, |asset| asset.len() as i64))
    }

    pub fn asset_read(&mut self, index: u32, dst: u32, offset: u64, len: u32) -> HostResult<u32> {
        self.charge(len.into())?;
        let target = part_mut(self.memory, dst, len)?;
        let asset = self.run.assets.get(index as usize).ok_or(Outcome::NoSuchAsset)?;
        copy(asset, offset, target, &self.run.gas_meter)
    }

    pub fn output_write(&mut self, ptr: u32, len: u32) -> HostResult<()> {
        self.charge_gas(output_gas(len.into()))?;
        let Self { memory, run, .. } = self;
        let bytes = part(memory, ptr, len)?;
        if (run.output.len() + bytes.len()) as u64 > run.limits.output_bytes {
            return Err(Outcome::OutputLimit.into());
        }
        let claimed = run.gas_meter.output_bytes_claimed();
        if claimed.is_some_and(|claimed| (run.output.len() + bytes.len()) as u64 > claimed) {
            return Err(HostInterrupt::BeyondClaim(ClaimedAmount::Output));
        }
        run.output.try_reserve(bytes.len()).map_err(|_| HostInterrupt::HostMemory)?;
        for piece in bytes.chunks(PIECE_BYTES) {
            run.gas_meter.check_interrupt()?;
            run.output.extend_from_slice(piece);
        }
        Ok(())
    }

    pub fn proof_commit(&mut self, ptr: u32) -> HostResult<()> {
        self.charge(32)?;
        let mut proof = [0; 32];
        proof.copy_from_slice(part(self.memory, ptr, 32)?);
        match self.run.committed.replace(proof.into()) {
            None => Ok(()),
            Some(_) => Err(Outcome::SecondCommit.into()),
        }
    }

    /// Appends a line to the operator's log. Bytes beyond the limit are dropped silently, because
    /// the guest's result must not depend on the operator's settings.
    pub fn log(&mut self, ptr: u32, len: u32) -> HostResult<()> {
        self.charge(len.into())?;
        let Self { memory, run, .. } = self;
        let line = part(memory, ptr, len)?;
        let rest = (run.limits.log_bytes as usize).saturating_sub(run.log.len());
        run.log.try_reserve(rest.min(line.len() + 1)).map_err(|_| HostInterrupt::HostMemory)?;
        run.log.extend(line.iter().chain(b"\n").take(rest));
        Ok(())
    }

    /// Charges a call that moves `bytes`, before the bytes move.
    fn charge(&mut self, bytes: u64) -> HostResult<()> {
        self.charge_gas(host_call_gas(bytes))
    }

    /// Charges a call that hashes `bytes`, before the hash.
    fn charge_hash(&mut self, bytes: u64) -> HostResult<()> {
        self.charge_gas(hash_gas(bytes))
    }

    fn charge_gas(&mut self, gas: u64) -> HostResult<()> {
        self.state = self.run.gas_meter.charge(self.state, gas)?;
        Ok(())
    }
}

fn hash_part(run: &mut HostState, mut part: Range<u64>) -> HostResult<Digest> {
    let mut hasher = Hasher::default();
    let mut piece = [0; HASH_PIECE_BYTES];
    while !part.is_empty() {
        let count = (part.end - part.start).min(piece.len() as u64) as usize;
        run.gas_meter.check_interrupt()?;
        run.input.read(part.start, &mut piece[..count])?;
        hasher.update(&piece[..count]);
        part.start += count as u64;
    }
    Ok(hasher.finish())
}

fn hash(hasher: &mut Hasher, bytes: &[u8], gas_meter: &GasMeter) -> HostResult<()> {
    for piece in bytes.chunks(PIECE_BYTES) {
        gas_meter.check_interrupt()?;
        hasher.update(piece);
    }
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

/// Copies bytes of `source` from `offset` on into `target`, and returns how many.
fn copy(source: &[u8], offset: u64, target: &mut [u8], gas_meter: &GasMeter) -> HostResult<u32> {
    let rest = usize::try_from(offset).ok().and_then(|offset| source.get(offset..)).unwrap_or_default();
    let count = rest.len().min(target.len());
    for (to, from) in target[..count].chunks_mut(PIECE_BYTES).zip(rest.chunks(PIECE_BYTES)) {
        gas_meter.check_interrupt()?;
        to.copy_from_slice(&from[..to.len()]);
    }
    Ok(count as u32)
}

//! Protocol between the verifier and its child: the order to run, and the answers. Each message is
//! a line of JSON followed by bytes. Lengths come before their bytes, and are checked against a
//! limit.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io::{self, BufRead, Read, Write};
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::path::PathBuf;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::digest::Digest;
use crate::limits::Limits;
use crate::proof::Blob;
use crate::sandbox::{
    Checkpoint, Claimed, ClaimedAmount, EngineKind, Execution, Outcome, QUANTUM, Trace, TraceWindow, TracedCall,
};

/// Maximum bytes of a line of JSON.
const LINE_BYTES_MAX: u64 = 64 << 20;
/// Maximum bytes of a module, of the arguments, or of an asset.
const BLOB_BYTES_MAX: u64 = 1 << 30;
/// Maximum blobs in an order: the assets and the other blobs.
const BLOBS_MAX: usize = 1_100;

/// A job on one engine.
#[derive(Clone)]
pub struct EngineJob {
    pub engine: EngineKind,
    /// The metered module.
    pub module: Arc<[u8]>,
    pub slice: SliceSource,
    pub args: Arc<[u8]>,
    pub assets: Vec<Arc<[u8]>>,
    pub limits: Limits,
    pub timeout_ms: Option<u64>,
    /// Number of runs, one after the other.
    pub runs: u32,
    /// The window in which checkpoints are taken; `None` takes none.
    pub window: Option<TraceWindow>,
    /// The claim that each run is checked against. No run starts on another slice, and no run
    /// continues beyond the claim.
    pub claimed: Option<(Blob, Claimed)>,
    /// Whether the answer contains the whole trace, or only its digest.
    pub tells_trace: bool,
}

/// The source of the child's slice.
#[derive(Clone)]
pub enum SliceSource {
    File(PathBuf),
    Bytes(Arc<[u8]>),
}

#[derive(Serialize, Deserialize)]
struct Header {
    engine: String,
    limits: Limits,
    timeout_ms: Option<u64>,
    runs: u32,
    window: Option<TraceWindow>,
    claimed: Option<(Blob, Claimed)>,
    tells_trace: bool,
    slice_is_file: bool,
    /// Lengths of the following blobs: module, slice (or its path), arguments, assets.
    blobs: Vec<u64>,
}

/// The result of a run.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum EngineResult {
    Found(Box<EngineRun>),
    /// The run went beyond its claim, and was stopped there.
    Beyond(ClaimedAmount),
    /// The slice is not the claimed one, and nothing was run.
    OtherSlice(Blob),
    /// The engine or the host failed.
    Failed {
        code: String,
        message: String,
    },
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct EngineRun {
    pub input: Blob,
    outcome: String,
    failure: Option<i32>,
    pub proof: Option<Digest>,
    pub output: Blob,
    pub gas: u64,
    pub memory_bytes: u64,
    pub duration_us: u64,
    /// Digest of all checkpoints and of the final memory, if the run was traced.
    pub trace: Option<Digest>,
    pub checkpoints: Vec<Checkpoint>,
    /// See [`crate::sandbox::Trace`].
    pub kept_every: u64,
    pub calls: Vec<TracedCall>,
    /// Counters for a profile; see [`crate::sandbox::Trace`].
    pub host: BTreeMap<String, (u64, u64)>,
    pub counters: Vec<u64>,
    /// Number of memory bytes that follow.
    memory: Option<u64>,
}

impl EngineRun {
    /// Creates the answer for a run of `input`, with the whole trace or only its digest. The second
    /// value is the memory, if it was traced.
    pub fn new(input: Blob, execution: Execution, duration_us: u64, tells_trace: bool) -> (Self, Option<Vec<u8>>) {
        let Execution { outcome, proof, output, usage, trace, .. } = execution;
        let trace = trace.unwrap_or_default();
        let (code, failure) = outcome.code();
        let digest = trace.digest;
        let told = if tells_trace { trace } else { Trace::default() };
        let Trace { checkpoints, kept_every, calls, memory, host, counters, digest: _, end: _ } = told;
        let found = Self {
            input,
            outcome: code.to_owned(),
            failure,
            proof,
            output: Blob { blake3: Digest::of(&output), bytes: output.len() as u64 },
            gas: usage.gas,
            memory_bytes: usage.memory_bytes,
            duration_us,
            trace: digest,
            checkpoints,
            kept_every,
            calls,
            host,
            counters,
            memory: None,
        };
        (found, memory)
    }

    /// Returns the outcome; `None` if the child sent an invalid one.
    pub fn outcome(&self) -> Option<Outcome> {
        Outcome::from_code(&self.outcome, self.failure)
    }
}

impl EngineJob {
    /// Returns the maximum gas that a run can use.
    pub fn gas_max(&self) -> u64 {
        let claimed = self.claimed.map(|(_, claimed)| claimed.gas.saturating_add(QUANTUM));
        claimed.map_or(self.limits.gas, |claimed| claimed.min(self.limits.gas))
    }

    /// Returns the maximum output bytes that a run holds in memory.
    pub fn output_bytes_max(&self) -> u64 {
        let claimed = self.claimed.map(|(_, claimed)| claimed.output_bytes);
        claimed.map_or(self.limits.output_bytes, |claimed| claimed.min(self.limits.output_bytes))
    }

    pub fn write(&self, to: &mut impl Write) -> io::Result<()> {
        let slice = match &self.slice {
            SliceSource::File(path) => path.as_os_str().as_bytes(),
            SliceSource::Bytes(bytes) => bytes,
        };
        let mut blobs: Vec<&[u8]> = vec![&self.module, slice, &self.args];
        blobs.extend(self.assets.iter().map(AsRef::as_ref));
        let header = Header {
            engine: self.engine.name().to_owned(),
            limits: self.limits,
            timeout_ms: self.timeout_ms,
            runs: self.runs,
            window: self.window,
            claimed: self.claimed,
            tells_trace: self.tells_trace,
            slice_is_file: matches!(self.slice, SliceSource::File(_)),
            blobs: blobs.iter().map(|blob| blob.len() as u64).collect(),
        };
        write_line(to, &header)?;
        blobs.iter().try_for_each(|blob| to.write_all(blob))?;
        to.flush()
    }

    pub fn read(from: &mut impl BufRead) -> io::Result<Self> {
        let header: Header = read_line(from)?;
        if header.blobs.len() > BLOBS_MAX {
            return Err(invalid("it brings too much"));
        }
        let mut blobs = Vec::with_capacity(header.blobs.len());
        for len in header.blobs {
            blobs.push(read_blob(from, len)?);
        }
        let mut blobs = blobs.into_iter();
        let mut next = || blobs.next().ok_or_else(|| invalid("it brings too little"));
        let (module, slice, args) = (next()?, next()?, next()?);
        Ok(Self {
            engine: header.engine.parse().map_err(|_| invalid("it asks for an engine that is none"))?,
            module: module.into(),
            slice: if header.slice_is_file {
                SliceSource::File(OsString::from_vec(slice).into())
            } else {
                SliceSource::Bytes(slice.into())
            },
            args: args.into(),
            assets: blobs.map(Arc::from).collect(),
            limits: header.limits,
            timeout_ms: header.timeout_ms,
            runs: header.runs,
            window: header.window,
            claimed: header.claimed,
            tells_trace: header.tells_trace,
        })
    }
}

impl EngineResult {
    pub fn write(mut self, memory: Option<&[u8]>, to: &mut impl Write) -> io::Result<()> {
        if let Self::Found(found) = &mut self {
            found.memory = memory.map(|memory| memory.len() as u64);
        }
        write_line(to, &self)?;
        to.write_all(memory.unwrap_or_default())?;
        to.flush()
    }

    /// Reads an answer, and the memory if it was requested.
    pub fn read(from: &mut impl BufRead) -> io::Result<(Self, Option<Vec<u8>>)> {
        let answer: Self = read_line(from)?;
        let memory = match &answer {
            Self::Found(found) => found.memory.map(|len| read_blob(from, len)).transpose()?,
            Self::Beyond(_) | Self::OtherSlice(_) | Self::Failed { .. } => None,
        };
        Ok((answer, memory))
    }
}

fn write_line(to: &mut impl Write, it: &impl Serialize) -> io::Result<()> {
    let mut line = serde_json::to_vec(it)?;
    line.push(b'\n');
    to.write_all(&line)
}

fn read_line<T: for<'a> Deserialize<'a>>(from: &mut impl BufRead) -> io::Result<T> {
    let mut line = Vec::new();
    from.by_ref().take(LINE_BYTES_MAX).read_until(b'\n', &mut line)?;
    if line.is_empty() {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    Ok(serde_json::from_slice(&line)?)
}

fn read_blob(from: &mut impl BufRead, len: u64) -> io::Result<Vec<u8>> {
    if len > BLOB_BYTES_MAX.max(Limits::MEMORY_BYTES_MAX) {
        return Err(invalid("it brings too much"));
    }
    let mut blob = Vec::new();
    from.by_ref().take(len).read_to_end(&mut blob)?;
    if blob.len() as u64 == len { Ok(blob) } else { Err(io::ErrorKind::UnexpectedEof.into()) }
}

fn invalid(why: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, why)
}

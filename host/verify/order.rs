//! What a child is asked to run, and what it answers. A line of JSON and then bytes, either way: lengths are read before
//! what they are the lengths of, and are held to a limit.

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
use crate::sandbox::{Beyond, Call, Checkpoint, Claimed, EngineKind, Execution, Outcome, QUANTUM, Trace, Window};

/// A line of JSON that is longer is not one of these.
const LINE_BYTES_MAX: u64 = 64 << 20;
/// What a module, arguments or assets can have, each.
const BLOB_BYTES_MAX: u64 = 1 << 30;
/// Assets, and what else comes as bytes.
const BLOBS_MAX: usize = 1_100;

/// A job on one engine.
#[derive(Clone)]
pub struct Order {
    pub engine: EngineKind,
    /// Metered.
    pub module: Arc<[u8]>,
    pub slice: Source,
    pub args: Arc<[u8]>,
    pub assets: Vec<Arc<[u8]>>,
    pub limits: Limits,
    pub timeout_ms: Option<u64>,
    /// How often it is run, one after the other.
    pub runs: u32,
    /// Where checkpoints are taken; without it, none are.
    pub window: Option<Window>,
    /// The claim that each run is checked against: on another slice none begins, and none goes on beyond it.
    pub claimed: Option<(Blob, Claimed)>,
    /// Whether all that was traced is told, or its digest alone.
    pub tells_trace: bool,
}

/// Where a child has its slice from.
#[derive(Clone)]
pub enum Source {
    File(PathBuf),
    Bytes(Arc<[u8]>),
}

#[derive(Serialize, Deserialize)]
struct Header {
    engine: String,
    limits: Limits,
    timeout_ms: Option<u64>,
    runs: u32,
    window: Option<Window>,
    claimed: Option<(Blob, Claimed)>,
    tells_trace: bool,
    slice_is_file: bool,
    /// The lengths of what follows: module, slice (or its path), arguments, assets.
    blobs: Vec<u64>,
}

/// What came of a run.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum Answer {
    Found(Box<Found>),
    /// The run went beyond the claim that it is checked against, and was ended there.
    Beyond(Beyond),
    /// The slice is not the claim's, and nothing was run.
    OtherSlice(Blob),
    /// The engine, or the host, failed.
    Failed {
        code: String,
        message: String,
    },
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Found {
    pub input: Blob,
    outcome: String,
    failure: Option<i32>,
    pub proof: Option<Digest>,
    pub output: Blob,
    pub gas: u64,
    pub memory_bytes: u64,
    pub duration_us: u64,
    /// Of all checkpoints and of what memory the run left, where it was traced.
    pub trace: Option<Digest>,
    pub checkpoints: Vec<Checkpoint>,
    /// See [`crate::sandbox::Trace`].
    pub kept_every: u64,
    pub calls: Vec<Call>,
    /// What a profile counts: see [`crate::sandbox::Trace`].
    pub host: BTreeMap<String, (u64, u64)>,
    pub counters: Vec<u64>,
    /// How many bytes of memory follow.
    memory: Option<u64>,
}

impl Found {
    /// What is told of a run of `input`; all that was traced, or its digest alone.
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

    /// `None` where the child has told what is no outcome.
    pub fn outcome(&self) -> Option<Outcome> {
        Outcome::from_code(&self.outcome, self.failure)
    }
}

impl Order {
    /// The gas that a run spends at most.
    pub fn gas_max(&self) -> u64 {
        let claimed = self.claimed.map(|(_, claimed)| claimed.gas.saturating_add(QUANTUM));
        claimed.map_or(self.limits.gas, |claimed| claimed.min(self.limits.gas))
    }

    /// The output that a run is held in memory with at most.
    pub fn output_bytes_max(&self) -> u64 {
        let claimed = self.claimed.map(|(_, claimed)| claimed.output_bytes);
        claimed.map_or(self.limits.output_bytes, |claimed| claimed.min(self.limits.output_bytes))
    }

    pub fn write(&self, to: &mut impl Write) -> io::Result<()> {
        let slice = match &self.slice {
            Source::File(path) => path.as_os_str().as_bytes(),
            Source::Bytes(bytes) => bytes,
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
            slice_is_file: matches!(self.slice, Source::File(_)),
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
                Source::File(OsString::from_vec(slice).into())
            } else {
                Source::Bytes(slice.into())
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

impl Answer {
    pub fn write(mut self, memory: Option<&[u8]>, to: &mut impl Write) -> io::Result<()> {
        if let Self::Found(found) = &mut self {
            found.memory = memory.map(|memory| memory.len() as u64);
        }
        write_line(to, &self)?;
        to.write_all(memory.unwrap_or_default())?;
        to.flush()
    }

    /// And the memory that was asked for.
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

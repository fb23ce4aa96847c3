//! Protocol between the node and its compiler. The compiler sends a hello once it is confined. The
//! node sends one module and closes its pipe. The compiler answers in frames. All numbers are
//! little-endian.

use std::io::{self, Read, Write};

use crate::digest::Digest;
use crate::sandbox::confine::Confinement;
use crate::sandbox::gate::{GateLimits, GateReport, LIMITS, LimitName};
use crate::sandbox::text::TEXT_BYTES_MAX;

pub struct ChildHello {
    /// Settings digest of the engine that the code will be for.
    pub settings: Digest,
    pub confinement: Confinement,
}

/// The kind of answer that the node requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PrepareGoal {
    /// Native code, or a report with the reasons against it.
    Code,
    /// A report, whether the module is admitted or not.
    Report,
    /// The module with the meter in it, or a report of what stands against that: for engines to
    /// verify with.
    Metered,
    /// The same with a count of each function's gas.
    Counting,
}

pub struct CompileRequest {
    pub wanted: PrepareGoal,
    pub limits: GateLimits,
    /// A module in text or binary form.
    pub bytes: Vec<u8>,
}

/// The stage of a compiler. If it dies, the last stage it reported shows what it died of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CompileStage {
    Text,
    Gate,
    Compile,
}

/// One frame from the compiler.
pub enum ChildFrame {
    Stage(CompileStage),
    /// The binary form of a text module.
    Binary(Vec<u8>),
    /// The first rule that the module breaks. The full report follows, unless the compiler dies
    /// while writing it.
    Refused(Box<GateReport>),
    Report(Box<GateReport>),
    Code(Vec<u8>),
    /// Module with the meter in it.
    Metered(Vec<u8>),
    /// The text is not a module; the message says why.
    NotText(String),
    /// The compiler rejects the module.
    NotCompilable(String),
}

/// Maximum frames in one answer; more are a protocol error.
pub const FRAMES_MAX: usize = 16;
/// Upper bounds of single messages.
const MESSAGE_BYTES_MAX: u64 = 64 << 10;
const REPORT_BYTES_MAX: u64 = 8 << 20;
/// A count of each function's gas comes on top of what the gate bounds.
const METERED_BYTES_MAX: u64 = 2 * LimitName::MeteredBytes.limit().highest;

/// Returns the largest size of a request, and of the binary form of a text.
fn source_bytes_max() -> u64 {
    LimitName::ModuleBytes.limit().highest.max(TEXT_BYTES_MAX)
}

pub fn write_hello(to: &mut impl Write, hello: &ChildHello) -> io::Result<()> {
    to.write_all(hello.settings.as_bytes())?;
    to.write_all(&[hello.confinement.to_byte()])?;
    to.flush()
}

pub fn read_hello(from: &mut impl Read) -> io::Result<ChildHello> {
    let (mut settings, mut confinement) = ([0; 32], [0; 1]);
    from.read_exact(&mut settings)?;
    from.read_exact(&mut confinement)?;
    Ok(ChildHello { settings: settings.into(), confinement: Confinement::from_byte(confinement[0]) })
}

pub fn write_request(to: &mut impl Write, wanted: PrepareGoal, limits: &GateLimits, bytes: &[u8]) -> io::Result<()> {
    to.write_all(&[wanted as u8])?;
    for limit in LIMITS {
        to.write_all(&limits.of(limit.name).to_le_bytes())?;
    }
    to.write_all(&(bytes.len() as u64).to_le_bytes())?;
    to.write_all(bytes)
}

pub fn read_request(from: &mut impl Read) -> io::Result<CompileRequest> {
    let wanted = match read_byte(from)? {
        0 => PrepareGoal::Code,
        1 => PrepareGoal::Report,
        2 => PrepareGoal::Metered,
        3 => PrepareGoal::Counting,
        _ => return Err(io::ErrorKind::InvalidData.into()),
    };
    let mut limits = GateLimits::NONE;
    for limit in LIMITS {
        let mut value = [0; 8];
        from.read_exact(&mut value)?;
        limits = limits.with(limit.name, u64::from_le_bytes(value));
    }
    Ok(CompileRequest { wanted, limits, bytes: read_bytes(from, source_bytes_max())? })
}

pub fn write_frame(to: &mut impl Write, frame: &ChildFrame) -> io::Result<()> {
    let report;
    let (tag, bytes): (u8, &[u8]) = match frame {
        ChildFrame::Stage(stage) => (0, &[*stage as u8]),
        ChildFrame::Binary(bytes) => (1, bytes),
        ChildFrame::Refused(refused) => {
            report = serde_json::to_vec(refused)?;
            (2, &report)
        }
        ChildFrame::Report(whole) => {
            report = serde_json::to_vec(whole)?;
            (3, &report)
        }
        ChildFrame::Code(code) => (4, code),
        ChildFrame::NotText(message) => (5, message.as_bytes()),
        ChildFrame::NotCompilable(message) => (6, message.as_bytes()),
        ChildFrame::Metered(metered) => (7, metered),
    };
    to.write_all(&[tag])?;
    to.write_all(&(bytes.len() as u64).to_le_bytes())?;
    to.write_all(bytes)?;
    to.flush()
}

pub fn read_frame(from: &mut impl Read, code_bytes_max: u64) -> io::Result<ChildFrame> {
    match read_byte(from)? {
        0 => match read_bytes(from, 1)?[..] {
            [0] => Ok(ChildFrame::Stage(CompileStage::Text)),
            [1] => Ok(ChildFrame::Stage(CompileStage::Gate)),
            [2] => Ok(ChildFrame::Stage(CompileStage::Compile)),
            _ => Err(io::ErrorKind::InvalidData.into()),
        },
        1 => Ok(ChildFrame::Binary(read_bytes(from, source_bytes_max())?)),
        2 => Ok(ChildFrame::Refused(read_report(from)?)),
        3 => Ok(ChildFrame::Report(read_report(from)?)),
        4 => Ok(ChildFrame::Code(read_bytes(from, code_bytes_max)?)),
        5 => Ok(ChildFrame::NotText(read_message(from)?)),
        6 => Ok(ChildFrame::NotCompilable(read_message(from)?)),
        7 => Ok(ChildFrame::Metered(read_bytes(from, METERED_BYTES_MAX)?)),
        _ => Err(io::ErrorKind::InvalidData.into()),
    }
}

fn read_report(from: &mut impl Read) -> io::Result<Box<GateReport>> {
    Ok(serde_json::from_slice(&read_bytes(from, REPORT_BYTES_MAX)?)?)
}

fn read_message(from: &mut impl Read) -> io::Result<String> {
    Ok(String::from_utf8_lossy(&read_bytes(from, MESSAGE_BYTES_MAX)?).into_owned())
}

fn read_byte(from: &mut impl Read) -> io::Result<u8> {
    let mut byte = [0; 1];
    from.read_exact(&mut byte)?;
    Ok(byte[0])
}

fn read_bytes(from: &mut impl Read, bytes_max: u64) -> io::Result<Vec<u8>> {
    let mut len = [0; 8];
    from.read_exact(&mut len)?;
    let len = u64::from_le_bytes(len);
    if len > bytes_max {
        return Err(io::Error::new(io::ErrorKind::InvalidData, format!("{len} bytes, where {bytes_max} are the most")));
    }
    // Memory grows as bytes arrive, not by the announced length.
    let mut bytes = Vec::new();
    from.take(len).read_to_end(&mut bytes)?;
    if bytes.len() as u64 == len { Ok(bytes) } else { Err(io::ErrorKind::UnexpectedEof.into()) }
}

//! What the node and its compiler say to each other: the compiler says hello once it is confined, the node sends one
//! module and closes, the compiler sends what came of it. All numbers are little-endian.

use std::io::{self, Read, Write};

use crate::digest::Digest;
use crate::sandbox::confine::Confinement;

pub struct Hello {
    /// Of the engine that the code will be for.
    pub settings: Digest,
    pub confinement: Confinement,
}

pub enum Reply {
    Code(Vec<u8>),
    /// The compiler's verdict on the module.
    Refused(String),
}

const CODE: u8 = 0;
const REFUSED: u8 = 1;

/// A compiler's error message that is longer is not one.
const MESSAGE_BYTES_MAX: u64 = 64 << 10;

pub fn write_hello(to: &mut impl Write, hello: &Hello) -> io::Result<()> {
    to.write_all(hello.settings.as_bytes())?;
    to.write_all(&[hello.confinement.to_byte()])?;
    to.flush()
}

pub fn read_hello(from: &mut impl Read) -> io::Result<Hello> {
    let (mut settings, mut confinement) = ([0; 32], [0; 1]);
    from.read_exact(&mut settings)?;
    from.read_exact(&mut confinement)?;
    Ok(Hello { settings: settings.into(), confinement: Confinement::from_byte(confinement[0]) })
}

pub fn write_request(to: &mut impl Write, wasm: &[u8]) -> io::Result<()> {
    to.write_all(&(wasm.len() as u64).to_le_bytes())?;
    to.write_all(wasm)
}

pub fn read_request(from: &mut impl Read, bytes_max: u64) -> io::Result<Vec<u8>> {
    read_bytes(from, bytes_max)
}

pub fn write_reply(to: &mut impl Write, reply: &Reply) -> io::Result<()> {
    let (status, bytes) = match reply {
        Reply::Code(code) => (CODE, code.as_slice()),
        Reply::Refused(message) => (REFUSED, message.as_bytes()),
    };
    to.write_all(&[status])?;
    to.write_all(&(bytes.len() as u64).to_le_bytes())?;
    to.write_all(bytes)?;
    to.flush()
}

pub fn read_reply(from: &mut impl Read, code_bytes_max: u64) -> io::Result<Reply> {
    let mut status = [0; 1];
    from.read_exact(&mut status)?;
    match status[0] {
        CODE => read_bytes(from, code_bytes_max).map(Reply::Code),
        REFUSED => {
            let message = read_bytes(from, MESSAGE_BYTES_MAX)?;
            Ok(Reply::Refused(String::from_utf8_lossy(&message).into_owned()))
        }
        _ => Err(io::ErrorKind::InvalidData.into()),
    }
}

fn read_bytes(from: &mut impl Read, bytes_max: u64) -> io::Result<Vec<u8>> {
    let mut len = [0; 8];
    from.read_exact(&mut len)?;
    let len = u64::from_le_bytes(len);
    if len > bytes_max {
        return Err(io::Error::new(io::ErrorKind::InvalidData, format!("{len} bytes, where {bytes_max} are the most")));
    }
    let mut bytes = Vec::with_capacity(len as usize);
    from.take(len).read_to_end(&mut bytes)?;
    if bytes.len() as u64 == len { Ok(bytes) } else { Err(io::ErrorKind::UnexpectedEof.into()) }
}

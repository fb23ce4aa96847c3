//! Client connection that sends one request at a time, and uses as little of the cores as possible.

use std::net::SocketAddr;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

pub struct Client {
    stream: TcpStream,
    buffer: Vec<u8>,
    /// Lines of the head that each request has, each with its end.
    headers: String,
}

impl Client {
    pub async fn connect(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).await.unwrap();
        stream.set_nodelay(true).unwrap();
        Self { stream, buffer: Vec::new(), headers: String::new() }
    }

    /// Sends a request. Returns the status when the whole answer has arrived.
    pub async fn ask(&mut self, line: &str, body: &[u8]) -> u16 {
        self.try_ask(line, body).await.expect("the node has closed")
    }

    /// Sends a request like [`Client::ask`]; `None` if the node has closed the connection. `line`
    /// may have lines of the head behind it.
    pub async fn try_ask(&mut self, line: &str, body: &[u8]) -> Option<u16> {
        let line = if line.contains("HTTP/1.1") { line.to_owned() } else { format!("{line} HTTP/1.1") };
        let head = format!("{line}\r\nhost: localhost\r\n{}content-length: {}\r\n\r\n", self.headers, body.len());
        self.buffer.clear();
        self.stream.write_all(&[head.as_bytes(), body].concat()).await.ok()?;
        loop {
            if self.stream.read_buf(&mut self.buffer).await.ok()? == 0 {
                return None;
            }
            let Some(end) = self.head_bytes() else { continue };
            let length: usize = self.header("content-length").map_or(0, |length| length.parse().unwrap());
            if self.buffer.len() >= end + length {
                let head = std::str::from_utf8(&self.buffer[..end]).unwrap();
                return head.split(' ').nth(1).unwrap().parse().ok();
            }
        }
    }

    fn head_bytes(&self) -> Option<usize> {
        Some(self.buffer.windows(4).position(|four| four == b"\r\n\r\n")? + 4)
    }
}

impl Client {
    /// Adds a line to the head of each request.
    pub fn with(mut self, header: &str) -> Self {
        self.headers = format!("{}{header}\r\n", self.headers);
        self
    }

    /// Returns a header of the last answer.
    pub fn header(&self, name: &str) -> Option<String> {
        let head = std::str::from_utf8(&self.buffer[..self.head_bytes()?]).ok()?;
        let value = |line: &str| {
            let (found, value) = line.split_once(": ")?;
            found.eq_ignore_ascii_case(name).then(|| value.to_owned())
        };
        head.lines().find_map(value)
    }
}

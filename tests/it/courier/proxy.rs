//! A proxy between a carrier and its destination that injects faults.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use super::wire::Message;

/// Faults of a request.
#[derive(Clone)]
pub enum Fault {
    /// None: the request and the answer pass unchanged.
    None,
    /// The connection ends before the request is read.
    DropRequest,
    /// The node gets the request, and the connection ends before the answer.
    DropReply,
    /// The proxy answers with these bytes.
    Answer(Vec<u8>),
    /// The proxy answers with bytes that this function makes from the request.
    Forge(fn(&Message, &Forger) -> Vec<u8>),
    /// The node gets the request, and this function changes its answer.
    Change(fn(Message) -> Vec<u8>),
    /// The proxy answers with these bytes, one a second.
    Slowly(Vec<u8>),
    /// The proxy never answers.
    Silence,
}

/// Secrets that a forger may have.
pub struct Forger {
    /// The destination's own key: the worst case.
    pub destination: compute_host::key::NodeKey,
}

pub struct Proxy {
    pub address: SocketAddr,
    fault: Arc<Mutex<Fault>>,
    requests: Arc<AtomicUsize>,
}

impl Proxy {
    /// Starts a proxy in front of the node at `node`.
    pub fn before(node: SocketAddr, forger: Forger) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let fault = Arc::new(Mutex::new(Fault::None));
        let (requests, forger) = (Arc::new(AtomicUsize::new(0)), Arc::new(forger));
        let (what, count) = (fault.clone(), requests.clone());
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let (what, count, forger) = (what.clone(), count.clone(), forger.clone());
                std::thread::spawn(move || handle(stream, node, &what, &count, &forger));
            }
        });
        Self { address, fault, requests }
    }

    pub fn set(&self, fault: Fault) {
        *self.fault.lock().unwrap() = fault;
    }

    /// Returns the number of requests so far.
    pub fn requests(&self) -> usize {
        self.requests.load(Ordering::SeqCst)
    }
}

fn handle(mut stream: TcpStream, node: SocketAddr, what: &Mutex<Fault>, count: &AtomicUsize, forger: &Forger) {
    if matches!(*what.lock().unwrap(), Fault::DropRequest) {
        let mut some = [0; 10];
        if matches!(stream.read(&mut some), Ok(1..)) {
            count.fetch_add(1, Ordering::SeqCst);
        }
        return;
    }
    while let Some(request) = Message::read(&mut stream) {
        count.fetch_add(1, Ordering::SeqCst);
        let fault = what.lock().unwrap().clone();
        let answer = match fault {
            Fault::None => pass_on(node, &request).to_bytes(),
            Fault::DropRequest => return,
            Fault::DropReply => {
                pass_on(node, &request);
                return;
            }
            Fault::Answer(bytes) => bytes,
            Fault::Forge(forge) => forge(&request, forger),
            Fault::Change(change) => change(pass_on(node, &request)),
            Fault::Slowly(bytes) => {
                for byte in bytes {
                    if stream.write_all(&[byte]).is_err() {
                        return;
                    }
                    std::thread::sleep(Duration::from_secs(1));
                }
                return;
            }
            Fault::Silence => {
                // Until the other side closes the connection.
                let _ = stream.read(&mut [0]);
                return;
            }
        };
        if stream.write_all(&answer).is_err() {
            return;
        }
    }
}

fn pass_on(node: SocketAddr, request: &Message) -> Message {
    let mut stream = TcpStream::connect(node).unwrap();
    stream.write_all(&request.to_bytes()).unwrap();
    Message::read(&mut stream).unwrap()
}

/// Builds an answer with this status and body, after which the connection ends.
pub fn answer(status: &str, headers: &str, body: &[u8]) -> Vec<u8> {
    let head = format!("HTTP/1.1 {status}\r\ncontent-length: {}\r\n{headers}\r\n", body.len());
    [head.as_bytes(), body].concat()
}

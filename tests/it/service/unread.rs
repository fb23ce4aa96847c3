//! Clients that do not read the response.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;

use super::{ECHO, Service, head};
use crate::serving::{Message, PATIENCE, wait_until};

/// Outputs 16 MiB: more than the socket buffers of both sides hold.
const LONG: &str = r#"(module
    (import "compute" "output_write" (func $output_write (param i32 i32)))
    (memory (export "memory") 256)
    (func (export "run") (result i32) (call $output_write (i32.const 0) (i32.const 16777216)) (i32.const 0)))"#;
const LONG_BYTES: usize = 16 << 20;

const ASK: &str = "POST /v1/slices?module=long";
const OUTPUT: [(&str, &str); 1] = [("accept", "application/octet-stream")];

impl Service {
    /// Starts a node with this much memory for bodies, and a module with a long output.
    fn with_room(bytes: usize) -> Self {
        let service = Self::with(&format!("[serve]\nbody_memory_bytes_max = {bytes}\n"));
        assert_eq!(service.post("/v1/modules?name=long", LONG.as_bytes()).status(), 201);
        service
    }

    fn long(&self) -> Message {
        self.ask(ASK, &OUTPUT, b"")
    }

    /// Sends a request, and reads only the start of the response.
    fn unread(&self) -> TcpStream {
        let mut stream = TcpStream::connect(self.node.address).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.write_all(&head(ASK, &OUTPUT, 0)).unwrap();
        let mut start = [0; 13];
        stream.read_exact(&mut start).unwrap();
        assert_eq!(&start, b"HTTP/1.1 200 ");
        stream
    }
}

#[test]
fn answers_that_nobody_reads_have_their_room_and_lose_it() {
    let service = Service::with_room(2 * LONG_BYTES + (LONG_BYTES >> 1));
    let whole = service.long();
    assert_eq!((whole.status(), whole.body.len()), (200, LONG_BYTES));

    let [first, second] = [service.unread(), service.unread()];
    let answer = service.long();
    assert_eq!(answer.said(), (429, "busy".to_owned()));
    assert_eq!(answer.headers["retry-after"], "1");
    assert_eq!(service.get("/v1/modules").status(), 200, "there is room for what is short");
    drop(first);
    wait_until("its room", || service.long().status() == 200);

    let third = service.unread();
    assert_eq!(service.long().status(), 429);
    // Neither client closes its connection, and the node does not wait for ever.
    wait_until("the older one to be given up", || service.long().status() == 200);
    let mut rest = Vec::new();
    let ended = { second }.read_to_end(&mut rest);
    assert!(ended.is_err() || rest.len() < LONG_BYTES, "it was not kept");
    drop(third);
}

#[test]
fn an_output_that_is_longer_than_all_the_room_is_answered() {
    let service = Service::with_room(1 << 20);
    let answer = service.ask(ASK, &OUTPUT, &[0; 500_000]);
    assert_eq!((answer.status(), answer.body.len()), (200, LONG_BYTES));
}

#[test]
fn a_module_that_is_read_takes_room_too() {
    let service = Service::with_room(2 * LONG_BYTES + (1 << 20));
    let wasm =
        ECHO.replace("(memory (export \"memory\") 1)", "(memory (export \"memory\") 32) (data (i32.const 0) \"DATA\")");
    let wasm = wasm.replace("DATA", &"a".repeat(2 << 20));
    assert_eq!(service.post("/v1/modules?name=large", wasm.as_bytes()).status(), 201);
    let read = || service.ask("GET /v1/modules/large", &[("accept", "application/wasm")], b"").status();
    assert_eq!(read(), 200);
    let unread = [service.unread(), service.unread()];
    assert_eq!(read(), 429);
    drop(unread);
    wait_until("its room", || read() == 200);
}

//! Native code in memory from which it can run without a copy.
//!
//! wasmtime would copy the code to its own memory. The copy costs a page fault per 4 KiB: 1.3 ms
//! for the code of a 1 MiB module. With 2 MiB pages, 0.1 ms remain (`benches/modules.rs`).

use std::io;
use std::ptr::NonNull;
use std::sync::Arc;

use memmap2::{Advice, Mmap, MmapMut};
use rustix::mm::{MprotectFlags, mprotect};
use wasmtime::{CustomCodeMemory, Engine, Module};

/// Page size that the kernel can provide if asked for it.
const HUGE_PAGE_BYTES: usize = 2 << 20;

/// Other processors need an instruction cache flush for new code. wasmtime does that only for its
/// own memory.
pub const IS_PUBLISHED_HERE: bool = cfg!(target_arch = "x86_64");

/// Bytes of native code that no module uses yet.
pub struct NativeCode {
    map: MmapMut,
    len: usize,
}

impl NativeCode {
    /// Allocates `len` zero bytes.
    pub fn with_room(len: usize) -> io::Result<Self> {
        if len < HUGE_PAGE_BYTES / 2 {
            return Ok(Self { map: MmapMut::map_anon(len.max(1))?, len });
        }
        let map = MmapMut::map_anon(len.next_multiple_of(HUGE_PAGE_BYTES))?;
        // Ignored: a kernel without huge pages uses small ones.
        let _ = map.advise(Advice::HugePage);
        Ok(Self { map, len })
    }

    pub fn of(code: &[u8]) -> io::Result<Self> {
        let mut native = Self::with_room(code.len())?;
        native.bytes_mut().copy_from_slice(code);
        Ok(native)
    }

    pub fn bytes(&self) -> &[u8] {
        &self.map[..self.len]
    }

    pub fn bytes_mut(&mut self) -> &mut [u8] {
        &mut self.map[..self.len]
    }

    /// Makes a module from the code. Drop the module before the returned memory.
    ///
    /// # Safety
    ///
    /// Same as for [`Module::deserialize`]: a compiler of this node must have produced the bytes
    /// for the settings of `engine`.
    pub unsafe fn load(self, engine: &Engine) -> wasmtime::Result<(Module, Arc<Mmap>)> {
        let (map, len) = (Arc::new(self.map.make_read_only()?), self.len);
        let code = NonNull::from(&map[..len]);
        // SAFETY: the caller vouches for the bytes. The bytes are read-only, and do not move while
        // `map` lives.
        let module = unsafe {
            if IS_PUBLISHED_HERE {
                Module::deserialize_raw(engine, code)
            } else {
                Module::deserialize(engine, &map[..len])
            }
        };
        Ok((module?, map))
    }
}

/// Makes the pages with a module's instructions executable, and no other pages.
pub struct CodePublisher;

impl CustomCodeMemory for CodePublisher {
    fn required_alignment(&self) -> usize {
        rustix::param::page_size()
    }

    fn publish_executable(&self, start: *const u8, len: usize) -> wasmtime::Result<()> {
        protect(start, len, MprotectFlags::READ | MprotectFlags::EXEC)
    }

    fn unpublish_executable(&self, start: *const u8, len: usize) -> wasmtime::Result<()> {
        protect(start, len, MprotectFlags::READ)
    }
}

fn protect(start: *const u8, len: usize, flags: MprotectFlags) -> wasmtime::Result<()> {
    // SAFETY: wasmtime passes the pages of a module's instructions, which nobody writes to, neither
    // before nor after.
    unsafe { mprotect(start.cast_mut().cast(), len, flags) }?;
    Ok(())
}

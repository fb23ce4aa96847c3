//! Native code, in memory that it can be run from without being copied.
//!
//! wasmtime would copy it to memory of its own: a page fault for each 4 KiB, 1.3 ms for the code of a module of 1 MiB,
//! of which 2 MiB pages leave 0.1 ms (`benches/modules.rs`).

use std::io;
use std::ptr::NonNull;
use std::sync::Arc;

use memmap2::{Advice, Mmap, MmapMut};
use rustix::mm::{MprotectFlags, mprotect};
use wasmtime::{CustomCodeMemory, Engine, Module};

/// What the kernel can give in one piece, where it is asked for it.
const HUGE_PAGE_BYTES: usize = 2 << 20;

/// Elsewhere, caches of instructions have to be told of new code; wasmtime does that for memory of its own.
pub const IS_PUBLISHED_HERE: bool = cfg!(target_arch = "x86_64");

/// Bytes of native code that are not yet anybody's module.
pub struct NativeCode {
    map: MmapMut,
    len: usize,
}

impl NativeCode {
    /// Room for `len` bytes, which are zeros.
    pub fn with_room(len: usize) -> io::Result<Self> {
        if len < HUGE_PAGE_BYTES / 2 {
            return Ok(Self { map: MmapMut::map_anon(len.max(1))?, len });
        }
        let map = MmapMut::map_anon(len.next_multiple_of(HUGE_PAGE_BYTES))?;
        // A kernel that has none gives small ones.
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

    /// Makes a module of it, which must be dropped before the memory that comes with it.
    ///
    /// # Safety
    ///
    /// As for [`Module::deserialize`]: the bytes must be what a compiler of this node gave for `engine`'s settings.
    pub unsafe fn load(self, engine: &Engine) -> wasmtime::Result<(Module, Arc<Mmap>)> {
        let (map, len) = (Arc::new(self.map.make_read_only()?), self.len);
        let code = NonNull::from(&map[..len]);
        // SAFETY: the bytes are the caller's promise. They are read-only, and stay where they are for as long as `map`
        // does.
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

/// Makes those pages executable that hold a module's instructions, and no others.
pub struct Publisher;

impl CustomCodeMemory for Publisher {
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
    // SAFETY: wasmtime calls this with the pages of a module's instructions, which nobody writes to, neither before nor
    // after.
    unsafe { mprotect(start.cast_mut().cast(), len, flags) }?;
    Ok(())
}

//! Shared resources of this node that requests use. Each is a pool with a share for each token.

use super::blocking::blocking;
use super::problem::HttpProblem;
use crate::config::Serve;
use crate::shares::{Pool, Share, ShareRefused, TIMES_WHAT_IS_FREE};
use crate::slice::Tenant;
use crate::turns::{Turn, Turns};

/// Maximum number of requests whose slices run or wait for a thread.
const RUNS_MAX: u64 = 4_096;

/// Maximum number of event streams. Each is also a connection, and uses some 10 KiB of memory.
const EVENT_STREAMS_MAX: u64 = 8_192;

/// Maximum number of requests that read or write a disk at once. Concurrent writers share one sync,
/// and a few are enough to keep a disk busy. Each may also keep a core busy, for which others would
/// wait.
const DISK_TURNS_MAX: usize = 4;

/// Additional requests at a disk, for tokens that have none there.
const DISK_TURNS_SPARE: usize = 8;

/// Maximum number of requests that wait for a disk turn.
const DISK_WAITING_MAX: u64 = 8_192;

/// The pools of a node that serves.
#[derive(Clone)]
pub struct ServicePools {
    /// Bytes of bodies in memory, of requests and of responses.
    pub memory: Pool<Tenant>,
    /// Bytes of long slices on disk while they are in use.
    pub spool: Pool<Tenant>,
    pub runs: Pool<Tenant>,
    pub event_streams: Pool<Tenant>,
    /// Turns of the requests that read or write a disk.
    disk: Turns<Tenant>,
    /// Connections whose owner a request has identified.
    pub connections: Pool<Tenant>,
}

impl ServicePools {
    pub fn new(serve: &Serve) -> Self {
        Self {
            memory: Pool::new(serve.body_memory_bytes_max),
            spool: Pool::new(serve.spool_bytes_max),
            runs: Pool::new(RUNS_MAX),
            event_streams: Pool::new(EVENT_STREAMS_MAX),
            disk: Turns::new(DISK_TURNS_MAX, DISK_TURNS_SPARE, DISK_WAITING_MAX),
            connections: Pool::new(serve.connections_max),
        }
    }

    /// Runs `work`, which may wait for a disk, on a thread of its own, at the turn of `owner`. A
    /// flood of one token's requests delays no other token.
    pub async fn on_disk<T: Send + 'static>(
        &self,
        owner: &Tenant,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, HttpProblem> {
        let turn = self.disk_turn(owner).await?;
        blocking(move || {
            let done = work();
            drop(turn);
            done
        })
        .await
    }

    /// Waits for a turn of `owner`, for work that does not occupy a thread all the time.
    pub async fn disk_turn(&self, owner: &Tenant) -> Result<Turn<Tenant>, HttpProblem> {
        Ok(self.disk.wait(owner).await.map_err(|_| ShareRefused)?)
    }

    /// Returns the memory account of a new request, with no bytes yet.
    pub fn memory_of(&self, owner: &Tenant) -> Result<RequestMemory, HttpProblem> {
        let most = most(&self.memory, owner);
        Ok(RequestMemory { share: Some((self.memory.take(owner, 0)?, most)), held: 0 })
    }

    /// Refuses a long slice that does not fit on the disk, now or ever.
    pub fn check_spool(&self, owner: &Tenant, bytes: u64) -> Result<(), HttpProblem> {
        let most = most(&self.spool, owner);
        if bytes > most {
            return Err(HttpProblem::too_large(most));
        }
        drop(self.spool.take(owner, bytes)?);
        Ok(())
    }

    /// Reserves memory for a response of `bytes` bytes. The response to a request that was carried
    /// out must not fail for ever. So a response longer than half of the maximum of `owner`
    /// reserves that half.
    pub fn answer(&self, owner: &Tenant, bytes: u64) -> Result<Share<Tenant>, HttpProblem> {
        Ok(self.memory.take(owner, bytes.min(most(&self.memory, owner) / 2))?)
    }
}

/// Returns the most that `owner` can hold of a pool in which no other owner holds anything.
pub fn most(pool: &Pool<Tenant>, owner: &Tenant) -> u64 {
    use crate::shares::Owner as _;
    let capacity = pool.capacity();
    if owner.is_bounded() { capacity - capacity.div_ceil(TIMES_WHAT_IS_FREE + 1) } else { capacity }
}

/// Memory that one request holds. It grows in steps as the request's bytes arrive.
#[derive(Default)]
pub struct RequestMemory {
    /// The share, and the most that it can ever be. `None` where the bytes are counted elsewhere.
    share: Option<(Share<Tenant>, u64)>,
    held: u64,
}

impl RequestMemory {
    /// Reserves `bytes` more.
    pub fn hold(&mut self, bytes: usize) -> Result<(), HttpProblem> {
        let held = self.held.saturating_add(bytes as u64);
        if let Some((share, most)) = &mut self.share {
            if held > *most {
                let detail = format!(
                    "the request brings more than the {most} bytes that this node holds in memory for one token; its owner can \
                     raise `serve.body_memory_bytes_max`"
                );
                return Err(HttpProblem::new(413, "too_large", detail));
            }
            share.cover(held)?;
        }
        self.held = held;
        Ok(())
    }

    /// Marks `bytes` as no longer held. They stay reserved for the next call of
    /// [`RequestMemory::hold`], until [`RequestMemory::trim`].
    pub const fn let_go(&mut self, bytes: usize) {
        self.held = self.held.saturating_sub(bytes as u64);
    }

    /// Releases the memory that is reserved and not held.
    pub fn trim(&mut self) {
        if let Some((share, _)) = &mut self.share {
            share.shrink_to(self.held);
        }
    }
}

impl From<ShareRefused> for HttpProblem {
    fn from(_: ShareRefused) -> Self {
        let detail =
            "this node is at work on as much as it has room for, of this token or of all; end some of it, or ask again";
        Self::new(429, "busy", detail).after(Some(Self::BUSY_RETRY))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shares::STEP_BYTES;

    fn rooms(bytes: u64) -> ServicePools {
        ServicePools::new(&Serve { body_memory_bytes_max: bytes, ..Serve::default() })
    }

    #[test]
    fn memory_is_taken_as_bytes_arrive_and_freed_when_they_go() {
        let (rooms, alice) = (rooms(10 * STEP_BYTES), "alice".parse().unwrap());
        let mut memory = rooms.memory_of(&alice).unwrap();
        assert_eq!(rooms.memory.taken(), 0, "a request that has brought nothing holds nothing");
        memory.hold(1).unwrap();
        memory.hold(9 * STEP_BYTES as usize - 1).unwrap();
        assert_eq!(memory.hold(1).unwrap_err().code(), "too_large");
        assert_eq!(rooms.memory_of(&alice).unwrap().hold(1).unwrap_err().code(), "busy");
        assert_eq!(rooms.memory.of(&alice), 9 * STEP_BYTES);
        memory.let_go(9 * STEP_BYTES as usize - 1);
        memory.hold(100).unwrap();
        memory.trim();
        assert_eq!(rooms.memory.of(&alice), 101);
        drop(memory);
        assert_eq!(rooms.memory.taken(), 0);
    }

    #[test]
    fn an_answer_of_any_length_has_room_where_nobody_holds_more_than_a_third() {
        let (rooms, alice, bob): (_, Tenant, Tenant) = (rooms(1_000), "alice".parse().unwrap(), "bob".parse().unwrap());
        assert_eq!((most(&rooms.memory, &alice), most(&rooms.memory, &Tenant::OWNER)), (900, 1_000));
        let others = rooms.memory.take(&bob, 333).unwrap();
        let answer = rooms.answer(&alice, u64::MAX).unwrap();
        assert_eq!(answer.amount(), 450);
        assert!(rooms.answer(&alice, u64::MAX).is_err(), "one at a time");
        drop((others, answer));
        assert_eq!(rooms.memory.taken(), 0);
    }
}

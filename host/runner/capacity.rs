//! The runner's share of the machine.

/// Limits on the runner's use of the machine.
#[derive(Clone, Copy, Debug)]
pub struct Capacity {
    /// Number of guests at once. Up to the number of cores, also the number of threads that hash
    /// long slices.
    pub jobs: usize,
    /// Additional guests for scopes that run nothing. So one scope's long runs do not delay the
    /// first run of another.
    pub spare_jobs: usize,
    /// Maximum results in memory, by number and by bytes.
    pub results_max: u64,
    pub results_bytes_max: u64,
}

impl Capacity {
    /// Minimum of spare jobs if several scopes send requests.
    const SPARE_JOBS_MIN: usize = 4;

    /// Returns this capacity for several scopes, with as many spare jobs as jobs, and at least
    /// `SPARE_JOBS_MIN`.
    #[must_use]
    pub fn for_several(self) -> Self {
        Self { spare_jobs: self.jobs.max(Self::SPARE_JOBS_MIN), ..self }
    }

    /// About one KiB each, for results without output.
    pub const RESULTS_MAX: u64 = 100_000;
    pub const RESULTS_BYTES_MAX: u64 = 128 << 20;

    /// Returns the number of guests for which the sandbox needs threads and address space.
    pub fn guests(&self) -> u32 {
        u32::try_from(self.jobs.max(1).saturating_add(self.spare_jobs)).unwrap_or(u32::MAX)
    }

    /// Returns as many jobs as the system reports cores.
    pub fn of_this_machine() -> Self {
        Self {
            jobs: cores(),
            spare_jobs: 0,
            results_max: Self::RESULTS_MAX,
            results_bytes_max: Self::RESULTS_BYTES_MAX,
        }
    }
}

/// Returns the number of cores that this process may use.
pub fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

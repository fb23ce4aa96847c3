//! Common code of the kernels. Each kernel is a binary in `src/bin/`: it makes its data, works on
//! it, and outputs a checksum. So no work can be omitted, and two runs can be compared.

/// Exports the kernel's entry: `run!(function)`. The function returns the bytes of its checksum.
#[macro_export]
macro_rules! run {
    ($function:path) => {
        #[unsafe(no_mangle)]
        pub extern "C" fn run() -> i32 {
            $crate::output(&$function());
            0
        }
    };
}

/// Appends to the output.
pub fn output(bytes: &[u8]) {
    // SAFETY: the host reads `bytes`.
    unsafe { output_write(bytes.as_ptr(), bytes.len()) }
}

#[cfg(target_arch = "wasm32")]
#[link(wasm_import_module = "compute")]
unsafe extern "C" {
    fn output_write(ptr: *const u8, len: usize);
}

/// Does nothing: without a host, the kernels can only be checked and linted.
#[cfg(not(target_arch = "wasm32"))]
unsafe fn output_write(_ptr: *const u8, _len: usize) {}

/// Pseudorandom numbers that are the same in every run: xorshift64*, Vigna 2016.
pub struct Noise(u64);

impl Noise {
    /// # Panics
    ///
    /// For 0, after which only zeros would follow.
    pub fn new(seed: u64) -> Self {
        assert_ne!(seed, 0, "zeros are no noise");
        Self(seed)
    }

    pub fn next_u64(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    /// Returns a number below `bound`: Lemire 2019, without its correction, which is negligible.
    pub fn below(&mut self, bound: u32) -> u32 {
        (((self.next_u64() >> 32) * u64::from(bound)) >> 32) as u32
    }

    /// Returns a number from 0 up to 1, without 1.
    pub fn fraction(&mut self) -> f64 {
        (self.next_u64() >> 11) as f64 / (1_u64 << 53) as f64
    }
}

/// Returns text of about `len` bytes like a log or a book: few words are frequent, many are rare.
pub fn text(noise: &mut Noise, len: usize) -> String {
    const SYLLABLES: [&str; 16] =
        ["an", "be", "cor", "da", "el", "fi", "gra", "ho", "in", "ka", "lum", "mo", "ne", "or", "pre", "stu"];
    let words: Vec<String> =
        (0..4000).map(|_| (0..=noise.below(4)).map(|_| SYLLABLES[noise.below(16) as usize]).collect()).collect();
    let mut text = String::with_capacity(len + 64);
    while text.len() < len {
        let rank = noise.fraction() * noise.fraction() * noise.fraction() * words.len() as f64;
        text.push_str(&words[rank as usize]);
        text.push_str(match noise.below(12) {
            0 => ", ",
            1 => ".\n",
            _ => " ",
        });
    }
    text
}

/// Mixes a number into a checksum, so that order counts: FNV-1a, a word at a time.
pub fn mixed(checksum: u64, value: u64) -> u64 {
    (checksum ^ value).wrapping_mul(0x100_0000_01b3)
}

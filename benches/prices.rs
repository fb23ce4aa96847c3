//! Price board: the time to record an offer and read its lane's three bands, in full windows; and
//! the time to save and load the board.

use std::hint::black_box;
use std::time::{Duration, Instant};

use compute_host::prices::{Lane, LoadResult, Offer, Price, PriceBoard, ProviderName, Settings, SharedBoard};

const WINDOWS: [u64; 3] = [100, 10_000, 100_000];

/// Number of providers, large enough that shares apply.
const PROVIDERS: usize = 40;

fn main() {
    let is_test = std::env::args().any(|argument| argument == "--test");
    println!("| window | record, and three bands: median | p99 | most | save | load | file |");
    println!("|---|---|---|---|---|---|---|");
    for window in WINDOWS {
        measure(window, if is_test { 100 } else { 200_000 });
    }
}

fn measure(window: u64, offers: usize) {
    let settings = Settings { window, ..Settings::default() };
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("price_board.bin");
    let mut made = Offers::new();
    let mut board = PriceBoard::new(&settings);
    // Fills every window, so that its blocks have their usual form.
    (0..window * 2).for_each(|_| board.record(&made.next()));
    let mut took: Vec<Duration> = (0..offers).map(|_| record_and_tell(&mut board, &made.next())).collect();
    took.sort_unstable();
    let at = |share: f64| took[((took.len() - 1) as f64 * share) as usize].as_secs_f64() * 1e6;

    let (shared, result) = SharedBoard::open(path.clone(), &settings, made.time_ms);
    assert_eq!(result, LoadResult::Fresh);
    (0..window).for_each(|_| shared.record(&made.next()));
    let begun = Instant::now();
    assert!(shared.save_if_changed().unwrap());
    let saved = begun.elapsed().as_secs_f64() * 1e3;
    let begun = Instant::now();
    let (_, result) = SharedBoard::open(path.clone(), &settings, made.time_ms);
    let loaded = begun.elapsed().as_secs_f64() * 1e3;
    assert_eq!(result, LoadResult::Loaded);
    let bytes = path.metadata().unwrap().len();
    println!(
        "| {window} | {:.2} us | {:.2} us | {:.0} us | {saved:.1} ms | {loaded:.1} ms | {bytes} bytes |",
        at(0.5),
        at(0.99),
        at(1.0)
    );
}

/// Records an offer in its lane and over all, and reads the lane's quartiles.
fn record_and_tell(board: &mut PriceBoard, offer: &Offer) -> Duration {
    let begun = Instant::now();
    board.record(offer);
    black_box(board.bands(offer.lane, &[], offer.time_ms));
    begun.elapsed()
}

/// Generator of offers without a pattern. The offers are the same in every run.
struct Offers {
    state: u64,
    providers: Vec<ProviderName>,
    time_ms: u64,
}

impl Offers {
    fn new() -> Self {
        let providers = (0..PROVIDERS).map(|n| format!("provider-{n}").parse().unwrap()).collect();
        Self { state: 1, providers, time_ms: 1_700_000_000_000 }
    }

    fn next(&mut self) -> Offer {
        // splitmix64 (Steele, Lea, Flood: "Fast splittable pseudorandom number generators", 2014).
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.state;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^= mixed >> 31;
        self.time_ms += 1;
        let provider = self.providers[(mixed % PROVIDERS as u64) as usize].clone();
        let price = Price::new(1 + (mixed >> 12) % 1_000_000).unwrap();
        Offer { price, lane: Lane::Transcode, provider, time_ms: self.time_ms }
    }
}

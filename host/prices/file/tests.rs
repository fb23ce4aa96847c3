use std::os::unix::fs::symlink;

use proptest::prelude::*;
use tempfile::TempDir;

use super::super::{AGE_MAX_MS, Offer, SharedBoard};
use super::*;
use crate::prices::commands::{PriceAnswer, PriceRequest};

const NOW_MS: u64 = 1_700_000_000_000;

const GOLDEN: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/vectors/price-board-v2.bin");

/// A directory with a board's file.
struct BoardDirectory(TempDir);

impl BoardDirectory {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn file(&self) -> BoardFile {
        BoardFile::new(self.path("price_board.bin"))
    }

    fn load(&self) -> LoadedBoard {
        self.file().load(&Settings::default(), NOW_MS)
    }

    /// Returns the names of all files in the directory.
    fn names(&self) -> Vec<String> {
        let mut names: Vec<String> =
            self.0.path().read_dir().unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }
}

fn offer(units: u64, lane: Lane, provider: &str, time_ms: u64) -> Offer {
    Offer { price: Price::new(units).unwrap(), lane, provider: provider.parse().unwrap(), time_ms }
}

/// Returns a board with offers in every kind of lane.
fn sample() -> PriceBoard {
    let mut board = PriceBoard::new(&Settings::default());
    board.record(&offer(10, Lane::Transcode, "local", NOW_MS - 5));
    board.record(&offer(Price::MAX, Lane::Module(Digest::of(b"module")), "a.b_c-d", NOW_MS - 4));
    board.record(&offer(1, Lane::All, "local", NOW_MS - 3));
    board.record(&offer(7, Lane::Inference, "9", NOW_MS));
    board
}

fn decoded(bytes: &[u8]) -> Result<PriceBoard, &'static str> {
    decode(bytes, &Settings::default(), NOW_MS).map_err(|error| match error {
        NotABoard::Damaged(_) => "damaged",
        NotABoard::ForeignVersion(_) => "foreign_version",
        NotABoard::Unreadable(_) => "unreadable",
    })
}

/// Appends a valid checksum, as a forger would.
fn sealed(mut framed: Vec<u8>) -> Vec<u8> {
    framed.extend_from_slice(Digest::in_domain(DOMAIN, &framed).as_bytes());
    framed
}

fn unsealed(bytes: &[u8]) -> Vec<u8> {
    bytes[..bytes.len() - CHECKSUM_BYTES].to_vec()
}

/// Builds a valid frame around any payload.
fn framed(payload: &[u8]) -> Vec<u8> {
    sealed([&MAGIC[..], &VERSION.to_le_bytes(), &(payload.len() as u64).to_le_bytes(), payload].concat())
}

#[test]
fn a_board_comes_back_as_it_was_saved() {
    let place = BoardDirectory::new();
    assert_eq!(place.load().result, LoadResult::Fresh);
    let bytes = encode(&sample());
    place.file().save(&bytes).unwrap();
    let mut loaded = place.load();
    assert_eq!((loaded.result.name(), encode(&loaded.board)), ("loaded", bytes));
    let history = loaded.board.history(Lane::All, 10, NOW_MS);
    assert_eq!(history.iter().map(|offer| offer.price.units()).collect::<Vec<_>>(), [10, Price::MAX, 1, 7]);
    assert_eq!(place.names(), ["price_board.bin"]);
}

/// `BLESS=1` rewrites the golden file; that is a new version of the format.
#[test]
fn the_format_is_that_of_the_golden_file() {
    let bytes = encode(&sample());
    if std::env::var_os("BLESS").is_some() {
        std::fs::write(GOLDEN, &bytes).unwrap();
    }
    assert!(std::fs::read(GOLDEN).unwrap() == bytes, "what is written is not {GOLDEN}");
    assert!(decoded(&bytes).is_ok());
}

#[test]
fn no_flipped_bit_no_part_and_nothing_longer_is_read() {
    let bytes = encode(&sample());
    for bit in 0..bytes.len() * 8 {
        let mut flipped = bytes.clone();
        flipped[bit / 8] ^= 1 << (bit % 8);
        assert_eq!(decoded(&flipped).err(), Some("damaged"), "bit {bit}");
    }
    for len in 0..bytes.len() {
        assert_eq!(decoded(&bytes[..len]).err(), Some("damaged"), "{len} bytes");
    }
    for more in [&b"\0"[..], &bytes] {
        assert_eq!(decoded(&[&bytes, more].concat()).err(), Some("damaged"));
        // The same with trailing bytes that the checksum covers.
        let sealed = sealed([&unsealed(&bytes), more].concat());
        assert_eq!(decoded(&sealed).err(), Some("damaged"));
    }
}

#[test]
fn another_version_and_forged_lengths_are_refused_though_their_checksum_fits() {
    let bytes = unsealed(&encode(&sample()));
    let with = |at: usize, forged: &[u8]| {
        let mut bytes = bytes.clone();
        bytes[at..at + forged.len()].copy_from_slice(forged);
        sealed(bytes)
    };
    assert_eq!(decoded(&with(8, &1_u16.to_le_bytes())).err(), Some("foreign_version"));
    assert_eq!(decoded(&with(8, &0_u16.to_le_bytes())).err(), Some("foreign_version"));
    for length in [0, 1, (bytes.len() - HEAD_BYTES - 1) as u64, u64::MAX] {
        assert_eq!(decoded(&with(10, &length.to_le_bytes())).err(), Some("damaged"), "{length}");
        // The number of providers.
        assert_eq!(decoded(&with(HEAD_BYTES + 8, &length.to_le_bytes())).err(), Some("damaged"), "{length}");
    }
    assert_eq!(decoded(&framed(&[])).err(), Some("damaged"));
    assert_eq!(decoded(&framed(&[0; 24])).map(|board| board.lanes.len()).ok(), Some(0), "no provider and no lane");
    assert_eq!(decoded(&framed(&[0; 25])).err(), Some("damaged"));
}

type Lanes<'a> = Vec<(&'a str, Vec<(u64, u32, u64)>)>;

#[test]
fn what_no_board_holds_is_refused_though_it_can_be_decoded() {
    let board = |providers: &[&str], lanes: Lanes<'_>| {
        let lanes: Vec<_> = lanes.into_iter().map(|(lane, offers)| (lane, ModuleStanding::Unknown, offers)).collect();
        decoded(&framed(&options().serialize(&(7_u64, providers, lanes)).unwrap()))
    };
    let offers = vec![(1, 0, 5), (2, 0, 5), (3, 0, 6)];
    assert!(board(&["a"], vec![("all", offers.clone()), ("inference", vec![])]).is_ok());
    let long = "a".repeat(65);
    for (wrong, providers, lanes) in [
        ("a price of nothing", "a", vec![("all", vec![(0, 0, 5)])]),
        ("a price beyond all", "a", vec![("all", vec![(Price::MAX + 1, 0, 5)])]),
        ("nobody's offer", "a", vec![("all", vec![(1, 1, 5)])]),
        ("times that decrease", "a", vec![("all", vec![(1, 0, 5), (1, 0, 4)])]),
        ("no lane", "a", vec![("some", offers.clone())]),
        ("one lane twice", "a", vec![("all", offers.clone()), ("all", offers.clone())]),
        ("lanes in another order", "a", vec![("inference", offers.clone()), ("transcode", offers.clone())]),
        ("no name", "A b", vec![("all", offers.clone())]),
        ("a long name", &long, vec![("all", offers.clone())]),
        ("too many", "a", vec![("all", vec![(1, 0, 5); WINDOW_MAX + 1])]),
    ] {
        assert_eq!(board(&[providers], lanes).err(), Some("damaged"), "{wrong}");
    }
    let names: Vec<String> = (0..=LANES_MAX).map(|n| Digest::of(&n.to_le_bytes()).to_string()).collect();
    let mut names: Vec<(&str, Vec<_>)> = names.iter().map(|name| (&**name, vec![(1, 0, NOW_MS)])).collect();
    names.sort_unstable();
    assert_eq!(board(&["a"], names.clone()).err(), Some("damaged"), "too many lanes");
    names.truncate(LANES_MAX);
    assert_eq!(board(&["a"], names).unwrap().lanes.len(), MODULE_LANES_MAX, "our own are not among them");
}

#[test]
fn what_is_no_board_is_kept_aside_and_the_board_starts_empty() {
    let place = BoardDirectory::new();
    let path = place.path("price_board.bin");
    let mut expected = Vec::new();
    for n in 1..=KEPT_ASIDE_MAX + 3 {
        std::fs::write(&path, format!("damage {n}")).unwrap();
        let LoadedBoard { board, result } = place.load();
        assert_eq!((result.name(), board.lanes.len()), ("damaged", 0));
        let name = format!("price_board.damaged-{}", n.min(KEPT_ASIDE_MAX));
        assert!(
            matches!(&result, LoadResult::Damaged { aside: InvalidFilePolicy::KeptAs(to), .. } if *to == place.path(&name))
        );
        assert_eq!(std::fs::read_to_string(place.path(&name)).unwrap(), format!("damage {n}"));
        expected.push(name);
        expected.dedup();
        assert_eq!(place.names(), expected);
    }
    assert_eq!(place.load().result, LoadResult::Fresh);
}

#[test]
fn whatever_is_in_its_place_the_board_starts() {
    let huge = |path: &Path| std::fs::File::create(path).and_then(|file| file.set_len(10 << 30));
    let largest = |path: &Path| std::fs::File::create(path).and_then(|file| file.set_len(FILE_BYTES_MAX as u64 + 1));
    let pipe = |path: &Path| {
        let made = std::process::Command::new("mkfifo").arg(path).status()?;
        if made.success() { Ok(()) } else { Err(io::Error::other("mkfifo failed")) }
    };
    let foreign = |path: &Path| {
        let mut bytes = unsealed(&encode(&sample()));
        bytes[8] = 9;
        std::fs::write(path, sealed(bytes))
    };
    type Make<'a> = &'a dyn Fn(&Path) -> io::Result<()>;
    let cases: [(Make<'_>, &str, &str); 7] = [
        (&|path| std::fs::create_dir_all(path.join("below")), "damaged", "it is not a regular file"),
        (&huge, "damaged", "it has 10737418240 bytes, and no board has more than"),
        (&largest, "damaged", "and no board has more than"),
        (&pipe, "damaged", "it is not a regular file"),
        (&|path| symlink(path, path), "unreadable", "too many levels of symbolic links"),
        (&foreign, "foreign_version", "has version 9, which another version of this program has written"),
        (&|path| std::fs::write(path, b""), "damaged", "it does not begin as a price board does"),
    ];
    for (make, name, why) in cases {
        let place = BoardDirectory::new();
        make(&place.path("price_board.bin")).unwrap();
        let (board, result) = SharedBoard::open(place.path("price_board.bin"), &Settings::default(), NOW_MS);
        let told = result.to_string();
        assert_eq!(result.name(), name, "{told}");
        assert!(told.to_lowercase().contains(why), "{told}");
        assert!(result.is_loss() && LoadResult::NAMES.contains(&name));
        assert_eq!(place.names(), ["price_board.damaged-1"], "{told}");
        board.record(&offer(1, Lane::All, "local", NOW_MS));
        assert!(board.save_if_changed().unwrap(), "{told}");
        assert_eq!(place.load().result, LoadResult::Loaded, "{told}");
    }
}

#[test]
fn what_cannot_be_moved_aside_is_said_and_stops_nothing() {
    let place = BoardDirectory::new();
    let path = place.path("price_board.bin");
    (1..KEPT_ASIDE_MAX).for_each(|n| std::fs::write(place.path(&format!("price_board.damaged-{n}")), b"").unwrap());
    // The last name is a directory that is not empty, which no file can replace.
    std::fs::create_dir_all(place.path(&format!("price_board.damaged-{KEPT_ASIDE_MAX}/below"))).unwrap();
    std::fs::write(&path, b"no board").unwrap();
    let (board, result) = SharedBoard::open(path.clone(), &Settings::default(), NOW_MS);
    assert!(matches!(&result, LoadResult::Damaged { aside: InvalidFilePolicy::NotMoved { .. }, .. }), "{result}");
    board.record(&offer(1, Lane::All, "local", NOW_MS));
    assert!(board.save_if_changed().unwrap());
    // If saving fails, that is an error, and the board goes on in memory.
    std::fs::remove_file(&path).unwrap();
    std::fs::create_dir(&path).unwrap();
    board.record(&offer(2, Lane::All, "local", NOW_MS));
    let error = board.save_if_changed().unwrap_err().to_string();
    assert!(error.contains("cannot save the price board to") && error.contains("`prices.file`"), "{error}");
    std::fs::remove_dir(&path).unwrap();
    assert!(board.save_if_changed().unwrap(), "it is still unsaved");
    assert!(!board.save_if_changed().unwrap(), "and now it is not");
    assert_eq!(board.bands(Lane::All, NOW_MS).samples, 2);
}

/// Acknowledged offers survive a kill at any moment: before, during and after a save.
#[test]
fn an_offer_that_was_told_outlives_the_process() {
    let place = BoardDirectory::new();
    let open = || SharedBoard::open(place.path("price_board.bin"), &Settings::default(), NOW_MS).0;
    let tell = |board: &SharedBoard, price| {
        let (price, provider) = (Price::new(price).unwrap(), "local".parse().unwrap());
        let order = PriceRequest::Offer { price, lane: Lane::Module(Digest::of(b"module")), provider };
        board.execute(order, |digest| *digest == Digest::of(b"module"), NOW_MS).unwrap();
    };
    let told = |board: &SharedBoard| {
        let order = PriceRequest::History { lane: Lane::All, last: 100 };
        let answers = board.execute(order, |_| false, NOW_MS).unwrap();
        let price = |answer| if let PriceAnswer::Offer(offer) = answer { offer.price.units() } else { 0 };
        answers.into_iter().map(price).collect::<Vec<_>>()
    };
    let board = open();
    (1..=3).for_each(|price| tell(&board, price));
    assert_eq!(told(&open()), [1, 2, 3], "nothing was saved");
    let journal = std::fs::read(place.path("price_board.journal")).unwrap();
    board.save_if_changed().unwrap();
    assert_eq!((told(&open()), std::fs::read(place.path("price_board.journal")).unwrap()), (vec![1, 2, 3], vec![]));
    // Killed before the journal was emptied.
    std::fs::write(place.path("price_board.journal"), journal).unwrap();
    let board = open();
    assert_eq!(told(&board), [1, 2, 3], "no offer counts twice");
    tell(&board, 4);
    let again = open();
    assert_eq!(told(&again), [1, 2, 3, 4]);
    assert!(again.save_if_changed().unwrap(), "what came from the journal is saved");
    assert_eq!(told(&open()), [1, 2, 3, 4]);
}

#[test]
fn the_window_that_is_set_wins_and_the_newest_are_kept() {
    let mut board = PriceBoard::new(&Settings { window: 50, ..Settings::default() });
    (1..=50).for_each(|n| board.record(&offer(n, Lane::Transcode, "local", NOW_MS)));
    let bytes = encode(&board);
    let prices = |window, now_ms| {
        let settings = Settings { window, ..Settings::default() };
        let Ok(mut board) = decode(&bytes, &settings, now_ms) else { panic!("it is sound") };
        assert_eq!(board.bands(Lane::All, &[], now_ms).window, window as usize);
        board.history(Lane::Transcode, 100, now_ms).iter().map(|offer| offer.price.units()).collect::<Vec<_>>()
    };
    assert_eq!(prices(3, NOW_MS), [48, 49, 50]);
    assert_eq!(prices(100, NOW_MS), (1..=50).collect::<Vec<_>>());
    assert!(prices(100, NOW_MS + AGE_MAX_MS + 1).is_empty());
    // The clock was set back while no process ran.
    assert_eq!(prices(3, 0), [48, 49, 50]);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn any_board_comes_back(
        window in 1_u64..80,
        offers in prop::collection::vec((1_u64..1_000, 0_usize..6, 0_usize..14, 0_u64..5_000_000), 0..300),
    ) {
        let settings = Settings { window, ..Settings::default() };
        let mut board = PriceBoard::new(&settings);
        let mut now_ms = NOW_MS;
        for (units, lane, provider, later_ms) in offers {
            now_ms += later_ms;
            let modules = [b"one", b"two", b"six"].map(|module| Lane::Module(Digest::of(module)));
            let lane = [Lane::All, Lane::Transcode, Lane::Inference].into_iter().chain(modules).nth(lane).unwrap();
            // One of them makes as many offers as eight others together.
            board.record(&offer(units, lane, &format!("p{}", provider.saturating_sub(4)), now_ms));
        }
        board.expire(now_ms);
        let bytes = encode(&board);
        let loaded = decode(&bytes, &settings, now_ms);
        prop_assert!(loaded.is_ok_and(|loaded| encode(&loaded) == bytes));
    }

    #[test]
    fn no_payload_makes_it_panic(payload in prop::collection::vec(any::<u8>(), 0..200)) {
        let _ = decoded(&framed(&payload));
    }
}

//! Price board, as its owner uses it.

use std::fs::OpenOptions;

use crate::common::{Ran, Workplace};

const BOARD: &str = "node-data/price_board.bin";

fn price(here: &Workplace, line: &str) -> Ran {
    here.run(&format!("compute price {line}"))
}

/// Records five offers by three providers, the minimum for bands.
fn offered(lane: &str) -> Workplace {
    let here = Workplace::new();
    for (units, provider) in [(118, "anna"), (120, "bob"), (125, "carol"), (120, "anna"), (131, "bob")] {
        price(&here, &format!("offer {units} --provider {provider} --lane {lane}")).output();
    }
    here
}

#[test]
fn offers_are_kept_from_one_command_to_the_next() {
    let here = Workplace::new();
    price(&here, "offer 120 --lane transcode").is(
        0,
        "120 by local in `transcode`; offers there: 1, by 1 provider\n",
        "",
    );
    let recorded = &price(&here, "offer 7 --provider anna --json").json()[0];
    assert_eq!((recorded["answer"].as_str(), recorded["price"].as_u64()), (Some("recorded"), Some(7)));
    assert_eq!(
        (&recorded["lane"], &recorded["samples"], &recorded["providers"]),
        (&"all".into(), &2.into(), &2.into())
    );
    let history = price(&here, "history").output();
    let lines: Vec<Vec<&str>> = history.lines().map(|line| line.split_whitespace().skip(1).collect()).collect();
    assert_eq!(lines, [["120", "local"], ["7", "anna"]]);
    assert_eq!(price(&here, "history --last 1 --json").json()[0]["provider"], "anna");
    assert_eq!(price(&here, "history --lane inference").output(), "");
}

#[test]
fn bands_are_told_with_what_they_stand_on() {
    let here = offered("inference");
    let bands = price(&here, "bands --lane inference --quantile p99.9 --quantile 0.1").output();
    let lines: Vec<&str> = bands.lines().collect();
    assert_eq!(lines[0], "inference: 5 offers by 3 providers");
    assert!(lines[1].starts_with("made ") && lines[1].ends_with(" ago, the last 100 count"), "{bands}");
    let table: Vec<Vec<&str>> = lines[2..].iter().map(|line| line.split_whitespace().collect()).collect();
    let expected: [&[&str]; 5] = [
        &["p25", "120"],
        &["median", "120"],
        &["p75", "125"],
        &["p99.9", "131", "(16372/125)"],
        &["p10", "119", "(594/5)"],
    ];
    assert_eq!(table, expected);
    let json = &price(&here, "bands --json --quantile p99.9").json()[0];
    assert_eq!((&json["lane"], &json["samples"], &json["insufficient"]), (&"all".into(), &5.into(), &false.into()));
    assert_eq!((&json["others"][0]["price"], &json["others"][0]["exact"]), (&131.into(), &"16372/125".into()));
}

#[test]
fn too_few_offers_are_an_answer_of_no() {
    let here = Workplace::new();
    price(&here, "offer 5").output();
    let why = "1 offer by 1 provider; it takes 5 offers by 3 providers to say more";
    let ran = price(&here, "bands");
    assert_eq!((ran.code, ran.stdout.lines().next()), (1, Some(&*format!("all: {why}"))));
    price(&here, "suggest --backlog 3").is(1, &format!("no price can be suggested for the lane `all`: {why}\n"), "");
    let ran = price(&here, "bands --lane transcode --json");
    assert_eq!((ran.code, &ran.json()[0]["insufficient"], &ran.json()[0]["median"]), (1, &true.into(), &().into()));
}

#[test]
fn a_suggestion_says_how_it_was_come_by() {
    let here = offered("transcode");
    let median = "the median of 5 offers by 3 providers, which is 120, times 1 +";
    price(&here, "suggest --lane transcode --backlog 40").is(
        0,
        &format!("168: {median} 40/100 for a backlog of 40\n"),
        "",
    );
    let json = &price(&here, "suggest --backlog 4000000 --json").json()[0];
    assert_eq!((&json["price"], &json["clamped_by"]), (&500.into(), &"four_times_p75".into()));
}

#[test]
fn what_is_no_offer_is_refused_with_the_rule() {
    let here = Workplace::new();
    let module = "0".repeat(64);
    for (line, rule) in [
        ("offer 0", "a price is a whole number of units from 1 to 9007199254740991"),
        ("offer 1.5", "a price is a whole number of units from 1 to 9007199254740991"),
        ("offer 9007199254740992", "from 1 to 9007199254740991"),
        ("offer 1 --lane word-count", "`transcode`, `inference`, or a module's digest of 64"),
        ("offer 1 --provider Anna", "begins with a letter or a digit"),
        ("bands --quantile 1.5", "from `0` to `1` with up to 9 decimals"),
        ("suggest", "--backlog <N>"),
        ("suggest --backlog 4294967296", "4294967296 is not in 0..=4294967295"),
        ("history --plot --json", "cannot be used with"),
    ] {
        let ran = price(&here, line);
        assert!(ran.code == 2 && ran.stdout.is_empty() && ran.stderr.contains(rule), "{line}: {ran:?}");
    }
    assert!(!here.path("node-data").exists(), "and nothing was made");
    let many = " --quantile p1".repeat(65);
    price(&here, &format!("bands {many}")).is(
        2,
        "",
        "error: 65 quantiles are too many to be asked for at once; ask for up to 64\n",
    );
    price(&here, &format!("offer 1 --lane {module}")).output();
}

#[test]
fn a_plot_can_be_piped() {
    let here = offered("all");
    let plot = price(&here, "history --plot").output();
    let lines: Vec<&str> = plot.lines().collect();
    assert_eq!(lines.len(), 13, "{plot}");
    assert!(lines[0].starts_with("131 ") && lines[11].starts_with("118 "), "{plot}");
    assert!(lines.iter().all(|line| line.chars().count() <= 80) && !plot.contains('\x1b'), "{plot}");
    price(&here, "history --plot --lane inference").is(
        0,
        "",
        "note: no offers count in the lane `inference`; there is nothing to plot\n",
    );
}

#[test]
fn a_damaged_board_is_kept_aside_and_said() {
    let here = offered("all");
    let path = here.path(BOARD);
    let mut bytes = std::fs::read(&path).unwrap();
    bytes[40] ^= 1;
    std::fs::write(&path, &bytes).unwrap();
    let ran = price(&here, "offer 9");
    assert_eq!((ran.code, &*ran.stdout), (0, "9 by local in `all`; offers there: 1, by 1 provider\n"));
    let warning = "warning: the price board starts empty: `node-data/price_board.bin` is damaged: its checksum does \
                   not fit its content; it is kept as `node-data/price_board.damaged-1`\n";
    assert_eq!(ran.stderr, warning);
    assert_eq!(std::fs::read(here.path("node-data/price_board.damaged-1")).unwrap(), bytes);
    price(&here, "history --json").output();
    // A directory instead of a file, and ten gigabytes of zeros.
    std::fs::remove_file(&path).unwrap();
    std::fs::create_dir(&path).unwrap();
    assert!(price(&here, "offer 9").stderr.contains("is damaged: it is not a regular file"));
    OpenOptions::new().write(true).open(&path).unwrap().set_len(10 << 30).unwrap();
    assert!(price(&here, "offer 9").stderr.contains("it has 10737418240 bytes"));
    assert_eq!(price(&here, "history --json").json().len(), 1);
}

#[test]
fn the_settings_are_those_of_the_config() {
    let here = Workplace::new();
    let set = |text: &str| here.file("node-data/config.toml", format!("[prices]\n{text}\n"));
    set("window = 2\nfile = \"prices/board.bin\"");
    (1..=3).for_each(|units| drop(price(&here, &format!("offer {units}")).output()));
    let prices = |here: &Workplace| -> Vec<u64> {
        price(here, "history --json").json().iter().map(|offer| offer["price"].as_u64().unwrap()).collect()
    };
    assert_eq!(prices(&here), [2, 3]);
    assert!(here.path("node-data/prices/board.bin").exists() && !here.path(BOARD).exists());
    set("window = 1\nfile = \"prices/board.bin\"");
    assert_eq!(prices(&here), [3], "the window that is set wins");
    set("window = 0");
    let error = "error: node-data/config.toml:2: `prices.window` is 0; it must be from 1 to 100000\n";
    price(&here, "history").is(2, "", error);
    set("file = \"state/lock\"");
    let error = "error: node-data/config.toml:2: `prices.file` is `state/lock`; its name must end in `.bin`\n";
    price(&here, "history").is(2, "", error);
}

#[test]
fn what_cannot_be_saved_is_not_told() {
    let here = Workplace::new();
    here.file("node-data/config.toml", "[prices]\nfile = \"state/lock/board.bin\"\n");
    let ran = price(&here, "offer 5");
    let error = "error: cannot save the price board to `node-data/state/lock/board.journal`: ";
    assert!(ran.code == 2 && ran.stdout.is_empty() && ran.stderr.contains(error), "{ran:?}");
    assert!(ran.stderr.starts_with("warning: the price board starts empty: "), "{ran:?}");
    assert!(here.path("node-data/state/lock").is_file());
}

/// Commands take turns, so that no offer is lost.
#[test]
fn offers_that_come_at_once_are_all_recorded() {
    let here = Workplace::new();
    price(&here, "offer 1").output();
    std::thread::scope(|scope| {
        for provider in 0..8 {
            let here = &here;
            scope.spawn(move || {
                for n in 0..4 {
                    assert_eq!(price(here, &format!("offer 5 --provider p{provider}-{n}")).code, 0);
                }
            });
        }
    });
    assert_eq!(price(&here, "history --json").json().len(), 33);
}

use super::commands::{PriceAnswer, PriceRequest, PriceRequestError, QUANTILES_MAX, RecordedOffer, execute};
use super::*;
use crate::digest::Digest;

fn board(settings: Settings) -> PriceBoard {
    PriceBoard::new(&settings)
}

fn with_window(window: u64) -> PriceBoard {
    board(Settings { window, ..Settings::default() })
}

fn offer(units: u64, lane: Lane, provider: usize, time_ms: u64) -> Offer {
    let provider = format!("p{provider}").parse().unwrap();
    Offer { price: Price::new(units).unwrap(), lane, provider, time_ms }
}

fn module(number: usize) -> Lane {
    Lane::Module(Digest::of(&number.to_le_bytes()))
}

/// Records offers of these prices in the overall lane, by three providers.
fn offered(board: &mut PriceBoard, prices: impl IntoIterator<Item = u64>) {
    prices.into_iter().enumerate().for_each(|(n, units)| board.record(&offer(units, Lane::All, n % 3, 1_000)));
}

#[test]
fn an_offer_counts_in_its_lane_and_over_all() {
    let mut board = with_window(100);
    for n in 0..6 {
        board.record(&offer(10 + n, Lane::Transcode, n as usize % 3, 1_000 + n));
        board.record(&offer(100, Lane::All, 3 + n as usize % 3, 1_000 + n));
    }
    let samples = |board: &mut PriceBoard, lane| board.bands(lane, &[], 2_000).samples;
    assert_eq!((samples(&mut board, Lane::Transcode), samples(&mut board, Lane::Inference)), (6, 0));
    assert_eq!((samples(&mut board, Lane::All), board.lanes(2_000)), (12, vec![Lane::All, Lane::Transcode]));
    let bands = board.bands(Lane::Transcode, &["p90".parse().unwrap()], 2_000);
    assert_eq!((bands.providers, bands.oldest_age_ms, bands.newest_age_ms), (3, Some(1_000), Some(995)));
    let exact = |band: Option<Band>| band.unwrap().exact.to_string();
    assert_eq!([exact(bands.p25), exact(bands.median), exact(bands.p75)], ["45/4", "25/2", "55/4"]);
    assert_eq!((bands.median.unwrap().price, bands.others[0].price), (12, 14), "12.5 goes to the even one");
    let history = board.history(Lane::Transcode, 2, 2_000);
    assert_eq!(history, [offer(14, Lane::Transcode, 1, 1_004), offer(15, Lane::Transcode, 2, 1_005)]);
    board.expire(1_000 + AGE_MAX_MS + 6);
    assert_eq!(board.lanes(1_000 + AGE_MAX_MS + 6), []);
}

#[test]
fn too_few_offers_or_providers_make_no_band() {
    for (samples, providers, insufficient) in [(4, 3, true), (5, 2, true), (5, 3, false), (1, 1, true)] {
        let mut board = with_window(100);
        (0..samples).for_each(|n| board.record(&offer(10, Lane::All, n % providers, 0)));
        let bands = board.bands(Lane::All, &[Quantile::P25], 0);
        assert_eq!((bands.samples, bands.providers, bands.insufficient), (samples, providers, insufficient));
        let told = [bands.p25, bands.median, bands.p75, bands.others.first().copied()];
        assert!(told.iter().all(|band| band.is_none() == insufficient), "{bands:?}");
        let suggestion = board.suggest(Lane::All, 7, 0);
        assert_eq!(suggestion.price, (!insufficient).then_some(11), "10 * 107 / 100");
    }
    let bands = with_window(100).bands(Lane::Inference, &[], 0);
    assert_eq!((bands.samples, bands.oldest_age_ms, bands.insufficient), (0, None, true));
}

#[test]
fn a_suggestion_grows_with_the_backlog_up_to_a_bound_and_says_why() {
    let mut board = with_window(100);
    offered(&mut board, [90, 100, 101, 110, 120, 200]);
    let suggest = |board: &mut PriceBoard, backlog| {
        let suggestion = board.suggest(Lane::All, backlog, 1_000);
        (suggestion.exact.unwrap().to_string(), suggestion.clamped_by, suggestion.to_string())
    };
    let basis = "the median of 6 offers by 3 providers, which is 211/2, times 1 +";
    let at_rest = format!("106: {basis} 0/100 for a backlog of 0");
    assert_eq!(suggest(&mut board, 0), ("211/2".to_owned(), None, at_rest));
    let busy = format!("158: {basis} 50/100 for a backlog of 50");
    assert_eq!(suggest(&mut board, 50), ("633/4".to_owned(), None, busy));
    let (exact, by, why) = suggest(&mut board, u32::MAX);
    assert_eq!((&*exact, by), ("470", Some(SuggestionBound::FourTimesP75)));
    assert!(why.starts_with("470: ") && why.ends_with("but no more than 4 times the upper quartile, 235/2"), "{why}");
    let mut dear = with_window(100_000);
    offered(&mut dear, [Price::MAX; 6]);
    assert_eq!(suggest(&mut dear, 0).1, None);
    let (exact, by, _) = suggest(&mut dear, 1);
    assert_eq!((exact, by), (Price::MAX.to_string(), Some(SuggestionBound::PriceMax)));
    let none = with_window(100).suggest(Lane::Transcode, 1, 0).to_string();
    let why = "0 offers by 0 providers; it takes 5 offers by 3 providers to say more";
    assert_eq!(none, format!("no price can be suggested for the lane `transcode`: {why}"));
}

#[test]
fn a_flood_of_modules_leaves_the_other_lanes_alone() {
    let mut board = with_window(100);
    board.record(&offer(5, Lane::Transcode, 0, 0));
    (0..MODULE_LANES_MAX).for_each(|n| board.record(&offer(1, module(n), 0, 10 + n as u64)));
    // The first lane gets another offer, so the second now has the oldest newest offer.
    board.record(&offer(2, module(0), 0, 1_000));
    board.record(&offer(3, module(MODULE_LANES_MAX), 0, 1_001));
    let lanes = board.lanes(1_001);
    assert_eq!(lanes.len(), MODULE_LANES_MAX + 2);
    assert!(
        lanes.contains(&Lane::Transcode) && lanes.contains(&module(0)) && lanes.contains(&module(MODULE_LANES_MAX))
    );
    assert!(!lanes.contains(&module(1)));
    assert_eq!(board.history(module(0), 10, 1_001).len(), 2);
    assert_eq!(with_window(100_000).module_lanes_max(), 10, "larger windows, fewer lanes");
}

/// Lanes of stored modules stay, whatever one provider offers for unknown modules. So do lanes with
/// offers by as many providers as bands need.
#[test]
fn words_about_modules_push_out_no_lane_that_something_stands_behind() {
    let (stored, offered) = (0..100, 100..200);
    let mut board = with_window(100);
    stored.clone().for_each(|n| board.record_of(&offer(1, module(n), 0, 1), ModuleStanding::Stored));
    offered
        .clone()
        .for_each(|n| (0..PROVIDERS_MIN).for_each(|who| board.record(&offer(1, module(n), who, 2 + n as u64))));
    (1_000..3_000).for_each(|n| board.record(&offer(1, module(n), 7, n as u64)));
    let lanes = board.lanes(3_000);
    assert!(stored.chain(offered).all(|n| lanes.contains(&module(n))));
    assert!(lanes.contains(&module(2_999)) && lanes.len() == MODULE_LANES_MAX + 1, "the newest words have the rest");

    // A board full of heavier lanes adds no lane for an unknown module, but still adds one for a
    // stored module.
    (200..MODULE_LANES_MAX).for_each(|n| board.record_of(&offer(1, module(n), 0, 4_000), ModuleStanding::Stored));
    board.record(&offer(1, module(9_999), 7, 5_000));
    let lanes = board.lanes(5_000);
    assert!(!lanes.contains(&module(9_999)) && lanes.len() == MODULE_LANES_MAX + 1);
    board.record_of(&offer(1, module(9_998), 0, 5_000), ModuleStanding::Stored);
    let lanes = board.lanes(5_000);
    assert!(lanes.contains(&module(9_998)) && !lanes.contains(&module(100)), "the oldest that is merely offered goes");
    assert!((0..100).all(|n| lanes.contains(&module(n))));
    assert!(board.bands(Lane::All, &[], 5_000).samples > 0, "what has no lane counts over all");
}

#[test]
fn an_order_is_answered_with_what_it_asks_for() {
    let mut board = with_window(100);
    for n in 0..6 {
        let order =
            PriceRequest::Offer { price: Price::new(10).unwrap(), lane: module(1), provider: "local".parse().unwrap() };
        let answers = execute(&mut board, order, ModuleStanding::Unknown, 7 + n).unwrap();
        let recorded = Offer { provider: "local".parse().unwrap(), ..offer(10, module(1), 0, 7 + n) };
        let samples = n as usize + 1;
        assert_eq!(answers, [PriceAnswer::Recorded(RecordedOffer { offer: recorded, samples, providers: 1 })]);
    }
    let history =
        execute(&mut board, PriceRequest::History { lane: Lane::All, last: 4 }, ModuleStanding::Unknown, 20).unwrap();
    assert_eq!(history.len(), 4);
    let quantiles = vec![Quantile::MEDIAN; QUANTILES_MAX + 1];
    let refused = execute(&mut board, PriceRequest::Bands { lane: Lane::All, quantiles }, ModuleStanding::Unknown, 20);
    assert_eq!(refused, Err(PriceRequestError::TooManyQuantiles { found: 65 }));
    for order in [
        PriceRequest::Suggest { lane: Lane::All, backlog: 3 },
        PriceRequest::Bands { lane: module(1), quantiles: vec!["p99.9".parse().unwrap()] },
    ] {
        let text = serde_json::to_string(&order).unwrap();
        assert_eq!(serde_json::from_str::<PriceRequest>(&text).unwrap(), order);
        for answer in execute(&mut board, order, ModuleStanding::Unknown, 20).unwrap() {
            let text = serde_json::to_string(&answer).unwrap();
            assert_eq!(serde_json::from_str::<PriceAnswer>(&text).unwrap(), answer, "{text}");
        }
    }
    assert!(
        serde_json::from_str::<PriceRequest>(r#"{"order":"offer","price":0,"lane":"all","provider":"a"}"#).is_err()
    );
}

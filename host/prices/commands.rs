//! Orders of the node's owner to the price board. Orders and answers are values, so the command
//! line gets the same answers whether it executes an order itself or sends it to the running node.

use serde::{Deserialize, Serialize};

use super::offer::{Lane, Offer, Price, ProviderName};
use super::quantile::Quantile;
use super::{Bands, ModuleStanding, PriceBoard, Suggestion};

/// Limit on quantiles in one order.
pub const QUANTILES_MAX: usize = 64;

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "order")]
pub enum PriceRequest {
    /// Record an offer that is made now.
    Offer { price: Price, lane: Lane, provider: ProviderName },
    /// Return the quartiles of a lane, and these other quantiles.
    Bands { lane: Lane, quantiles: Vec<Quantile> },
    /// Suggest a price while `backlog` pieces of work wait.
    Suggest { lane: Lane, backlog: u32 },
    /// Return the last offers of a lane, at most `last`.
    History { lane: Lane, last: usize },
}

/// An answer to an order. A history has one answer for each offer, the oldest first.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "answer")]
pub enum PriceAnswer {
    Recorded(RecordedOffer),
    Bands(Bands),
    Suggestion(Suggestion),
    Offer(Offer),
}

/// A recorded offer, and the number of offers and providers in its lane after it; both are 0 if the
/// lane was not created and the offer counts only overall.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RecordedOffer {
    #[serde(flatten)]
    pub offer: Offer,
    pub samples: usize,
    pub providers: usize,
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PriceRequestError {
    #[error("{found} quantiles are too many to be asked for at once; ask for up to {QUANTILES_MAX}")]
    TooManyQuantiles { found: usize },
}

/// Executes `order` at the time `now_ms`. `standing` is that of the module in the order.
pub fn execute(
    board: &mut PriceBoard,
    order: PriceRequest,
    standing: ModuleStanding,
    now_ms: u64,
) -> Result<Vec<PriceAnswer>, PriceRequestError> {
    Ok(match order {
        PriceRequest::Offer { price, lane, provider } => {
            let offer = Offer { price, lane, provider, time_ms: now_ms };
            board.record_of(&offer, standing);
            let Bands { samples, providers, .. } = board.bands(lane, &[], now_ms);
            vec![PriceAnswer::Recorded(RecordedOffer { offer, samples, providers })]
        }
        PriceRequest::Bands { lane, quantiles } => {
            if quantiles.len() > QUANTILES_MAX {
                return Err(PriceRequestError::TooManyQuantiles { found: quantiles.len() });
            }
            vec![PriceAnswer::Bands(board.bands(lane, &quantiles, now_ms))]
        }
        PriceRequest::Suggest { lane, backlog } => {
            vec![PriceAnswer::Suggestion(board.suggest(lane, backlog, now_ms))]
        }
        PriceRequest::History { lane, last } => {
            board.history(lane, last, now_ms).into_iter().map(PriceAnswer::Offer).collect()
        }
    })
}

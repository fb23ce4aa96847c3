//! Orders of the node's owner to the price board. Orders and answers are values, so the command
//! line gets the same answers whether it executes an order itself or sends it to the running node.

use serde::{Deserialize, Serialize};

use super::offer::{Lane, Offer, Price, ProviderName};
use super::quantile::Quantile;
use super::{Bands, PriceBoard, Standing, Suggestion};

/// Limit on quantiles in one order.
pub const QUANTILES_MAX: usize = 64;

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "order")]
pub enum PriceOrder {
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
    Recorded(Recorded),
    Bands(Bands),
    Suggestion(Suggestion),
    Offer(Offer),
}

/// A recorded offer, and the number of offers and providers in its lane after it; both are 0 if the
/// lane was not created and the offer counts only overall.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Recorded {
    #[serde(flatten)]
    pub offer: Offer,
    pub samples: usize,
    pub providers: usize,
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PriceOrderError {
    #[error("{found} quantiles are too many to be asked for at once; ask for up to {QUANTILES_MAX}")]
    TooManyQuantiles { found: usize },
}

/// Executes `order` at the time `now_ms`. `standing` is that of the module in the order.
pub fn perform(
    board: &mut PriceBoard,
    order: PriceOrder,
    standing: Standing,
    now_ms: u64,
) -> Result<Vec<PriceAnswer>, PriceOrderError> {
    Ok(match order {
        PriceOrder::Offer { price, lane, provider } => {
            let offer = Offer { price, lane, provider, time_ms: now_ms };
            board.record_of(&offer, standing);
            let Bands { samples, providers, .. } = board.bands(lane, &[], now_ms);
            vec![PriceAnswer::Recorded(Recorded { offer, samples, providers })]
        }
        PriceOrder::Bands { lane, quantiles } => {
            if quantiles.len() > QUANTILES_MAX {
                return Err(PriceOrderError::TooManyQuantiles { found: quantiles.len() });
            }
            vec![PriceAnswer::Bands(board.bands(lane, &quantiles, now_ms))]
        }
        PriceOrder::Suggest { lane, backlog } => {
            vec![PriceAnswer::Suggestion(board.suggest(lane, backlog, now_ms))]
        }
        PriceOrder::History { lane, last } => {
            board.history(lane, last, now_ms).into_iter().map(PriceAnswer::Offer).collect()
        }
    })
}

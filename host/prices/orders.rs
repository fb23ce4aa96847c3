//! All that the owner of a node can ask of its price board. An order is one value and its answers are values, so that
//! the command line gets the same whether it carries the order out itself or hands it to the running node.

use serde::{Deserialize, Serialize};

use super::offer::{Lane, Offer, Price, ProviderName};
use super::quantile::Quantile;
use super::{Bands, PriceBoard, Standing, Suggestion};

/// How many quantiles one order may ask for.
pub const QUANTILES_MAX: usize = 64;

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "order")]
pub enum PriceOrder {
    /// Take in an offer that is made now.
    Offer { price: Price, lane: Lane, provider: ProviderName },
    /// The quartiles of a lane, and these other quantiles.
    Bands { lane: Lane, quantiles: Vec<Quantile> },
    /// What to ask for while so many pieces of work wait.
    Suggest { lane: Lane, backlog: u32 },
    /// The last offers of a lane, up to this many.
    History { lane: Lane, last: usize },
}

/// One of the answers to an order: of a history there is one for each offer, the oldest first.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "answer")]
pub enum PriceAnswer {
    Recorded(Recorded),
    Bands(Bands),
    Suggestion(Suggestion),
    Offer(Offer),
}

/// An offer that was taken in, and what its lane holds with it: nothing if it has no lane, and counts over all alone.
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

/// Carries `order` out, at this time. `standing` is the module's that it is for.
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

//! How well documents fit a query.

use zerocopy::IntoBytes;
use zerocopy::little_endian::U32;

use super::super::{Source, invalid, widen};
use super::fields::{Field, FieldWriter, for_each_field};
use crate::error::Result;

/// How well one document fits a query.
#[derive(Debug, Clone, Copy, PartialEq)]
#[non_exhaustive]
pub struct RerankResult {
    /// Which document of the request it is, counted from 0.
    pub index: usize,
    /// The higher, the better. Never NaN; what else it can be is for the model to say.
    pub score: f32,
}

/// How well documents fit a query: the reply to a call of [`Kind::RERANK`](crate::Kind::RERANK).
///
/// It has a score for each document in the order of the request. If the request has a `top_n`, it
/// has the best of them with their indices, the best one first.
///
/// A score may be infinite and is never NaN: a NaN has no place in an order. The worker cannot make
/// a reply with one, and a host refuses it.
///
/// ```
/// use slipring::payload::Payload;
/// use slipring::payload::roles::RerankReply;
///
/// // In a handler: `RerankReply::new(scores, query.top_n)?`.
/// let all = RerankReply::new(vec![0.25, -1.0, 2.0], None)?;
/// assert_eq!(all.scores(), [0.25, -1.0, 2.0]);
/// let best = RerankReply::new(vec![0.25, -1.0, 2.0], Some(2))?;
/// let results: Vec<_> = best.results().map(|best| (best.index, best.score)).collect();
/// assert_eq!(results, [(2, 2.0), (0, 0.25)]);
///
/// // In a host: `RerankReply::decode(&reply, documents.len())?`.
/// let mut slot = vec![0; best.encoded_len()];
/// best.encode(&mut slot)?;
/// assert_eq!(RerankReply::decode(&slot, 3)?, best);
/// # Ok::<(), slipring::Error>(())
/// ```
///
/// # Layout
///
/// [Fields](super#layout):
///
/// | tag | value | field |
/// |---|---|---|
/// | 1 | f32 × n | scores, without gaps |
/// | 2 | u32 × n | indices of the documents that have these scores, each once at most |
///
/// There are scores. Without field 2 there is one for each document of the request, in its order.
/// With it, the scores never increase, and each index is lower than the number of documents.
#[derive(Debug, Clone, PartialEq)]
pub struct RerankReply {
    scores: Vec<f32>,
    /// As many as scores.
    indices: Option<Vec<U32>>,
}

const WHAT: &str = "a rerank reply";

impl RerankReply {
    /// Makes a reply of the scores of all documents, in the order of the request. Of `top_n`
    /// documents if that is given: of two with the same score, the earlier one comes first.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::InvalidPayload`](crate::ErrorKind::InvalidPayload) if a score is NaN, or if
    /// there are more scores than a request can have documents.
    pub fn new(scores: Vec<f32>, top_n: Option<u32>) -> Result<Self> {
        check_scores(&scores)?;
        let Ok(count) = u32::try_from(scores.len()) else {
            return Err(invalid(format!("{WHAT} of {} scores", scores.len())));
        };
        let Some(top_n) = top_n else { return Ok(Self { scores, indices: None }) };
        let mut ranked: Vec<(u32, f32)> = (0..count).zip(scores).collect();
        // Stable, and no value is NaN. Zeros of both signs are equal.
        ranked.sort_by(|(_, a), (_, b)| b.partial_cmp(a).unwrap_or(std::cmp::Ordering::Equal));
        ranked.truncate(widen(top_n));
        let indices = Some(ranked.iter().map(|(index, _)| U32::new(*index)).collect());
        Ok(Self { scores: ranked.into_iter().map(|(_, score)| score).collect(), indices })
    }

    /// Decodes the reply to a request that had so many documents.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::InvalidPayload`](crate::ErrorKind::InvalidPayload) if the source is not a
    /// rerank reply, or is none to so many documents: the message has the reason.
    pub fn decode<S: Source + ?Sized>(source: &S, documents: usize) -> Result<Self> {
        let (mut scores, mut indices) = (None, None);
        for_each_field(source, WHAT, |field| match field.tag {
            1 => field.once("scores", &mut scores, Field::elements),
            2 => field.once("indices", &mut indices, Field::elements),
            _ => field.ignore(),
        })?;
        let Some(scores) = scores else { return Err(invalid(format!("{WHAT} without scores"))) };
        check_scores(&scores)?;
        match &indices {
            Some(indices) => check_ranking(&scores, indices, documents)?,
            None if scores.len() != documents => {
                let count = scores.len();
                return Err(invalid(format!("{WHAT} has {count} scores of {documents} documents")));
            }
            None => (),
        }
        Ok(Self { scores, indices })
    }

    /// Returns the scores: of all documents in the order of the request, or, if the request has a
    /// `top_n`, from the best one down.
    #[must_use]
    pub fn scores(&self) -> &[f32] {
        &self.scores
    }

    /// Returns whether it has the best documents only, the best one first.
    #[must_use]
    pub fn is_ranked(&self) -> bool {
        self.indices.is_some()
    }

    /// Returns the scores with the indices of their documents, in the order of
    /// [`scores`](Self::scores). An index is lower than the number of documents.
    pub fn results(&self) -> impl ExactSizeIterator<Item = RerankResult> {
        self.scores.iter().enumerate().map(|(place, score)| {
            let index = self.indices.as_ref().and_then(|indices| indices.get(place));
            let index = index.map_or(place, |index| widen(index.get()));
            RerankResult { index, score: *score }
        })
    }

    fn put(&self, fields: &mut FieldWriter<'_>) -> Result<()> {
        fields.bytes(1, self.scores.as_bytes())?;
        let indices = self.indices.as_ref();
        indices.map_or(Ok(()), |indices| fields.bytes(2, indices.as_bytes()))
    }
}

payload_of_fields! { [] RerankReply }

fn check_scores(scores: &[f32]) -> Result<()> {
    match scores.iter().position(|score| score.is_nan()) {
        Some(index) => Err(invalid(format!("score {index} of {WHAT} is NaN"))),
        None => Ok(()),
    }
}

/// Checks that so many documents can be ranked so.
fn check_ranking(scores: &[f32], indices: &[U32], documents: usize) -> Result<()> {
    let count = indices.len();
    if count != scores.len() {
        let scores = scores.len();
        return Err(invalid(format!("{WHAT} has {scores} scores and {count} indices")));
    }
    if !scores.is_sorted_by(|a, b| a >= b) {
        return Err(invalid(format!("the scores of {WHAT} with indices increase")));
    }
    let mut sorted: Vec<u32> = indices.iter().map(|index| index.get()).collect();
    sorted.sort_unstable();
    if let Some(last) = sorted.last().filter(|last| widen(**last) >= documents) {
        return Err(invalid(format!("{WHAT} names document {last} of {documents}")));
    }
    match sorted.is_sorted_by(|a, b| a < b) {
        true => Ok(()),
        false => Err(invalid(format!("{WHAT} names a document twice"))),
    }
}

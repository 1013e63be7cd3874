//! A batch: some lines on their way to a worker, then their vectors on the
//! way back. Batches are reused, so that a long run allocates no more than a
//! short one.

use std::time::{Duration, Instant};

use slipring::payload::TextBatch;

/// The limits of a batch.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    /// Texts in a batch, such that the reply fits as well.
    pub(crate) texts: usize,
    /// Bytes of a request of several texts, as it is encoded.
    pub(crate) request_bytes: usize,
    /// Bytes of one text.
    pub(crate) max_line: usize,
}

/// Returns the bytes of a request with this many texts, of this many bytes in all.
pub(crate) fn request_len(texts: usize, bytes: usize) -> usize {
    // A request that cannot be encoded is too long for any ring.
    TextBatch::encoded_len_for(texts, bytes).unwrap_or(usize::MAX)
}

#[derive(Debug, Default)]
pub(crate) struct Batch {
    /// The place in the input's order, from 0.
    pub(crate) index: u64,
    /// Bytes of input read when the batch was cut.
    pub(crate) consumed: u64,
    /// One row of `dim` numbers a text, once a worker has answered.
    pub(crate) vectors: Vec<f32>,
    /// How long the worker took, from the submission on.
    pub(crate) latency: Duration,
    pub(crate) submitted: Option<Instant>,
    joined: String,
    ends: Vec<usize>,
}

impl Batch {
    pub(crate) fn clear(&mut self) {
        self.vectors.clear();
        self.submitted = None;
        self.joined.clear();
        self.ends.clear();
    }

    /// Appends a text if the batch is within `limits` with it. The first text
    /// always fits: no line is longer than `limits.max_line`.
    pub(crate) fn try_push(&mut self, text: &str, limits: &Limits) -> bool {
        let texts = self.ends.len() + 1;
        let bytes = request_len(texts, self.joined.len() + text.len());
        if texts > 1 && (texts > limits.texts || bytes > limits.request_bytes) {
            return false;
        }
        self.joined.push_str(text);
        self.ends.push(self.joined.len());
        true
    }

    /// Returns the number of texts.
    pub(crate) fn rows(&self) -> usize {
        self.ends.len()
    }

    pub(crate) fn texts(&self) -> impl ExactSizeIterator<Item = &str> {
        let mut start = 0;
        self.ends.iter().map(move |&end| {
            let text = self.joined.get(start..end).unwrap_or_default();
            start = end;
            text
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use slipring::payload::Payload;

    fn limits(texts: usize, request_bytes: usize) -> Limits {
        Limits { texts, request_bytes, max_line: 1000 }
    }

    #[test]
    fn texts_come_back_as_they_were_pushed() {
        let mut batch = Batch::default();
        for text in ["one", "", "zwei", ""] {
            assert!(batch.try_push(text, &limits(10, 1000)));
        }
        assert_eq!(batch.texts().collect::<Vec<_>>(), ["one", "", "zwei", ""]);
        assert_eq!(batch.rows(), 4);
    }

    #[test]
    fn a_batch_is_cut_by_count() {
        let mut batch = Batch::default();
        assert!(batch.try_push("", &limits(2, 1000)));
        assert!(batch.try_push("", &limits(2, 1000)));
        assert!(!batch.try_push("", &limits(2, 1000)));
        assert_eq!(batch.rows(), 2);
    }

    #[test]
    fn a_batch_is_cut_by_the_bytes_of_its_encoding() {
        let bytes = TextBatch::new(&["abc", "abc"]).unwrap().encoded_len();
        let mut batch = Batch::default();
        assert!(batch.try_push("abc", &limits(9, bytes)));
        assert!(!batch.try_push("abcd", &limits(9, bytes)));
        assert!(batch.try_push("abc", &limits(9, bytes)));
        assert!(!batch.try_push("", &limits(9, bytes)));
    }

    #[test]
    fn a_cleared_batch_is_empty() {
        let mut batch = Batch::default();
        batch.try_push("abc", &limits(9, 1000));
        batch.vectors.push(1.0);
        batch.clear();
        assert_eq!((batch.rows(), batch.texts().next()), (0, None));
        assert!(batch.vectors.is_empty());
    }
}

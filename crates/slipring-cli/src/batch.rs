//! A batch: some lines on their way to a worker, then their vectors on the
//! way back. Batches are reused, so that a long run allocates no more than a
//! short one.

use std::time::{Duration, Instant};

/// What a batch may hold.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    /// Texts in a batch, such that the reply fits as well.
    pub(crate) texts: usize,
    /// Bytes of a request, with the overhead of each text.
    pub(crate) request_bytes: usize,
    /// Bytes of one text.
    pub(crate) max_line: usize,
}

/// What a request needs beside its texts: its header, and an offset a text.
pub(crate) const REQUEST_OVERHEAD: usize = 64;
pub(crate) const TEXT_OVERHEAD: usize = 8;

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
        let bytes = REQUEST_OVERHEAD + self.joined.len() + text.len() + texts * TEXT_OVERHEAD;
        if texts > 1 && (texts > limits.texts || bytes > limits.request_bytes) {
            return false;
        }
        self.joined.push_str(text);
        self.ends.push(self.joined.len());
        true
    }

    /// The number of texts.
    pub(crate) fn rows(&self) -> usize {
        self.ends.len()
    }

    /// The bytes of all the texts together.
    pub(crate) fn bytes(&self) -> usize {
        self.joined.len()
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
        assert_eq!((batch.rows(), batch.bytes()), (4, 7));
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
    fn a_batch_is_cut_by_bytes_with_the_overhead_of_each_text() {
        let bytes = REQUEST_OVERHEAD + 2 * (TEXT_OVERHEAD + 3);
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
        assert_eq!((batch.rows(), batch.bytes()), (0, 0));
        assert!(batch.vectors.is_empty());
    }
}

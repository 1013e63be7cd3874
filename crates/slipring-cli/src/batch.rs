//! A batch: some lines on their way to a worker, then their vectors on the
//! way back. Batches are reused, so that a long run allocates no more than a
//! short one.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use slipring::payload::TextBatch;

use crate::input::Input;

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

/// Successive lines of one input.
#[derive(Debug)]
struct Lines {
    input: Arc<Input>,
    first: u64,
    last: u64,
}

impl fmt::Display for Lines {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { input, first, last } = self;
        match first == last {
            true => write!(f, "{input}: line {first}"),
            false => write!(f, "{input}: lines {first} to {last}"),
        }
    }
}

#[derive(Debug, Default)]
pub(crate) struct Batch {
    /// The place in the input's order, from 0.
    pub(crate) index: u64,
    /// Bytes of input read when the batch was cut.
    pub(crate) consumed: u64,
    /// One row of `dim` numbers a text, once a worker has answered.
    pub(crate) vectors: Vec<f32>,
    /// How long the answer took.
    pub(crate) latency: Duration,
    /// Where the texts come from.
    lines: Vec<Lines>,
    joined: String,
    ends: Vec<usize>,
}

impl Batch {
    pub(crate) fn clear(&mut self) {
        self.vectors.clear();
        self.lines.clear();
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

    /// Notes where the text that was pushed last comes from.
    pub(crate) fn note_line(&mut self, input: &Arc<Input>, line: u64) {
        match self.lines.last_mut() {
            Some(lines) if lines.input == *input => lines.last = line,
            _ => self.lines.push(Lines { input: Arc::clone(input), first: line, last: line }),
        }
    }

    /// Names the inputs and lines of the texts.
    pub(crate) fn origin(&self) -> String {
        self.lines.iter().map(Lines::to_string).collect::<Vec<_>>().join(", ")
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
    fn a_batch_names_the_inputs_and_lines_of_its_texts() {
        let mut batch = Batch::default();
        let [a, b] = ["a.txt", "b.txt"].map(|name| Arc::new(Input::named(name.into())));
        batch.note_line(&a, 7);
        assert_eq!(batch.origin(), "a.txt: line 7");
        batch.note_line(&a, 8);
        batch.note_line(&b, 1);
        assert_eq!(batch.origin(), "a.txt: lines 7 to 8, b.txt: line 1");
        batch.clear();
        assert_eq!(batch.origin(), "");
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

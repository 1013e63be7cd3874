//! Text out of bytes that are cut anywhere.

/// Makes whole characters of bytes that come in pieces, such as the tokens of a model: a piece may
/// end inside a character, whose rest comes with the next one.
///
/// ```
/// use slipring::payload::roles::Utf8Decoder;
///
/// let mut decoder = Utf8Decoder::new();
/// assert_eq!(decoder.push(b"gr\xc3"), "gr");
/// assert_eq!(decoder.push(b"\xbc\xc3"), "ü");
/// assert_eq!(decoder.push(b"\x9fe"), "ße");
/// assert_eq!(decoder.finish(), "");
/// ```
///
/// Bytes that cannot become a character become U+FFFD, the replacement character, as in
/// [`String::from_utf8_lossy`] of all bytes.
#[derive(Debug, Clone, Default)]
pub struct Utf8Decoder {
    /// The start of a character, then the new bytes.
    bytes: Vec<u8>,
    text: String,
}

impl Utf8Decoder {
    /// Starts without bytes.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes the next bytes, and returns the characters that are whole with them. Keeps up to
    /// three bytes of a character that is not.
    pub fn push(&mut self, bytes: &[u8]) -> &str {
        self.bytes.extend_from_slice(bytes);
        self.text.clear();
        let mut kept = 0;
        let mut chunks = self.bytes.utf8_chunks().peekable();
        while let Some(chunk) = chunks.next() {
            self.text.push_str(chunk.valid());
            match std::str::from_utf8(chunk.invalid()) {
                Ok(_) => (),
                // Only the last bytes can be the start of a character.
                Err(error) if error.error_len().is_none() && chunks.peek().is_none() => {
                    kept = chunk.invalid().len();
                }
                Err(_) => self.text.push(char::REPLACEMENT_CHARACTER),
            }
        }
        self.bytes.drain(..self.bytes.len() - kept);
        &self.text
    }

    /// Returns what the end of all bytes leaves: nothing, or one U+FFFD for a character that did
    /// not become whole. Starts again without bytes.
    pub fn finish(&mut self) -> &str {
        self.text.clear();
        if !self.bytes.is_empty() {
            self.text.push(char::REPLACEMENT_CHARACTER);
        }
        self.bytes.clear();
        &self.text
    }
}

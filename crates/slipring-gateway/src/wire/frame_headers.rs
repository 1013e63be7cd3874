//! Where the frames of HTTP/2 begin in bytes that pass.

/// How many bytes the header of a frame has.
pub(super) const HEADER: usize = 9;

pub(super) const DATA: u8 = 0;
pub(super) const HEADERS: u8 = 1;

/// Follows the headers of frames, however their bytes are cut. Keeps no payload and refuses no length:
/// HTTP/2 itself ends a connection whose frames are too long.
#[derive(Debug)]
pub(super) struct FrameHeaders {
    /// How many bytes come before the next header.
    before: usize,
    header: [u8; HEADER],
    /// How many bytes of the header have come.
    come: usize,
}

impl FrameHeaders {
    /// The first header comes after so many bytes.
    pub(super) fn after(before: usize) -> Self {
        Self { before, header: [0; HEADER], come: 0 }
    }

    /// Returns how many bytes come before the next header: the rest of a payload.
    pub(super) fn before(&self) -> usize {
        self.before
    }

    /// Follows the next bytes. `found` gets the type of each frame whose header ends in them, and the length
    /// of its payload.
    pub(super) fn follow(&mut self, bytes: &[u8], mut found: impl FnMut(u8, usize)) {
        let mut rest = bytes;
        loop {
            let skipped = self.before.min(rest.len());
            self.before -= skipped;
            rest = rest.get(skipped..).unwrap_or_default();
            let missing = self.header.iter_mut().skip(self.come);
            let taken = missing.zip(rest).map(|(to, from)| *to = *from).count();
            self.come += taken;
            rest = rest.get(taken..).unwrap_or_default();
            if self.come < HEADER {
                return;
            }
            self.come = 0;
            let [high, middle, low, kind, ..] = self.header;
            let len = u32::from_be_bytes([0, high, middle, low]);
            self.before = usize::try_from(len).unwrap_or(usize::MAX);
            found(kind, self.before);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_are_found_however_their_bytes_are_cut() {
        let mut bytes = b"before".to_vec();
        let frames = [(0, 0), (1, 3), (6, 8), (200, 70_000), (0, 0xff_ffff)];
        for (kind, len) in frames {
            bytes.extend(&u32::try_from(len).unwrap().to_be_bytes()[1..]);
            bytes.extend([kind, 0xff, 0xff, 0xff, 0xff, 0xff]);
            // Payloads that look like headers.
            bytes.extend(vec![1; len.min(70_000)]);
        }
        for part in (1..40).chain([4_096, 70_000, usize::MAX]) {
            let (mut headers, mut found) = (FrameHeaders::after(6), Vec::new());
            for part in bytes.chunks(part) {
                headers.follow(part, |kind, len| found.push((kind, len)));
            }
            assert_eq!(found, frames, "parts of {part}");
            assert_eq!(headers.before(), 0xff_ffff - 70_000);
        }
    }
}

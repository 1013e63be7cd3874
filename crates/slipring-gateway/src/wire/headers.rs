//! Where the frames of HTTP/2, or the records of TLS, begin in bytes that pass.

/// The longest header.
const LONGEST: usize = 9;

/// What stands in a header.
#[derive(Debug)]
pub(super) struct Format {
    /// How many bytes it has.
    pub(super) len: usize,
    /// Returns its type, and the length of the payload behind it.
    read: fn([u8; LONGEST]) -> (u8, u32),
}

pub(super) const FRAME: Format = Format {
    len: LONGEST,
    read: |[high, middle, low, kind, ..]| (kind, u32::from_be_bytes([0, high, middle, low])),
};

pub(super) const RECORD: Format = Format {
    len: 5,
    read: |[kind, _, _, high, low, ..]| (kind, u32::from_be_bytes([0, 0, high, low])),
};

/// Follows headers, however their bytes are cut. Keeps no payload and refuses no length: HTTP/2 and TLS
/// end a connection for one that is too long.
#[derive(Debug)]
pub(super) struct Headers {
    format: &'static Format,
    /// How many bytes come before the next header.
    before: usize,
    header: [u8; LONGEST],
    /// How many bytes of the header have come.
    come: usize,
}

impl Headers {
    /// The first header comes after so many bytes.
    pub(super) fn after(before: usize, format: &'static Format) -> Self {
        Self { format, before, header: [0; LONGEST], come: 0 }
    }

    /// Returns how many bytes come before the next header: the rest of a payload.
    pub(super) fn before(&self) -> usize {
        self.before
    }

    /// Follows the next bytes. `found` gets the type that each header gives whose last byte is among
    /// them, and the length of the payload behind it.
    pub(super) fn follow(&mut self, bytes: &[u8], mut found: impl FnMut(u8, usize)) {
        let mut rest = bytes;
        loop {
            let skipped = self.before.min(rest.len());
            self.before -= skipped;
            rest = rest.get(skipped..).unwrap_or_default();
            let missing = self.header.iter_mut().take(self.format.len).skip(self.come);
            let taken = missing.zip(rest).map(|(to, from)| *to = *from).count();
            self.come += taken;
            rest = rest.get(taken..).unwrap_or_default();
            if self.come < self.format.len {
                return;
            }
            self.come = 0;
            let (kind, len) = (self.format.read)(self.header);
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
            let (mut headers, mut found) = (Headers::after(6, &FRAME), Vec::new());
            for part in bytes.chunks(part) {
                headers.follow(part, |kind, len| found.push((kind, len)));
            }
            assert_eq!(found, frames, "parts of {part}");
            assert_eq!(headers.before(), 0xff_ffff - 70_000);
        }
    }

    #[test]
    fn headers_of_records_are_found() {
        let bytes = [&[22, 3, 1, 1, 2][..], &[0; 258], &[23, 3, 3, 0, 0], &[23, 3, 3, 0]].concat();
        for part in [1, 2, 7, 300] {
            let (mut headers, mut found) = (Headers::after(0, &RECORD), Vec::new());
            for part in bytes.chunks(part) {
                headers.follow(part, |kind, len| found.push((kind, len)));
            }
            assert_eq!(found, [(22, 258), (23, 0)], "parts of {part}");
        }
    }
}

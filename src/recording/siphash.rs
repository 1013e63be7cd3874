//! SipHash-2-4 with 128 bits, by which a recording tells payloads apart that it does not keep.

/// A hash under a key.
pub(super) fn siphash128(key: [u8; 16], bytes: &[u8]) -> [u8; 16] {
    let mut state = State::new(key);
    let (words, rest) = bytes.as_chunks::<8>();
    for word in words {
        state.add(u64::from_le_bytes(*word));
    }
    let mut last = [0; 8];
    last.iter_mut().zip(rest).for_each(|(to, from)| *to = *from);
    // The length, modulo 256.
    let [len, ..] = bytes.len().to_le_bytes();
    state.add(u64::from_le_bytes(last) | u64::from(len) << 56);
    state.c ^= 0xee;
    let first = state.finish();
    state.b ^= 0xdd;
    let second = state.finish();
    let mut hash = [0; 16];
    let halves = first.to_le_bytes().into_iter().chain(second.to_le_bytes());
    hash.iter_mut().zip(halves).for_each(|(to, from)| *to = from);
    hash
}

struct State {
    a: u64,
    b: u64,
    c: u64,
    d: u64,
}

impl State {
    fn new(key: [u8; 16]) -> Self {
        let [low, high] = [0, 8].map(|start| {
            let mut word = [0; 8];
            word.iter_mut().zip(key.iter().skip(start)).for_each(|(to, from)| *to = *from);
            u64::from_le_bytes(word)
        });
        Self {
            a: low ^ 0x736f_6d65_7073_6575,
            b: high ^ 0x646f_7261_6e64_6f6d ^ 0xee,
            c: low ^ 0x6c79_6765_6e65_7261,
            d: high ^ 0x7465_6462_7974_6573,
        }
    }

    fn add(&mut self, word: u64) {
        self.d ^= word;
        self.round();
        self.round();
        self.a ^= word;
    }

    fn finish(&mut self) -> u64 {
        (0..4).for_each(|_| self.round());
        self.a ^ self.b ^ self.c ^ self.d
    }

    fn round(&mut self) {
        self.a = self.a.wrapping_add(self.b);
        self.c = self.c.wrapping_add(self.d);
        self.b = self.b.rotate_left(13) ^ self.a;
        self.d = self.d.rotate_left(16) ^ self.c;
        self.a = self.a.rotate_left(32);
        self.c = self.c.wrapping_add(self.b);
        self.a = self.a.wrapping_add(self.d);
        self.b = self.b.rotate_left(17) ^ self.c;
        self.d = self.d.rotate_left(21) ^ self.a;
        self.c = self.c.rotate_left(32);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hash_is_that_of_the_reference() {
        let key = std::array::from_fn(|index| u8::try_from(index).unwrap());
        let of = |len: u8| siphash128(key, &(0..len).collect::<Vec<_>>());
        let hex = |bytes: [u8; 16]| bytes.map(|byte| format!("{byte:02x}")).concat();
        assert_eq!(hex(of(0)), "a3817f04ba25a8e66df67214c7550293");
        assert_eq!(hex(of(1)), "da87c1d86b99af44347659119b22fc45");
        assert_eq!(hex(of(15)), "5493e99933b0a8117e08ec0f97cfc3d9");
    }
}

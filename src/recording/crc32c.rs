//! CRC-32C, the checksum of what is in a recording: eight bytes a step, by tables.
#![allow(clippy::indexing_slicing, reason = "the tables have an entry for each byte")]

/// Castagnoli's polynomial, with its bits reversed.
const POLYNOMIAL: u32 = 0x82f6_3b78;

static TABLES: [[u32; 256]; 8] = tables();

const fn tables() -> [[u32; 256]; 8] {
    let mut tables = [[0; 256]; 8];
    let mut byte = 0_u32;
    while byte < 256 {
        let (mut crc, mut bit) = (byte, 0);
        while bit < 8 {
            crc = (crc >> 1) ^ if crc & 1 == 1 { POLYNOMIAL } else { 0 };
            bit += 1;
        }
        // `From` is not const, and the number is a byte.
        #[allow(clippy::as_conversions, reason = "in a constant")]
        let index = byte as usize;
        tables[0][index] = crc;
        byte += 1;
    }
    let mut index = 0;
    while index < 256 {
        let mut table = 1;
        while table < 8 {
            let before = tables[table - 1][index];
            #[allow(clippy::as_conversions, reason = "in a constant")]
            let low = (before & 0xff) as usize;
            tables[table][index] = (before >> 8) ^ tables[0][low];
            table += 1;
        }
        index += 1;
    }
    tables
}

/// Returns the checksum of parts that follow each other.
pub(super) fn crc32c(parts: &[&[u8]]) -> u32 {
    !parts.iter().fold(!0, |crc, part| add(crc, part))
}

fn add(mut crc: u32, bytes: &[u8]) -> u32 {
    let (words, rest) = bytes.as_chunks::<8>();
    for word in words {
        let [a, b, c, d, e, f, g, h] = *word;
        let [i, j, k, l] = crc.to_le_bytes();
        let low = [a ^ i, b ^ j, c ^ k, d ^ l, e, f, g, h];
        crc = 0;
        for (table, byte) in TABLES.iter().rev().zip(low) {
            crc ^= table[usize::from(byte)];
        }
    }
    for byte in rest {
        let [low, ..] = crc.to_le_bytes();
        crc = (crc >> 8) ^ TABLES[0][usize::from(low ^ byte)];
    }
    crc
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_checksum_is_that_of_the_standard() {
        assert_eq!(crc32c(&[b"123456789"]), 0xe306_9283);
        // RFC 3720, B.4.
        assert_eq!(crc32c(&[&[0; 32]]), 0x8a91_36aa);
        assert_eq!(crc32c(&[&[0xff; 32]]), 0x62a8_ab43);
        let rising: Vec<u8> = (0..32).collect();
        assert_eq!(crc32c(&[&rising]), 0x46dd_794e);
    }

    #[test]
    fn parts_have_the_checksum_of_the_whole() {
        let bytes: Vec<u8> = (0..100).map(|byte| byte ^ 0x5a).collect();
        for cut in 0..100 {
            assert_eq!(crc32c(&[&bytes[..cut], &bytes[cut..]]), crc32c(&[&bytes]));
        }
    }
}

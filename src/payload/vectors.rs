//! The committed vectors that every implementation of the wire layouts reads.

use super::tests::encoded;
use super::{
    ElementType, Matrix, MatrixReader, Payload, TextBatch, Texts, f32_to_bf16, f32_to_f16, roles,
};

const VECTORS: &str = include_str!("../../tests/data/payload-vectors.txt");

/// The fields of each vector of this kind, after the kind. At least one.
pub(super) fn vectors(kind: &str) -> Vec<Vec<&'static str>> {
    let vectors: Vec<Vec<_>> = VECTORS
        .lines()
        .map(|line| line.split(' ').collect::<Vec<_>>())
        .filter(|fields| fields[0] == kind)
        .map(|fields| fields[1..].to_vec())
        .collect();
    assert!(!vectors.is_empty(), "no vectors of kind {kind}");
    vectors
}

pub(super) fn bytes(hex: &str) -> Vec<u8> {
    let hex = hex.strip_prefix('-').unwrap_or(hex);
    assert_eq!(hex.len() % 2, 0, "{hex}");
    let pairs = (0..hex.len()).step_by(2).map(|at| &hex[at..at + 2]);
    pairs.map(|pair| u8::from_str_radix(pair, 16).unwrap()).collect()
}

#[test]
fn every_line_is_a_comment_or_a_vector_of_a_known_kind() {
    for line in VECTORS.lines().filter(|line| !line.is_empty() && !line.starts_with('#')) {
        let kind = line.split(' ').next().unwrap();
        let known = ["texts", "matrix", "not-texts", "not-matrix", "f16", "bf16"];
        assert!(known.contains(&kind) || roles::has_vectors_of(kind), "{line}");
    }
}

#[test]
fn text_batches_encode_and_decode_as_in_the_vectors() {
    for fields in vectors("texts") {
        let [name, count, middle @ .., encoding] = &fields[..] else { panic!("{fields:?}") };
        let expected: Vec<String> =
            middle.iter().map(|hex| String::from_utf8(bytes(hex)).unwrap()).collect();
        assert_eq!(expected.len(), count.parse::<usize>().unwrap(), "{name}");
        let encoding = bytes(encoding);
        assert_eq!(encoded(&TextBatch::new(&expected).unwrap()), encoding, "{name}");
        let texts = Texts::decode(&encoding).unwrap();
        assert_eq!(texts.iter().collect::<Vec<_>>(), expected, "{name}");
        assert_eq!(encoded(&texts), encoding, "{name}");
    }
}

#[test]
fn matrices_encode_and_decode_as_in_the_vectors() {
    let mut seen = Vec::new();
    for fields in vectors("matrix") {
        let [name, element, rows, cols, middle @ .., encoding] = &fields[..] else {
            panic!("{fields:?}")
        };
        let element = (0..=u8::MAX)
            .filter_map(ElementType::from_code)
            .find(|known| known.name() == *element)
            .unwrap();
        // Most significant digit first in the file, least on the wire.
        let data: Vec<u8> = middle.iter().flat_map(|hex| bytes(hex).into_iter().rev()).collect();
        let (rows, cols) = (rows.parse().unwrap(), cols.parse().unwrap());
        let matrix = Matrix::from_bytes(rows, cols, element, &data).unwrap();
        let encoding = bytes(encoding);
        assert_eq!(encoded(&matrix), encoding, "{name}");
        assert_eq!(matrix.encoded_len(), encoding.len(), "{name}");
        assert_eq!(Matrix::decode(&encoding).unwrap(), matrix, "{name}");
        let reader = MatrixReader::new(&encoding).unwrap();
        let mut copy = vec![0; data.len()];
        reader.copy_bytes_to(&mut copy).unwrap();
        assert_eq!((reader.shape(), copy), (matrix.shape(), data), "{name}");
        seen.push(element.code());
    }
    seen.sort_unstable();
    seen.dedup();
    assert_eq!(seen, [1, 2, 3, 4, 5], "each element type has a vector");
}

#[test]
fn what_the_vectors_call_invalid_is_refused() {
    for fields in vectors("not-texts") {
        let [name, encoding] = fields[..] else { panic!("{fields:?}") };
        Texts::decode(&bytes(encoding)).expect_err(name);
    }
    for fields in vectors("not-matrix") {
        let [name, encoding] = fields[..] else { panic!("{fields:?}") };
        MatrixReader::new(bytes(encoding)).expect_err(name);
        Matrix::decode(&bytes(encoding)).expect_err(name);
    }
}

#[test]
fn narrowing_rounds_as_in_the_vectors() {
    type Narrow = fn(f32) -> u16;
    let kinds: [(_, Narrow); 2] = [("f16", f32_to_f16), ("bf16", f32_to_bf16)];
    for (kind, narrow) in kinds {
        for fields in vectors(kind) {
            let [wide, expected] = fields[..] else { panic!("{fields:?}") };
            let value = f32::from_bits(u32::from_str_radix(wide, 16).unwrap());
            assert_eq!(format!("{:04x}", narrow(value)), expected, "{kind} {wide}");
        }
    }
}

//! Checks of payloads: whatever a decoder accepts, it encodes to the same bytes again.

use std::cell::Cell;

use slipring::payload::{
    ElementType, Matrix, MatrixReader, MatrixShape, MatrixWriter, Payload, Source, TextBatch,
    TextBatchSize, Texts, bf16_to_f32, f16_to_f32,
};
use slipring::{Error, ErrorKind, Result};

/// Decodes the input as a batch of texts, encodes its lines as batches, and decodes it while it
/// changes.
pub fn text_batch(data: &[u8]) {
    text_batch_as_encoding(data);
    text_batch_of_lines(data);

    for source in Unsteady::both_ways(data) {
        if let Ok(texts) = Texts::decode(&source) {
            check_texts(&texts, source.len());
        }
    }
}

fn text_batch_as_encoding(data: &[u8]) {
    // Decoded into a value that holds another batch, of which nothing may remain.
    let mut texts = Texts::decode(&encode(&batch(&["left", "over"]))).expect("a good batch");
    match texts.decode_from(data) {
        Ok(()) => {
            check_texts(&texts, data.len());
            assert_eq!(encode(&texts), data);
            assert_eq!(encode(&batch(&texts.iter().collect::<Vec<_>>())), data);
            refuse(Texts::decode(&[data, &[0]].concat()));
            refuse(Texts::decode(data.split_last().map_or(data, |(_, shorter)| shorter)));
        }
        Err(error) => {
            check_refusal(&error);
            assert!(texts.is_empty() && texts.text_bytes() == 0 && texts.iter().next().is_none());
        }
    }
}

/// Takes the input as lines of text and cuts them into batches of a limited size.
fn text_batch_of_lines(data: &[u8]) {
    let all = String::from_utf8_lossy(data);
    let lines: Vec<&str> = all.split('\n').collect();
    let mut rest = &lines[..];
    let longest = lines.iter().map(|line| line.len()).max().unwrap_or(0);
    let limit = TextBatch::encoded_len_for(2, longest).expect("small");
    while !rest.is_empty() {
        let mut size = TextBatchSize::new(limit);
        let fitting = rest.iter().take_while(|line| size.try_push(line)).count();
        assert_eq!(fitting, size.len());
        let (these, later) = rest.split_at(fitting);
        assert!(!these.is_empty(), "a line fits alone");
        let bytes = encode(&batch(these));
        assert_eq!(bytes.len(), size.encoded_len());
        assert!(bytes.len() <= limit);
        let texts = Texts::decode(&bytes).expect("what was encoded");
        assert!(texts.iter().eq(these.iter().copied()));
        check_texts(&texts, bytes.len());
        rest = later;
    }
}

fn check_texts(texts: &Texts, encoded_len: usize) {
    assert_eq!(texts.encoded_len(), encoded_len);
    assert_eq!(
        TextBatch::encoded_len_for(texts.len(), texts.text_bytes()).expect("decoded"),
        encoded_len
    );
    assert_eq!(texts.iter().count(), texts.len());
    assert_eq!(texts.iter().map(str::len).sum::<usize>(), texts.text_bytes());
    assert!(texts.iter().enumerate().all(|(index, text)| texts.get(index) == Some(text)));
    assert_eq!(texts.get(texts.len()), None);
    // Each text is valid UTF-8 by itself, not only all texts together.
    assert!(texts.iter().all(|text| std::str::from_utf8(text.as_bytes()) == Ok(text)));
    assert_eq!(Texts::decode(&encode(texts)).expect("what was decoded"), *texts);
}

/// Decodes the input as a matrix, encodes it as the elements of one, and decodes it while it
/// changes.
pub fn matrix(data: &[u8]) {
    match MatrixReader::new(data) {
        Ok(reader) => {
            check_matrix(&reader, data);
            refuse(MatrixReader::new([data, &[0]].concat()));
            refuse(MatrixReader::new(data.split_last().map_or(data, |(_, shorter)| shorter)));
        }
        Err(error) => {
            check_refusal(&error);
            check_refusal(&Matrix::decode(data).expect_err("the reader refused it"));
        }
    }
    matrix_of_elements(data);

    for source in Unsteady::both_ways(data) {
        if let Ok(reader) = MatrixReader::new(&source) {
            let shape = reader.shape();
            assert_eq!(shape.encoded_len(), source.len());
            let mut values = Vec::new();
            match reader.copy_to_vec(&mut values) {
                Ok(()) => assert_eq!(values.len(), shape.elements()),
                Err(error) => check_refusal(&error),
            }
            assert_eq!(reader.shape(), shape);
        }
    }
}

/// Takes the input as the elements of a matrix, whose element type and shape its first three
/// bytes choose.
fn matrix_of_elements(data: &[u8]) {
    let Some(([code, rows, columns], elements)) = data.split_first_chunk() else { return };
    let Some(element) = ElementType::from_code(code % 6) else { return };
    let (rows, columns) = (usize::from(*rows), usize::from(*columns));
    let shape = MatrixShape::new(rows, columns, element).expect("a small shape");
    match elements.get(..shape.data_len()) {
        Some(elements) => {
            let matrix = Matrix::from_bytes(rows, columns, element, elements).expect("fits");
            let bytes = encode(&matrix);
            assert_eq!(bytes.len(), shape.encoded_len());
            check_matrix(&MatrixReader::new(&bytes[..]).expect("what was encoded"), &bytes);
        }
        None => refuse(Matrix::from_bytes(rows, columns, element, elements)),
    }
}

fn check_matrix(reader: &MatrixReader<&[u8]>, encoding: &[u8]) {
    let shape = reader.shape();
    assert_eq!(shape.encoded_len(), encoding.len());
    assert_eq!(shape.data_len(), shape.rows() * shape.row_len());
    assert_eq!(shape.data_len(), shape.elements() * shape.element().size());

    let decoded = Matrix::decode(encoding).expect("the reader accepted it");
    let mut copy = vec![0xa5; shape.data_len()];
    reader.copy_bytes_to(&mut copy).expect("the announced length");
    assert_eq!(decoded.shape(), shape);
    assert_eq!(decoded.data(), copy);
    assert_eq!(encode(&decoded), encoding);
    let again = Matrix::from_bytes(shape.rows(), shape.cols(), shape.element(), &copy);
    assert_eq!(encode(&again.expect("decoded")), encoding);

    let mut values = vec![1.0; 3];
    let widen: fn(&[u8; 2]) -> f32 = match shape.element() {
        ElementType::F16 => |bytes| f16_to_f32(u16::from_le_bytes(*bytes)),
        ElementType::BF16 => |bytes| bf16_to_f32(u16::from_le_bytes(*bytes)),
        ElementType::F32 => |_| f32::NAN,
        _ => {
            refuse(reader.copy_to_vec(&mut values));
            assert!(values.is_empty());
            return;
        }
    };
    reader.copy_to_vec(&mut values).expect("floats");
    let expected: Vec<f32> = if shape.element() == ElementType::F32 {
        copy.as_chunks().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect()
    } else {
        copy.as_chunks().0.iter().map(widen).collect()
    };
    assert!(same_bits(&values, &expected));
    check_rows(reader, &values, encoding);
}

/// Copies rows one by one and writes them one by one: the matrix must be the same.
fn check_rows(reader: &MatrixReader<&[u8]>, values: &[f32], encoding: &[u8]) {
    let shape = reader.shape();
    let mut slot = vec![0xa5; shape.encoded_len()];
    let mut writer = MatrixWriter::new(&mut slot, shape).expect("a slot of the length");
    // A matrix without elements may have rows of any length, or any number of rows.
    let mut row = vec![1.0; shape.cols().min(shape.elements())];
    if shape.elements() > 0 {
        for (index, expected) in values.chunks(shape.cols()).enumerate() {
            reader.copy_row(index, &mut row).expect("a row");
            assert!(same_bits(&row, expected));
            // Narrowing a widened value gives the same bits, also for NaN.
            writer.write_row_f32(index, &row).expect("a row");
        }
    }
    refuse(reader.copy_row(shape.rows(), &mut row));
    refuse(writer.write_row_f32(shape.rows(), &row));
    assert_eq!(slot, encoding);
}

fn same_bits(left: &[f32], right: &[f32]) -> bool {
    left.iter().map(|value| value.to_bits()).eq(right.iter().map(|value| value.to_bits()))
}

fn batch<'a>(texts: &'a [&'a str]) -> TextBatch<'a, &'a str> {
    TextBatch::new(texts).expect("no more than 32 bits allow")
}

/// Encodes into a buffer that held something else before.
pub(crate) fn encode(payload: &impl Payload) -> Vec<u8> {
    let mut slot = vec![0xa5; payload.encoded_len()];
    payload.encode(&mut slot).expect("a slot of the announced length");
    slot
}

pub(crate) fn refuse<T>(result: Result<T>) {
    check_refusal(&result.err().expect("to be refused"));
}

pub(crate) fn check_refusal(error: &Error) {
    assert_eq!(error.kind(), ErrorKind::InvalidPayload);
    assert!(!error.to_string().is_empty());
}

/// A source that a peer rewrites between reads: every read sees the other of two versions.
pub(crate) struct Unsteady<'a> {
    versions: [&'a [u8]; 2],
    reads: Cell<usize>,
}

impl<'a> Unsteady<'a> {
    /// Makes the halves of `data` the versions, once in each order.
    pub(crate) fn both_ways(data: &'a [u8]) -> [Self; 2] {
        let (left, rest) = data.split_at(data.len() / 2);
        let right = rest.get(..left.len()).expect("the second half is not the shorter one");
        [[left, right], [right, left]].map(|versions| Self { versions, reads: Cell::new(0) })
    }
}

impl Source for Unsteady<'_> {
    fn len(&self) -> usize {
        let [even, _] = self.versions;
        even.len()
    }

    fn read_at(&self, offset: usize, out: &mut [u8]) -> Result<()> {
        let read = self.reads.replace(self.reads.get() + 1);
        let [even, odd] = self.versions;
        if read.is_multiple_of(2) { even } else { odd }.read_at(offset, out)
    }
}

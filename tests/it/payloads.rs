//! Payloads through a channel, in both directions, and what replies are read as.

use std::borrow::Cow;
use std::io::{BufRead, Read, Seek, SeekFrom};
use std::rc::Rc;
use std::sync::Arc;

use crate::common::*;
use slipring::payload::roles::{
    ChatMessage, ChatRequest, Document, DocumentOptions, DocumentReader, RerankQuery, RerankRequest,
};
use slipring::payload::{Matrix, MatrixReader, Payload, PayloadReader, TextBatch, Texts};
use slipring::{Channel, Config, CopyRoutine, ErrorKind, Reply};

fn echo() -> Channel {
    spawn(Config::small())
}

fn sent(channel: &Channel, payload: &(impl Payload + ?Sized)) -> Reply {
    channel.call(ECHO, payload, LONG).unwrap()
}

/// Short, in one frame, and in pieces.
fn lengths(channel: &Channel) -> [usize; 4] {
    let frame = channel.config().max_request_frame();
    [8, 1000, frame, 5 * frame]
}

#[test]
fn payloads_behind_pointers_arrive_whether_they_fit_a_frame_or_not() {
    let channel = echo();
    for len in lengths(&channel) {
        let text = "x".repeat(len);
        assert_eq!(sent(&channel, &text.clone().into_boxed_str()).to_vec(), text.as_bytes());
        assert_eq!(sent(&channel, &Rc::<str>::from(&*text)).to_vec(), text.as_bytes());
        assert_eq!(sent(&channel, &Arc::new(text.clone())).to_vec(), text.as_bytes());
        assert_eq!(sent(&channel, &Cow::Borrowed(&*text)).to_vec(), text.as_bytes());
        let boxed: Box<dyn Payload> = Box::new(text.clone());
        assert_eq!(sent(&channel, &boxed).to_vec(), text.as_bytes());
    }
}

#[test]
fn every_routine_copies_payloads_whole_in_both_directions() {
    let routines = [CopyRoutine::Library, CopyRoutine::Vectors, CopyRoutine::PastCaches];
    for routine in routines {
        let config = Config::small().to_builder().copy_routine(routine).build().unwrap();
        let channel = spawn(config);
        for len in [4096, 12_000, 200_000] {
            let bytes = pattern(len, len as usize);
            assert!(sent(&channel, &bytes).to_vec() == bytes, "{routine:?} {len}");
        }
        let copies = channel.stats().request_copies;
        assert_eq!([copies.from_4_kib, copies.from_16_kib, copies.from_128_kib], [routine; 3]);
        assert_eq!(channel.stats().reply_copies, Some(copies));
    }
    // Each is tried within a few laps of the ring, if the host has chosen none.
    let channel = echo();
    for n in 0..300 {
        let bytes = pattern(n, 12_000);
        assert!(sent(&channel, &bytes).to_vec() == bytes, "{n}");
    }
}

#[test]
fn payloads_of_several_parts_arrive_whether_they_fit_a_frame_or_not() {
    let channel = echo();
    for len in lengths(&channel) {
        let values: Vec<f32> = (0..len / 4).map(|i| i as f32).collect();
        let matrix = Matrix::f32(values.len() / 2, 2, &values).unwrap();
        let reply = sent(&channel, &matrix);
        let mut copy = Vec::new();
        let reader = MatrixReader::new(&reply).unwrap();
        reader.copy_to_vec(&mut copy).unwrap();
        assert_eq!((reader.shape(), copy), (matrix.shape(), values));

        let batch = ["", "some", &"y".repeat(len)];
        let texts = Texts::decode(&sent(&channel, &TextBatch::new(&batch).unwrap())).unwrap();
        assert_eq!(texts.iter().collect::<Vec<_>>(), batch);
        assert_eq!(Texts::decode(&sent(&channel, &texts)).unwrap(), texts);
    }
}

#[test]
fn payloads_of_roles_arrive_whether_they_fit_a_frame_or_not() {
    let channel = echo();
    for len in lengths(&channel) {
        let bytes = pattern(7, len);
        let mut options = DocumentOptions::new();
        options.pages = vec![1..=9];
        let document = Document::new("image/png", &bytes, &options).unwrap();
        let reader = DocumentReader::new(sent(&channel, &document)).unwrap();
        assert_eq!((reader.media_type(), reader.options()), ("image/png", &options));
        let mut read = Vec::new();
        PayloadReader::new(reader.bytes()).read_to_end(&mut read).unwrap();
        assert!(read == bytes, "{len}");

        let text = "z".repeat(len);
        let chat = ChatRequest::new([ChatMessage::system("short"), ChatMessage::user(&*text)]);
        assert_eq!(ChatRequest::decode(&sent(&channel, &chat)).unwrap(), chat);
        let documents = ["", &text];
        let request = RerankRequest::new(&text, &documents).unwrap().top_n(1);
        let query = RerankQuery::decode(&sent(&channel, &request)).unwrap();
        assert_eq!((&query.query, query.top_n), (&text, Some(1)));
        assert!(query.documents.iter().eq(documents));
    }
}

#[test]
fn a_reply_is_read_as_a_stream_and_as_text() {
    let channel = echo();
    for len in lengths(&channel) {
        let text = format!("first line\n{}", "z".repeat(len));
        let reply = sent(&channel, &text);
        assert_eq!(reply.text().unwrap(), text);
        let mut reader = reply.reader();
        let (mut line, mut rest) = (String::new(), String::new());
        reader.read_line(&mut line).unwrap();
        reader.read_to_string(&mut rest).unwrap();
        assert_eq!((&*line, rest.len()), ("first line\n", len));
        reader.seek(SeekFrom::Start(6)).unwrap();
        let mut word = [0; 4];
        reader.read_exact(&mut word).unwrap();
        assert_eq!(&word, b"line");
        assert_eq!(PayloadReader::new(reply).lines().count(), 2);
    }
    let error = sent(&channel, b"text \xff").text().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidPayload);
    assert!(error.to_string().contains("from byte 5 on"), "{error}");
}

#[test]
fn a_reply_owns_its_bytes_in_any_thread_and_after_its_channel_is_gone() {
    for len in lengths(&echo()) {
        let channel = echo();
        let reply = sent(&channel, &vec![7; len]);
        drop(channel);
        let address = reply.payload().as_ptr().addr();
        let owner = Arc::new(reply);
        let other = Arc::clone(&owner);
        std::thread::spawn(move || assert_eq!(other.to_vec(), vec![7; len])).join().unwrap();
        assert_eq!(owner.payload().as_ptr().addr(), address, "moved, and in the same place");
    }
}

#[cfg(feature = "bytes")]
#[test]
fn shared_bytes_are_sent_and_made_of_replies() {
    let channel = echo();
    for len in lengths(&channel) {
        let bytes = bytes::Bytes::from(vec![5; len]);
        let reply = sent(&channel, &bytes);
        assert_eq!(bytes::Bytes::from(reply.payload()), bytes);
        assert_eq!(bytes::Bytes::from(reply), bytes);
    }
}

#[cfg(feature = "ndarray")]
#[test]
fn arrays_are_sent_and_made_of_replies() {
    use ndarray::Array2;

    let channel = echo();
    for len in lengths(&channel) {
        let array = Array2::from_shape_fn((len / 8, 2), |(row, col)| (row * 2 + col) as f32);
        for reply in [sent(&channel, &array), sent(&channel, &Matrix::try_from(&array).unwrap())] {
            let reader = MatrixReader::new(&reply).unwrap();
            assert_eq!(Array2::<f32>::try_from(&reader).unwrap(), array);
        }
        let transposed =
            Array2::<f32>::try_from(&MatrixReader::new(&sent(&channel, &array.t())).unwrap());
        assert_eq!(transposed.unwrap(), array.t());
    }
}

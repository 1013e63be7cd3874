//! Helpers of the payloads' tests, and tests of the plain payloads.

use std::borrow::Cow;
use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;

use super::*;

/// A source that a peer rewrites: the n-th read sees the n-th version.
pub(super) struct Rewritten {
    versions: Vec<Vec<u8>>,
    reads: Cell<usize>,
}

impl Rewritten {
    /// All versions have the same length.
    pub(super) fn new(versions: Vec<Vec<u8>>) -> Self {
        Self { versions, reads: Cell::new(0) }
    }
}

impl Source for Rewritten {
    fn len(&self) -> usize {
        self.versions[0].len()
    }

    fn read_at(&self, offset: usize, out: &mut [u8]) -> Result<()> {
        let read = self.reads.get();
        self.reads.set(read + 1);
        self.versions[read % self.versions.len()].read_at(offset, out)
    }
}

/// A source that counts how often each of its bytes was fetched.
pub(super) struct Counted {
    bytes: Vec<u8>,
    fetches: RefCell<Vec<usize>>,
}

impl Counted {
    pub(super) fn new(bytes: Vec<u8>) -> Self {
        let fetches = RefCell::new(vec![0; bytes.len()]);
        Self { bytes, fetches }
    }

    pub(super) fn assert_each_byte_was_fetched_once(&self) {
        assert!(self.fetches.borrow().iter().all(|&n| n == 1), "{:?}", self.fetches);
    }
}

impl Source for Counted {
    fn len(&self) -> usize {
        self.bytes.len()
    }

    fn read_at(&self, offset: usize, out: &mut [u8]) -> Result<()> {
        self.bytes.read_at(offset, out)?;
        self.fetches.borrow_mut()[offset..offset + out.len()].iter_mut().for_each(|n| *n += 1);
        Ok(())
    }
}

/// The encoding in a slot that held something else before.
pub(super) fn encoded<P: Payload + ?Sized>(payload: &P) -> Vec<u8> {
    let mut slot = vec![0xa5; payload.encoded_len()];
    payload.encode(&mut slot).unwrap();
    if let Some(parts) = payload.as_parts() {
        assert_eq!(parts.concat(), slot, "what is sent from where it lies");
    }
    slot
}

pub(super) fn assert_invalid<T: std::fmt::Debug>(result: Result<T>, words: &str) {
    let error = result.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidPayload);
    assert!(error.to_string().contains(words), "{error}");
}

#[test]
fn bytes_and_strings_are_their_own_encoding() {
    assert_eq!(encoded(&[1_u8, 2, 3][..]), [1, 2, 3]);
    assert_eq!(encoded(&[1_u8, 2, 3]), [1, 2, 3]);
    assert_eq!(encoded(&vec![1_u8, 2, 3]), [1, 2, 3]);
    assert_eq!(encoded("grüße"), "grüße".as_bytes());
    assert_eq!(encoded(&String::from("grüße")), "grüße".as_bytes());
    assert_eq!(encoded(&&&"x"), b"x");
    assert_eq!(encoded(&()), b"");
}

#[test]
fn a_pointer_to_a_payload_is_that_payload_and_sent_from_where_it_lies() {
    fn check<P: Payload + ?Sized>(payload: &P) {
        assert_eq!(encoded(payload), b"text");
        assert!(payload.as_parts().is_some());
    }
    let (mut text, bytes) = (String::from("text"), b"text".as_slice());
    check(&Box::<str>::from("text"));
    check(&Box::new(bytes.to_vec()));
    check(&Rc::<[u8]>::from(bytes));
    check(&Arc::new(text.clone()));
    check(&Cow::Borrowed("text"));
    check(&Cow::<[u8]>::Owned(bytes.to_vec()));
    check(&&mut text);
    check::<dyn Payload>(&text);
    let boxed: Box<dyn Payload> = Box::new("text");
    check(&boxed);
}

#[test]
fn a_pointer_to_a_source_is_that_source() {
    fn check(source: impl Source) {
        let mut out = [0; 2];
        source.read_at(1, &mut out).unwrap();
        assert_eq!((&out, source.len()), (b"ex", 4));
        assert_invalid(source.read_at(3, &mut out), "not inside a payload of 4 bytes");
    }
    check(Box::<[u8]>::from(*b"text"));
    check(Rc::new(b"text".to_vec()));
    check(Arc::new(*b"text"));
    check(Cow::Borrowed(b"text".as_slice()));
    let mut own = b"text".to_vec();
    let exclusive: &mut dyn Source = &mut own;
    check(exclusive);
    let boxed: Box<dyn Source> = Box::new(*b"text");
    check(boxed);
}

#[test]
fn a_slot_of_the_wrong_length_is_refused_and_both_lengths_are_named() {
    assert_invalid(b"abc".encode(&mut [0; 2]), "payload of 3 bytes does not fit a slot of 2");
    assert_invalid("abc".encode(&mut [0; 4]), "payload of 3 bytes does not fit a slot of 4");
    assert_invalid(().encode(&mut [0; 1]), "payload of 0 bytes does not fit a slot of 1");
}

#[test]
fn a_payload_and_a_source_work_behind_dyn() {
    let payload: &dyn Payload = &"abc";
    let bytes = encoded(payload);
    let source: &dyn Source = &bytes;
    let mut out = [0; 3];
    source.read_at(0, &mut out).unwrap();
    assert_eq!((&out, source.is_empty()), (b"abc", false));
}

#[test]
fn a_read_outside_of_the_source_is_refused_and_leaves_the_output_alone() {
    let source = [1_u8, 2, 3, 4];
    let mut out = [9; 2];
    source.read_at(2, &mut out).unwrap();
    assert_eq!(out, [3, 4]);
    for offset in [3, 4, 5, usize::MAX] {
        assert_invalid(source.read_at(offset, &mut out), "not inside a payload of 4 bytes");
        assert_eq!(out, [3, 4]);
    }
    source.read_at(4, &mut []).unwrap();
    assert_invalid(source.read_at(5, &mut []), "0 bytes at offset 5");
}

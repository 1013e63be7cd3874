//! Payloads and sources of the `bytes` crate.

use std::ops::Deref;

use bytes::{Bytes, BytesMut};

use super::{Payload, Source};
use crate::error::Result;
use crate::shm::bytes::PeerBytes;

forward_payload! { [] Bytes: deref, [] BytesMut: deref }
forward_source! { [] Bytes: deref, [] BytesMut: deref }

/// Copies the bytes, because the other process can still write to them.
///
/// ```
/// use bytes::Bytes;
/// use slipring::PeerBytes;
///
/// assert_eq!(Bytes::from(PeerBytes::of(b"a reply")), "a reply");
/// ```
impl From<PeerBytes<'_>> for Bytes {
    fn from(bytes: PeerBytes<'_>) -> Self {
        bytes.to_vec().into()
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{assert_invalid, encoded};
    use super::*;

    #[test]
    fn shared_bytes_are_payloads_and_sources_and_are_made_of_a_copy() {
        let bytes = Bytes::from_static(b"some bytes").slice(5..);
        assert_eq!(encoded(&bytes), b"bytes");
        assert_eq!(encoded(&BytesMut::from(&b"bytes"[..])), b"bytes");
        assert!(bytes.as_parts().is_some(), "it is sent from where it lies");
        let mut out = [0; 2];
        Source::read_at(&bytes, 3, &mut out).unwrap();
        assert_eq!(&out, b"es");
        assert_invalid(Source::read_at(&bytes, 4, &mut out), "not inside a payload of 5 bytes");
        assert_eq!(Bytes::from(PeerBytes::of(b"a copy")), "a copy");
    }
}

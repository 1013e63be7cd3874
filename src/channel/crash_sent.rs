//! What a crash report says of the frames that were sent to a worker, as far as they still lie in the
//! request ring.
//!
//! A ring may hold a million frames. So they are looked at one by one, and no more is kept of them than the
//! report has.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use crate::channel::sender::Sender;
use crate::protocol::kind::flags;
use crate::ring::{Header, PublishedFrame};

/// The most frames that a report lists.
const MOST_FRAMES: usize = 32;

/// Between two steps, in which others can have the lock.
const PAUSE: Duration = Duration::from_micros(50);

/// The frames that were sent last, and what was sent of some requests.
#[derive(Debug, Default)]
pub(super) struct Sent {
    /// Where the last frames start, and their headers, oldest first.
    pub(super) last: VecDeque<(u64, Header)>,
    pub(super) requests: BTreeMap<u64, SentRequest>,
}

/// What was sent of one request.
#[derive(Debug, Default)]
pub(super) struct SentRequest {
    /// The header of the first of its frames that were found.
    pub(super) header: Header,
    /// None of its frames is missing.
    pub(super) has_begin: bool,
    pub(super) has_end: bool,
    /// The length of the payloads that were found, and as many of their first bytes as are wanted.
    pub(super) len: u64,
    pub(super) payload: Vec<u8>,
}

impl Sent {
    /// Looks for what was sent of these requests, with so many bytes of each payload. Takes some
    /// milliseconds for a ring of 4 MiB, and holds no lock for long.
    pub(super) fn look(sender: &Sender, requests: &[u64], payload: usize) -> Self {
        let mut sent = Self::default();
        let see = |frame: &PublishedFrame<'_>| sent.add(frame, requests, payload);
        sender.look_back(see, || std::thread::sleep(PAUSE));
        sent
    }

    /// `requests` are sorted.
    fn add(&mut self, frame: &PublishedFrame<'_>, requests: &[u64], payload: usize) {
        if self.last.len() == MOST_FRAMES {
            self.last.pop_front();
        }
        let header = frame.header;
        self.last.push_back((frame.position, header));
        if requests.binary_search(&header.request).is_err() {
            return;
        }
        let begun = || SentRequest {
            header,
            has_begin: header.flags & flags::CONTINUED == 0,
            ..SentRequest::default()
        };
        let request = self.requests.entry(header.request).or_insert_with(begun);
        // What follows the begin of a message that was given up is no end of it.
        request.has_end = header.flags & (flags::MORE | flags::ABANDONED) == 0;
        request.len += u64::from(header.len);
        let wanted = payload.saturating_sub(request.payload.len());
        if request.has_begin && wanted > 0 {
            request.payload.extend(frame.payload(wanted));
        }
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use super::*;
    use crate::ring::Producer;
    use crate::ring::testing::{pattern, rig};

    /// Sends a frame of a request.
    fn send(producer: &mut Producer, request: u64, flags: u16, payload: &[u8]) {
        let mut claim = producer.try_claim(payload.len()).unwrap().unwrap();
        claim.payload().copy_from_slice(payload);
        claim.commit(Header { request, flags, kind: 40, aux: 7, ..Header::default() });
    }

    #[test]
    fn no_more_is_kept_of_a_full_ring_than_a_report_has() {
        let mut ring = rig(256 << 10, 1000, 0);
        (1..=3000).for_each(|request| send(&mut ring.producer, request, 0, &pattern(request, 20)));
        let sender = Sender::new(ring.producer);
        let sent = Sent::look(&sender, &[2, 900, 4000], 5);
        let last: Vec<_> = sent.last.iter().map(|(_, header)| header.request).collect();
        assert_eq!(last, (2969..=3000).collect::<Vec<_>>());
        assert_eq!(sent.requests.keys().copied().collect::<Vec<_>>(), [2, 900]);
        let of = &sent.requests[&900];
        assert_eq!((of.len, of.has_begin, of.has_end), (20, true, true));
        assert_eq!(of.payload, &pattern(900, 20)[..5]);
        assert!(Sent::look(&sender, &[2], 0).requests[&2].payload.is_empty());
    }

    #[test]
    fn the_pieces_of_a_message_are_one_and_say_whether_they_are_all() {
        const PIECE: u16 = flags::MORE | flags::CONTINUED;
        let mut ring = rig(256 << 10, 1000, 0);
        for (request, flags, payload) in [
            (1, flags::MORE, "abc"),
            (2, flags::MORE, "klm"),
            (1, PIECE, "defg"),
            (3, PIECE, "uvw"),
            (2, flags::CONTINUED | flags::ABANDONED, ""),
            (4, flags::MORE, "opq"),
            (1, flags::CONTINUED, "h"),
            (3, flags::CONTINUED, "xyz"),
        ] {
            send(&mut ring.producer, request, flags, payload.as_bytes());
        }
        let sent = Sent::look(&Sender::new(ring.producer), &[1, 2, 3, 4], 6);
        let found = sent.requests.values().map(|it| {
            let payload = String::from_utf8(it.payload.clone()).unwrap();
            (it.has_begin, it.has_end, it.len, payload)
        });
        let expected = [
            (true, true, 8, "abcdef".to_owned()),
            (true, false, 3, "klm".to_owned()),
            (false, true, 6, String::new()),
            (true, false, 3, "opq".to_owned()),
        ];
        assert_eq!(found.collect::<Vec<_>>(), expected);
    }
}

//! Arguments that can never be right are typed errors at once, on both sides. A timeout without end
//! is allowed.

use std::time::Duration;

use crate::common::*;
use slipring::payload::{ElementType, MatrixShape, TextBatch};
use slipring::{Config, ErrorKind, RawLink};

#[test]
fn a_payload_without_end_is_too_large_before_anything_waits() {
    let channel = spawn(Config::small());
    let kinds = [
        channel.call(ECHO, &Endless, Duration::MAX).unwrap_err(),
        channel.submit(ECHO, &Endless, Duration::MAX).unwrap_err(),
        channel.stream(ECHO, &Endless, Duration::MAX).unwrap_err(),
    ];
    for error in kinds {
        assert_eq!((error.kind(), error.was_begun()), (ErrorKind::TooLarge, Some(false)));
        assert_eq!(error.length_and_limit(), Some((usize::MAX, channel.config().max_message())));
    }
    let error = channel.call(ABSURD_CLAIM, b"", LONG).unwrap_err();
    assert!(error.to_string().contains("payload of 18446744073709551615 bytes"), "{error}");
    assert_usable(&channel);
}

#[test]
fn a_chunk_that_fits_no_frame_is_refused_without_a_wait_for_credit() {
    let config = tiny(4 << 10).stream_window(1024).build().unwrap();
    let channel = spawn(config);
    let mut stream = channel.stream(ABSURD, b"", LONG).unwrap();
    // The test reads nothing until the worker has had all refusals.
    eventually("it is refused", || channel.health().progress == 6);
    assert_eq!(stream.next_chunk().unwrap().unwrap().len(), 900);
    let kinds = stream.next_chunk().unwrap().unwrap().to_vec();
    assert_eq!(String::from_utf8(kinds).unwrap(), format!("{:?}", [ErrorKind::TooLarge; 6]));
    assert!(stream.next_chunk().unwrap().is_none());
}

#[test]
fn times_without_end_are_no_overflow() {
    let channel = spawn(Config::small());
    channel.wait_ready(Duration::MAX).unwrap();
    channel.ping(Duration::MAX).unwrap();
    assert_eq!(channel.call(ECHO, b"x", Duration::MAX).unwrap().to_vec(), b"x");
    let mut stream = channel.stream(COUNT, &encode(&[2, 8]), Duration::MAX).unwrap();
    while stream.next_chunk().unwrap().is_some() {}
    let mut writer = channel.write(SUM, Duration::MAX).unwrap();
    writer.push(&[1; 100_000]).unwrap();
    assert_eq!(numbers(&writer.finish().unwrap().wait().unwrap().to_vec()), [100_000]);
    for almost in [Duration::MAX - Duration::from_nanos(1), Duration::from_nanos(u64::MAX)] {
        assert_eq!(channel.call(ECHO, b"x", almost).unwrap().to_vec(), b"x");
    }
    channel.close_draining(Duration::MAX).unwrap();
}

#[cfg(feature = "async")]
#[test]
fn a_spin_without_end_ends_with_the_call() {
    let channel = spawner().pollable().spawn().unwrap();
    let channel = slipring::tasks::AsyncChannel::new(channel).unwrap().with_spin(Duration::MAX);
    pollster::block_on(async {
        for _ in 0..10 {
            assert_eq!(channel.call(ECHO, b"x", Duration::MAX).await.unwrap().to_vec(), b"x");
        }
        let stuck = channel.call(UNTIL_CANCELLED, b"", Duration::from_millis(50)).await;
        assert!(stuck.unwrap_err().is_timeout());
        assert!(channel.call(ECHO, &Endless, Duration::MAX).await.unwrap_err().is_too_large());
        channel.close(Duration::MAX).await.unwrap();
    });
}

#[test]
fn sizes_without_end_are_refused_by_encoders_and_configurations() {
    let element = ElementType::F32;
    for (rows, cols) in [(usize::MAX, 1), (1, usize::MAX), (1 << 31, 1 << 31)] {
        assert_eq!(
            MatrixShape::new(rows, cols, element).unwrap_err().kind(),
            ErrorKind::InvalidPayload
        );
    }
    for (count, bytes) in [(usize::MAX, 0), (0, usize::MAX), (usize::MAX, usize::MAX)] {
        let error = TextBatch::encoded_len_for(count, bytes).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidPayload);
    }
    let huge = usize::MAX;
    let builder = Config::builder;
    let builders = [
        builder().request_ring(huge),
        builder().reply_ring(huge),
        builder().max_request_frame(huge),
        builder().max_reply_frame(huge),
        builder().max_message(huge),
        builder().health_ring(huge),
        builder().health_ring(0),
        builder().max_in_flight(huge),
        builder().stream_window(huge),
        builder().wait_strategy(slipring::WaitStrategy::SpinThenPark(Duration::MAX)),
    ];
    for builder in builders {
        let shown = format!("{builder:?}");
        assert_eq!(builder.build().unwrap_err().kind(), ErrorKind::InvalidConfig, "{shown}");
    }
}

#[test]
fn a_raw_link_refuses_what_fits_no_frame() {
    if slipring::worker::is_worker() {
        let (mut link, _) = slipring::worker::attach_raw().unwrap();
        refuses(&mut link);
        let mut slot = link.claim(1, Duration::MAX).unwrap();
        slot.payload()[0] = 7;
        slot.commit(slipring::ring::Header::default());
        let _ = link.recv(Duration::MAX);
        return;
    }
    let spawner = spawner_of(a_raw_link_refuses_what_fits_no_frame).config(Config::small());
    let mut link = spawner.spawn_raw().unwrap();
    refuses(&mut link);
    let taken = link.drain(usize::MAX, Duration::MAX, |_, payload| assert_eq!(payload.len(), 1));
    assert_eq!(taken.unwrap(), 1);
    link.close(LONG).unwrap();
}

fn refuses(link: &mut RawLink) {
    for len in [usize::MAX, usize::MAX - 95, 1 << 40] {
        assert!(link.claim(len, Duration::MAX).unwrap_err().is_too_large());
        assert!(link.claim_batch(len, usize::MAX, Duration::MAX).unwrap_err().is_too_large());
        assert!(link.try_claim(len).unwrap_err().is_too_large());
        assert!(link.halves().0.has_room_for(len).unwrap_err().is_too_large());
    }
    let batch = link.claim_batch(1, usize::MAX, Duration::MAX).unwrap();
    assert!(batch.len() < 2000);
    drop(batch);
}

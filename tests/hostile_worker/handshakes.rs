//! A worker that lies before it has attached.

use slipring::{Error, ErrorKind};

use crate::common::*;
use crate::parent::*;

fn refused_handshake(case: &str) -> Error {
    let spawner = with_case(&format!("handshake: {case}")).handshake_timeout(HANDSHAKE);
    let mut over = Overtime::default();
    over.in_time(case, || spawner.spawn().map(drop)).expect_err(case)
}

#[test]
fn a_header_that_is_not_the_given_one_is_refused_with_both_values() {
    for (case, parts) in [
        ("magic", &["magic 0x", "expected 0x474e495250494c53"][..]),
        ("version", &["version 9", "speaks 2", "hostile"]),
        ("side", &["side 1", "expected side 2"]),
        ("channel", &["another channel"]),
        ("features", &["features 0x4", "knows 0x0"]),
        ("length", &["region of", "says 4096"]),
        ("capacity", &["this region", "expected at"]),
        ("offset", &["this region", "expected at"]),
        ("origin", &["at position 1"]),
        ("frames", &["frames of 4294967295 bytes"]),
        ("reserved", &["reserved"]),
        ("nothing", &["magic 0x0000000000000000"]),
    ] {
        let error = refused_handshake(case);
        assert_eq!(error.kind(), ErrorKind::Mismatch, "{case}: {error}");
        for part in parts {
            assert!(error.to_string().contains(part), "{case}: {part} is missing in: {error}");
        }
    }
    assert_others_are_untouched();
}

#[test]
fn a_lie_about_any_byte_of_the_header_is_refused_or_means_nothing() {
    for at in 0..384 {
        let spawner = with_case(&format!("handshake: byte {at}")).handshake_timeout(LONG);
        let spawned = spawner.spawn().map(drop);
        // The parent uses its own limits. Process id and name are only shown.
        let means_nothing = (216..236).contains(&at) || (240..304).contains(&at);
        match spawned {
            Ok(()) => assert!(means_nothing, "byte {at} was not looked at"),
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::Mismatch, "byte {at}: {error}");
                assert!(!means_nothing, "byte {at}: {error}");
            }
        }
    }
}

#[test]
fn an_answer_that_cannot_be_is_a_failed_handshake_in_time() {
    for (case, kinds, part) in [
        ("garbage", &[ErrorKind::Handshake][..], "0x5a5a5a5a"),
        ("empty", &[ErrorKind::Handshake], "hostile"),
        ("short", &[ErrorKind::Handshake], "hostile"),
        ("other version", &[ErrorKind::Mismatch], "version 3, this side speaks 2"),
        ("too long", &[ErrorKind::Handshake], "4294967295"),
        ("64 KiB and one", &[ErrorKind::Handshake], "65537"),
        ("half", &[ErrorKind::Handshake], "exited with code 3"),
        ("refused", &[ErrorKind::Mismatch], "I do not like it"),
        ("refused without end", &[ErrorKind::Handshake], "hostile"),
        ("silence", &[ErrorKind::Handshake], "before the deadline"),
        ("by drops", &[ErrorKind::Handshake], "before the deadline"),
        ("descriptors", &[ErrorKind::Handshake], "descriptors"),
        ("end", &[ErrorKind::Handshake], "exited with code 0"),
    ] {
        let error = refused_handshake(case);
        assert!(is_one_of(&error, kinds), "{case}: {error:?}");
        assert!(error.to_string().contains(part), "{case}: {part} is missing in: {error}");
    }
    // A second answer is not read.
    let channel = with_case("handshake: twice").spawn().unwrap();
    end(&channel, "twice");
    let channel = with_case("handshake: build").spawn().unwrap();
    end(&channel, "build");
    assert_others_are_untouched();
}

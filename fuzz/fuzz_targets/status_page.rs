#![no_main]
#![allow(missing_docs, reason = "src/lib.rs describes the targets")]

libfuzzer_sys::fuzz_target!(|data: &[u8]| slipring_fuzz::check("status_page", data));

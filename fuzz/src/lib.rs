//! The fuzz targets of slipring: for each a check that must hold for any input.
//!
//! The programs in `fuzz_targets/` run a check on inputs that the fuzzer invents,
//! `tests/replay.rs` runs all checks on the inputs in `seeds/` and `regressions/`, without a
//! fuzzer. The checks of payloads ([`payloads`], [`roles`]), of recordings ([`recording`]) and of a worker's
//! answers ([`interleaved`]) use the public interface. All others need the inside of the library: they are in `inside/`, which the library compiles as its module
//! `fuzzing` in builds with `--cfg slipring_fuzzing`. Those in `gateway/` are the same for the library of
//! the gateway.
//!
//! To add a target, add
//!
//! * a function in this package, in `inside/` or in `gateway/`, and its row in [`TARGETS`],
//! * a program in `fuzz_targets/` and its `[[bin]]` in `Cargo.toml`,
//! * at least one input in `seeds/<target>/`.
//!
//! An input that failed goes to `regressions/<target>/`, under a name that says what it shows.

pub mod interleaved;
pub mod payloads;
pub mod recording;
pub mod roles;

/// Panics if the input shows a fault.
pub type Check = fn(&[u8]);

/// Every target by name, with its check.
pub const TARGETS: &[(&str, Check)] = &[
    ("text_batch", payloads::text_batch),
    ("matrix", payloads::matrix),
    ("roles", roles::roles),
    ("recording", recording::recording),
    ("attach_header", slipring::fuzzing::attach_header),
    ("ring", slipring::fuzzing::ring),
    ("messages", slipring::fuzzing::messages),
    ("hostile_peer", slipring::fuzzing::hostile_peer),
    ("streams", slipring::fuzzing::streams),
    ("inspect", slipring::fuzzing::inspect),
    ("status_page", slipring::fuzzing::status_page),
    ("interleaved", interleaved::interleaved),
    ("gateway_frames", slipring_gateway::fuzzing::gateway_frames),
    ("gateway_errors", slipring_gateway::fuzzing::gateway_errors),
];

/// Runs the check of the target with this name.
///
/// # Panics
///
/// If the input shows a fault, or if no target has this name.
pub fn check(target: &str, data: &[u8]) {
    let found = TARGETS.iter().find(|(name, _)| *name == target);
    let (_, check) = found.unwrap_or_else(|| panic!("no fuzz target has the name {target}"));
    check(data);
}

//! The checked-in code and descriptors are those of the `.proto`.
//!
//! `SLIPRING_GENERATE=1 cargo test -p slipring-gateway --test generated` writes them.

use std::path::Path;

use prost_build::Config;
use protox::prost::Message as _;

const PROTO: &str = "slipring/v1/workers.proto";

#[test]
fn the_generated_code_and_descriptors_are_those_of_the_proto() {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut compiler = protox::Compiler::new([here.join("proto")]).unwrap();
    compiler.include_source_info(false).open_file(PROTO).unwrap();
    let descriptors = compiler.file_descriptor_set().encode_to_vec();

    let commented = protox::Compiler::new([here.join("proto")])
        .unwrap()
        .include_source_info(true)
        .open_file(PROTO)
        .unwrap()
        .file_descriptor_set();
    let out = tempdir();
    // Payloads stay where they were received.
    Config::new().bytes(["."]).out_dir(&out).compile_fds(commented).unwrap();
    let code = std::fs::read(out.join("slipring.v1.rs")).unwrap();
    std::fs::remove_dir_all(&out).unwrap();
    for (name, made) in [("slipring.v1.rs", code), ("workers.bin", descriptors)] {
        let path = here.join("src/generated").join(name);
        if std::env::var_os("SLIPRING_GENERATE").is_some() {
            std::fs::write(&path, &made).unwrap();
        }
        let kept = std::fs::read(&path).unwrap_or_default();
        assert!(kept == made, "{name} is not what the .proto says");
    }
}

fn tempdir() -> std::path::PathBuf {
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("code-{}", std::process::id()));
    std::fs::create_dir_all(&path).unwrap();
    path
}

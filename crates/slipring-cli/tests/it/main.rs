//! The program, run as a user runs it.

mod bench;
mod cli;
mod common;
mod doctor;
mod external;
mod failures;
mod help;
mod hosts;
mod inherited;
mod inputs;
mod inspect;
mod namespaces;
mod outputs;
mod refusing;
mod replay;
mod screen;
mod soak;

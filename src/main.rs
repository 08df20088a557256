//! The program: everything is in the library.

use std::process::ExitCode;

fn main() -> ExitCode {
    if let Err(error) = sealdisk::crypto::harden::process() {
        eprintln!("error: {error}");
        return ExitCode::FAILURE;
    }
    sealdisk::cli::run(std::env::args_os())
}

//! The program: everything is in the library.

use std::io::Write;
use std::process::ExitCode;

fn main() -> ExitCode {
    if cfg!(sealdisk_sim) {
        let _ = writeln!(
            std::io::stderr(),
            "error: this program was built for the crash tests (--cfg sealdisk_sim): it encrypts nothing, and its keys are no \
             secret\nhint: build it again without that flag"
        );
        return ExitCode::FAILURE;
    }
    // Before any key is read: nobody may look into this process, and its cipher must be the one of the standard.
    if let Err(error) = sealdisk::crypto::harden::process().and_then(|()| sealdisk::crypto::xts::self_test()) {
        // Standard error may be closed.
        let _ = writeln!(std::io::stderr(), "error: {error}");
        return ExitCode::FAILURE;
    }
    sealdisk::cli::run(std::env::args_os())
}

//! `nbdkit` between a client and the server: its filters change how requests come, and the data stays the same.

use crate::support::{Account, MIB, file_system_image, program, stdout_of};

/// Copies an image to a disk and back through nbdkit with filters, then compares it read straight from the server.
fn through_filters(filters: &[&str], parameters: &[&str]) {
    let account = Account::new();
    let raw = account.scratch("files.img");
    file_system_image(&raw, 8 * MIB);
    account.create("disk", 8 * MIB);
    let server = account.serve();
    let direct = server.uri("disk");
    let raw = raw.to_str().expect("UTF-8");

    // nbdkit ends with the command of --run, and with its exit status.
    let mut nbdkit = program("nbdkit");
    nbdkit.args(["--exit-with-parent", "-U", "-"]);
    nbdkit.args(filters.iter().map(|filter| format!("--filter={filter}")));
    nbdkit.arg("nbd").arg(format!("uri={direct}")).args(parameters);
    nbdkit.arg("--run").arg(format!("nbdcopy {raw} \"$uri\" && nbdcopy \"$uri\" {raw}.copy && cmp {raw} {raw}.copy"));
    stdout_of(&mut nbdkit);
    stdout_of(program("qemu-img").args(["compare", "-f", "raw", "-F", "raw", raw, &direct]));
}

#[test]
fn small_unaligned_requests() {
    through_filters(&["blocksize"], &["maxdata=7680"]);
}

#[test]
fn late_requests() {
    through_filters(&["delay"], &["rdelay=2ms", "wdelay=2ms"]);
}

#[test]
fn failed_requests_that_are_tried_again() {
    through_filters(&["retry-request", "error"], &["error-rate=5%", "retry-request-delay=1"]);
}

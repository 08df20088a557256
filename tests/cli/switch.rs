//! The switch, byte for byte: what is written with encryption on, off and on again, over the base and over itself,
//! lies in the layer files exactly as `map` says, whenever the server was restarted.

use std::fs;

use crate::client::Client;
use crate::layers::PAGE;
use crate::model::{Model, files_below};
use crate::support::{Account, MIB, program, sha256, stdout_of, vhd_of};

const DISK: &str = "disk";
const BASE_SIZE: usize = 2 * MIB as usize;
const SIZE: usize = 3 * MIB as usize;

/// A fixed VHD by qemu-img without a page of zeros, and its content.
fn base_image(account: &Account) -> (std::path::PathBuf, Vec<u8>) {
    let raw = account.scratch("base.raw");
    let content: Vec<u8> = (0..BASE_SIZE).map(|at| (at / PAGE + at * 31 + 1) as u8 | 1).collect();
    fs::write(&raw, &content).expect("a raw image");
    (vhd_of(&raw, "fixed"), content)
}

/// Switches while a server runs, which first is given nothing to do in the background.
fn switch_live(account: &Account, model: &mut Model, on: bool) {
    scrub(account);
    switch(account, model, on);
}

/// Switches, and sees that this alone changes nothing that is stored.
fn switch(account: &Account, model: &mut Model, on: bool) {
    let disks = || files_below(&account.dir().join("disks"));
    let map = || account.json(&["map", DISK]);
    // In this order: whoever looks at a disk after a kill notes in its files what it saw.
    let (map_before, files_before) = (map(), disks());
    let word = if on { "on" } else { "off" };
    assert_eq!(account.json(&["encryption", word]), serde_json::json!({ "encryption": word }));
    assert!(disks() == files_before, "switching changed a file of a disk");
    assert_eq!(map(), map_before);
    model.set_encryption(on);
}

#[test]
fn what_is_stored_is_what_the_switch_said_when_it_was_written() {
    let account = Account::new();
    let (base, base_content) = base_image(&account);
    let base_sum = sha256(&base);
    stdout_of(account.command().args(["create", DISK, "--size", &SIZE.to_string(), "--base"]).arg(&base));
    let mut model = Model::new(DISK, &base_content, SIZE);
    model.check_files(&account, true);

    // On, off, on; over the base, past its end, over each other, and not at the border of a page.
    let server = account.serve();
    let mut client = Client::attach(&server, DISK);
    model.check_reads(&mut client);
    model.write(&mut client, 0, 64);
    model.write(&mut client, 4000, 700);
    model.write_bytes(&mut client, 100 * PAGE + 100, &[0xA5; 1000]);
    model.check_files(&account, false);
    switch_live(&account, &mut model, false);
    model.write(&mut client, 32, 64);
    model.write(&mut client, 5000, 500);
    model.write_bytes(&mut client, 10 * PAGE + 511, b"xx");
    model.check_files(&account, false);
    model.check_reads(&mut client);
    switch_live(&account, &mut model, true);
    // To and fro without a write makes nothing.
    switch_live(&account, &mut model, false);
    switch_live(&account, &mut model, true);
    model.write(&mut client, 48, 32);
    model.scatter(&mut client, 40);
    client.flush();
    model.check_files(&account, false);
    scrub(&account);
    model.check_files(&account, true);
    model.check_reads(&mut client);

    // Over a restart with SIGTERM: the first write after it obeys the setting, made while nothing was served.
    drop(client);
    assert!(server.terminate().success());
    model.check_files(&account, true);
    switch(&account, &mut model, false);
    let server = account.serve();
    let mut client = Client::attach(&server, DISK);
    model.check_reads(&mut client);
    model.write(&mut client, 1, 1);
    model.check_files(&account, false);
    model.scatter(&mut client, 40);
    clear(&server.uri(DISK), &mut model, 200, 96);
    client.flush();
    model.check_files(&account, false);

    // And after kill -9, over a server that was never asked to close anything.
    drop(client);
    server.kill();
    switch(&account, &mut model, true);
    let server = account.serve();
    let mut client = Client::attach(&server, DISK);
    model.check_reads(&mut client);
    model.write(&mut client, 2, 1);
    model.check_files(&account, false);
    model.scatter(&mut client, 40);
    scrub(&account);
    model.check_files(&account, true);
    model.check_reads(&mut client);

    drop(client);
    assert!(server.terminate().success());
    model.check_files(&account, true);
    assert_eq!(sha256(&base), base_sum, "the base image was changed");
}

/// Discards pages, as a guest's file system does.
fn clear(uri: &str, model: &mut Model, page: usize, pages: usize) {
    let command = format!("discard {} {}", page * PAGE, pages * PAGE);
    let text = stdout_of(program("qemu-io").args(["-f", "raw", "-d", "unmap", "-c", &command, uri]));
    assert!(text.contains("bytes at offset"), "{text}");
    model.cleared(page, pages);
}

fn scrub(account: &Account) {
    let done = account.json(&["scrub", DISK, "--wait"]);
    assert_eq!(done["pending_scrub_bytes"], 0, "{done}");
}

//! Every disk of the corpus as the base under a disk, read over NBD in pieces.

use std::io::{Read, Seek, SeekFrom};
use std::os::unix::net::UnixStream;

use nbd::client::{NbdClient, handshake};

use crate::corpus;
use crate::support::Account;

/// Bytes at the beginning and end that are read in the smallest pieces: all of it would take long, one by one.
const ENDS: usize = 128 << 10;

#[test]
fn the_corpus_reads_the_same_over_nbd() {
    let account = Account::new();
    let mut disks = Vec::new();
    let folder = account.scratch("images");
    std::fs::create_dir(&folder).unwrap();
    corpus::each(&folder, |disk| {
        account.create_over(disk.name, &disk.path);
        disks.push(disk);
    });
    let server = account.serve();
    for disk in &disks {
        let mut stream = UnixStream::connect(server.socket()).unwrap();
        let export = handshake(&mut stream, disk.name.as_bytes()).unwrap();
        assert_eq!(export.size as usize, disk.content.len(), "{}", disk.name);
        let mut client = NbdClient::new(&mut stream, &export);
        let last = disk.content.len().saturating_sub(ENDS);
        for (piece, range) in [
            (512, 0..disk.content.len().min(ENDS)),
            (512, last..disk.content.len()),
            (4 << 10, 0..disk.content.len().min(8 * ENDS)),
            (64 << 10, 0..disk.content.len()),
            (1 << 20, 0..disk.content.len()),
            (777 * 512, 0..disk.content.len()),
            // Not even whole sectors.
            (65_537, 0..disk.content.len()),
        ] {
            let mut read = vec![0xAA; range.len()];
            client.seek(SeekFrom::Start(range.start as u64)).unwrap();
            for part in read.chunks_mut(piece) {
                client.read_exact(part).unwrap();
            }
            assert!(read == disk.content[range], "{} in pieces of {piece}", disk.name);
        }
    }
}

//! Every disk of the corpus reads the same in pieces of any size, as the base image that it would be under a disk.

use sealdisk::base::{self, BaseImage, BaseRun};
use sealdisk::{Error, ErrorKind};

use crate::build::mix;
use crate::corpus;

fn read_in(image: &dyn BaseImage, piece: usize, wait: bool) -> Vec<u8> {
    let mut bytes = vec![0xAA; image.size() as usize];
    for (n, part) in bytes.chunks_mut(piece).enumerate() {
        let at = (n * piece) as u64;
        // What was just read lies in the page cache, so that the second form mostly answers; it may not, though.
        if wait || !image.try_read_at(at, part).unwrap() {
            image.read_at(at, part).unwrap();
        }
    }
    bytes
}

#[test]
fn all_sizes_of_pieces_read_the_same() {
    let dir = tempfile::tempdir().unwrap();
    corpus::each(dir.path(), |disk| {
        let (image, record) = base::open(&disk.path, &base::OpenOptions::default()).unwrap();
        assert_eq!(record.size as usize, disk.content.len(), "{}", disk.name);
        for piece in [512, 4 << 10, 64 << 10, 1 << 20, 7 * 512, 4097 * 512] {
            for wait in [true, false] {
                assert!(read_in(&*image, piece, wait) == disk.content, "{} in pieces of {piece}", disk.name);
            }
        }
        let sectors = image.size() / 512;
        for n in 0..200 {
            let start = mix(n) % sectors;
            let len = 1 + mix(n ^ 0xFF) % (sectors - start).min(300);
            let mut buf = vec![0xAA; len as usize * 512];
            image.read_at(start * 512, &mut buf).unwrap();
            assert!(buf == disk.content[start as usize * 512..][..buf.len()], "{} at {start}+{len}", disk.name);
        }
        let again = base::reopen(&record).unwrap();
        assert!(read_in(&*again, 1 << 20, true) == disk.content, "{} reopened", disk.name);
    });
}

#[test]
fn an_error_of_the_visitor_ends_a_visit_of_runs() {
    let dir = tempfile::tempdir().unwrap();
    corpus::each(dir.path(), |disk| {
        let (image, _) = base::open(&disk.path, &base::OpenOptions::default()).unwrap();
        let mut visits = 0;
        let ended = image.runs(0, image.size(), &mut |_, _| {
            visits += 1;
            Err(Error::new(ErrorKind::OutOfRange, "enough"))
        });
        assert_eq!((visits, ended.unwrap_err().kind()), (1, ErrorKind::OutOfRange), "{}", disk.name);
    });
}

#[test]
fn runs_say_what_is_held() {
    let dir = tempfile::tempdir().unwrap();
    corpus::each(dir.path(), |disk| {
        let (image, _) = base::open(&disk.path, &base::OpenOptions::default()).unwrap();
        for (start, end) in [(0, image.size()), (512, image.size()), (0, image.size() / 1024 * 512)] {
            let mut held = Vec::new();
            image
                .runs(start, end.saturating_sub(start), &mut |run, len| {
                    assert!(len > 0 && len.is_multiple_of(512));
                    held.extend(std::iter::repeat_n(run == BaseRun::Data, len as usize / 512));
                    Ok(())
                })
                .unwrap();
            if start < end {
                assert!(held == disk.held[start as usize / 512..end as usize / 512], "{}", disk.name);
            }
        }
    });
}

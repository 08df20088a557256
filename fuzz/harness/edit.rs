//! A golden file with a few bytes changed, out of the input of a target.

/// Edits: offset u16, what u8, length u8, and where bytes are written or put in, they. Offsets count from the end of
/// what is there where the highest bit of `what` is set.
pub(crate) fn edit(mut file: Vec<u8>, mut edits: &[u8]) -> Vec<u8> {
    while let [low, high, what, len, rest @ ..] = edits {
        let offset = usize::from(u16::from_le_bytes([*low, *high]));
        let at = if what & 0x80 == 0 { offset.min(file.len()) } else { file.len().saturating_sub(offset) };
        let len = usize::from(*len);
        let taken = rest.len().min(len);
        match what & 7 {
            0 => file.truncate(at),
            1 => {
                let end = file.len().min(at + len * 32);
                file[at..end].fill(0);
            }
            2 => {
                let end = file.len().min(at + len);
                drop(file.drain(at..end));
            }
            3 => drop(file.splice(at..at, rest[..taken].iter().copied())),
            // A piece of the file, once more at its end.
            4 => file.extend_from_within(at..file.len().min(at + len * 32)),
            _ => {
                let end = file.len().min(at + taken);
                file[at..end].copy_from_slice(&rest[..end - at]);
            }
        }
        let used = if matches!(what & 7, 0 | 1 | 2 | 4) { 0 } else { taken };
        edits = &rest[used..];
    }
    file
}

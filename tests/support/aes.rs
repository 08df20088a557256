//! The key schedule of AES-256 (FIPS 197), to know what an expanded key looks like in memory.

/// Bytes of the fifteen round keys.
pub(crate) const SCHEDULE: usize = 240;

/// Fills `schedule`, which the caller overwrites again; nothing else keeps a part of the key.
pub(crate) fn expand(key: &[u8], schedule: &mut [u8; SCHEDULE]) {
    let sbox = sbox();
    schedule[..32].copy_from_slice(key);
    let mut rcon = 1u8;
    for i in 8..60 {
        let mut word: [u8; 4] = *schedule[(i - 1) * 4..].first_chunk().expect("a word");
        if i % 8 == 0 {
            word.rotate_left(1);
            word = word.map(|byte| sbox[byte as usize]);
            word[0] ^= rcon;
            rcon <<= 1;
        } else if i % 8 == 4 {
            word = word.map(|byte| sbox[byte as usize]);
        }
        for n in 0..4 {
            schedule[i * 4 + n] = schedule[(i - 8) * 4 + n] ^ word[n];
        }
    }
}

/// FIPS 197, section 5.1.1: the inverse in GF(2^8), then an affine map.
fn sbox() -> [u8; 256] {
    let times = |mut a: u8, mut b: u8| {
        let mut product = 0;
        while b != 0 {
            if b & 1 != 0 {
                product ^= a;
            }
            a = (a << 1) ^ if a & 0x80 != 0 { 0x1B } else { 0 };
            b >>= 1;
        }
        product
    };
    std::array::from_fn(|byte| {
        let inverse = (0..=255).find(|&other| times(byte as u8, other) == 1).unwrap_or(0);
        (0..5).fold(0x63, |sum, turn| sum ^ inverse.rotate_left(turn))
    })
}

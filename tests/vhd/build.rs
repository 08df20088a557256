//! A generator of VHDs, written from the specification alone and sharing no code with what it tests: disks with known
//! content, well-formed or broken in one chosen way.

pub(crate) const SECTOR: usize = 512;
pub(crate) const FOOTER_COPY: usize = 0;

/// SplitMix64: enough for content and patterns.
pub(crate) fn mix(seed: u64) -> u64 {
    let z = seed.wrapping_add(0x9E37_79B9_7F4A_7C15);
    let z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

/// The content of sector `n` of a disk made with `seed`; never all zeros.
pub(crate) fn sector(seed: u64, n: u64) -> [u8; SECTOR] {
    let mut bytes = [0; SECTOR];
    for (i, word) in bytes.chunks_exact_mut(8).enumerate() {
        word.copy_from_slice(&(mix(seed ^ (n << 8) ^ i as u64) | 1).to_le_bytes());
    }
    bytes
}

pub(crate) fn put(bytes: &mut [u8], at: usize, value: &[u8]) {
    bytes[at..at + value.len()].copy_from_slice(value);
}

/// Makes the checksum at `field` of the structure `bytes` right.
pub(crate) fn seal(bytes: &mut [u8], field: usize) {
    bytes[field..field + 4].fill(0);
    let sum: u32 = bytes.iter().map(|&byte| u32::from(byte)).sum();
    put(bytes, field, &(!sum).to_be_bytes());
}

pub(crate) fn seal_footer(bytes: &mut [u8]) {
    seal(&mut bytes[..512], 64);
}

pub(crate) fn seal_header(bytes: &mut [u8]) {
    seal(&mut bytes[..1024], 36);
}

/// A footer with a right checksum. `kind`: 2 fixed, 3 dynamic, 4 differencing.
pub(crate) fn footer(kind: u32, size: u64, data_offset: u64, id: u128) -> [u8; 512] {
    let mut f = [0; 512];
    put(&mut f, 0, b"conectix");
    put(&mut f, 8, &2u32.to_be_bytes());
    put(&mut f, 12, &0x0001_0000u32.to_be_bytes());
    put(&mut f, 16, &data_offset.to_be_bytes());
    put(&mut f, 24, &600_000_000u32.to_be_bytes());
    put(&mut f, 28, b"win ");
    put(&mut f, 32, &0x000A_0000u32.to_be_bytes());
    put(&mut f, 36, b"Wi2k");
    put(&mut f, 40, &size.to_be_bytes());
    put(&mut f, 48, &size.to_be_bytes());
    put(&mut f, 60, &kind.to_be_bytes());
    put(&mut f, 68, &id.to_be_bytes());
    seal_footer(&mut f);
    f
}

/// Which sectors of a disk its file holds.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Held {
    All,
    None,
    /// Every block whose number divides by this.
    Blocks(u64),
    /// Sectors at random, in runs of about so many.
    Runs(u64),
    /// Only the first and last sector of each block.
    Edges,
}

/// A dynamic or differencing disk to be built.
#[derive(Debug, Clone)]
pub(crate) struct Sparse {
    pub size: u64,
    pub block: u64,
    pub seed: u64,
    pub id: u128,
    pub held: Held,
    /// Other than zeros where a bitmap bit is clear.
    pub junk: bool,
    /// Blocks in descending order in the file.
    pub reverse: bool,
    /// Data of each block on a border of so many bytes.
    pub align: u64,
    pub header_at: u64,
    pub table_at: u64,
    /// Table entries beyond what the size needs.
    pub spare: u32,
    /// Bytes between the last block and the footer.
    pub gap: u64,
    pub parent: Option<Parent>,
}

/// How a child names its parent.
#[derive(Debug, Clone)]
pub(crate) struct Parent {
    pub id: u128,
    pub time: u32,
    pub name: String,
    /// Code, bytes; put behind the table in order.
    pub locators: Vec<([u8; 4], Vec<u8>)>,
}

impl Default for Sparse {
    fn default() -> Self {
        Self {
            size: 5 << 20,
            block: 2 << 20,
            seed: 1,
            id: 0x0D,
            held: Held::All,
            junk: false,
            reverse: false,
            align: 512,
            header_at: 512,
            table_at: 1536,
            spare: 0,
            gap: 0,
            parent: None,
        }
    }
}

/// What a disk of one file holds: `None` where it does not.
pub(crate) type Model = Vec<Option<[u8; SECTOR]>>;

impl Sparse {
    fn holds(&self, sector: u64) -> bool {
        let per_block = self.block / 512;
        let (block, within) = (sector / per_block, sector % per_block);
        match self.held {
            Held::All => true,
            Held::None => false,
            Held::Blocks(n) => block.is_multiple_of(n),
            Held::Runs(len) => mix(self.seed ^ 0xABCD ^ (sector / len)) & 1 == 0,
            Held::Edges => within == 0 || within == per_block - 1,
        }
    }

    pub(crate) fn model(&self) -> Model {
        (0..self.size / 512).map(|n| self.holds(n).then(|| sector(self.seed, n))).collect()
    }

    pub(crate) fn build(&self) -> Vec<u8> {
        let kind = if self.parent.is_some() { 4 } else { 3 };
        let blocks = self.size.div_ceil(self.block);
        let entries = blocks as u32 + self.spare;
        let mut header = [0; 1024];
        put(&mut header, 0, b"cxsparse");
        put(&mut header, 8, &[0xFF; 8]);
        put(&mut header, 16, &self.table_at.to_be_bytes());
        put(&mut header, 24, &0x0001_0000u32.to_be_bytes());
        put(&mut header, 28, &entries.to_be_bytes());
        put(&mut header, 32, &(self.block as u32).to_be_bytes());
        let mut end = (self.table_at + u64::from(entries) * 4).max(self.header_at + 1024).next_multiple_of(512);
        let mut file = Vec::new();
        if let Some(parent) = &self.parent {
            put(&mut header, 40, &parent.id.to_be_bytes());
            put(&mut header, 56, &parent.time.to_be_bytes());
            for (n, unit) in parent.name.encode_utf16().enumerate() {
                put(&mut header, 64 + n * 2, &unit.to_be_bytes());
            }
            for (n, (code, bytes)) in parent.locators.iter().enumerate() {
                let space = bytes.len().next_multiple_of(512);
                let entry = 576 + n * 24;
                put(&mut header, entry, code);
                put(&mut header, entry + 4, &(space as u32).to_be_bytes());
                put(&mut header, entry + 8, &(bytes.len() as u32).to_be_bytes());
                put(&mut header, entry + 16, &end.to_be_bytes());
                file.resize(end as usize + space, 0);
                put(&mut file, end as usize, bytes);
                end += space as u64;
            }
        }
        seal_header(&mut header);
        file.resize(end as usize, 0);
        let mut table = vec![u32::MAX; entries as usize];
        let bitmap_len = (self.block / 512 / 8).next_multiple_of(512);
        let sectors = self.size / 512;
        let mut order: Vec<u64> = (0..blocks).collect();
        if self.reverse {
            order.reverse();
        }
        for block in order {
            let per_block = self.block / 512;
            let range = block * per_block..((block + 1) * per_block).min(sectors);
            if !range.clone().any(|n| self.holds(n)) {
                continue;
            }
            let data_at = (end + bitmap_len).next_multiple_of(self.align);
            let at = data_at - bitmap_len;
            file.resize((data_at + self.block) as usize, 0);
            table[block as usize] = (at / 512) as u32;
            for n in range {
                let within = n % per_block;
                let place = (data_at + within * 512) as usize;
                if self.holds(n) {
                    file[at as usize + within as usize / 8] |= 0x80 >> (within % 8);
                    put(&mut file, place, &sector(self.seed, n));
                } else if self.junk {
                    file[place..place + 512].fill(0xEE);
                }
            }
            end = data_at + self.block;
        }
        file.resize((end + self.gap) as usize, 0);
        let footer = footer(kind, self.size, self.header_at, self.id);
        put(&mut file, FOOTER_COPY, &footer);
        put(&mut file, self.header_at as usize, &header);
        for (n, entry) in table.iter().enumerate() {
            put(&mut file, self.table_at as usize + n * 4, &entry.to_be_bytes());
        }
        file.extend_from_slice(&footer);
        file
    }
}

/// A fixed disk of `size` bytes, full of content, and what it holds.
pub(crate) fn fixed(size: u64, seed: u64, id: u128) -> (Vec<u8>, Model) {
    let model: Model = (0..size / 512).map(|n| Some(sector(seed, n))).collect();
    let mut file: Vec<u8> = model.iter().flatten().flatten().copied().collect();
    file.extend_from_slice(&footer(2, size, u64::MAX, id));
    (file, model)
}

/// What a chain holds at sector `n`, the disk itself first. Past the end of a parent there is nothing, whatever that
/// parent's own parent has there.
pub(crate) fn at<'a>(models: &[&'a Model], n: usize) -> Option<&'a [u8; SECTOR]> {
    models.iter().take_while(|model| n < model.len()).find_map(|model| model[n].as_ref())
}

/// What a chain shows.
pub(crate) fn flatten(models: &[&Model]) -> Vec<u8> {
    let zeros = [0; SECTOR];
    (0..models[0].len()).flat_map(|n| *at(models, n).unwrap_or(&zeros)).collect()
}

pub(crate) fn utf16le(text: &str) -> Vec<u8> {
    text.encode_utf16().flat_map(u16::to_le_bytes).collect()
}

/// A child's view of a parent beside it, named as Windows does.
pub(crate) fn beside(id: u128, name: &str) -> Parent {
    let relative = utf16le(&format!(".\\{name}"));
    let absolute = utf16le(&format!("C:\\vm\\{name}"));
    Parent { id, time: 600_000_000, name: name.to_owned(), locators: vec![(*b"W2ru", relative), (*b"W2ku", absolute)] }
}

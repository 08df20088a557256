//! AES-256-XTS over runs of 512-byte data units: our backends, the bound that AES itself sets, other libraries.
//!
//! `cargo bench --bench xts --features bench`; `docs/encryption.md` holds a table of the results.
//!
//! - `rounds alone`: the AES rounds of our AVX-512 kernel without tweaks, the bound of that kernel;
//! - `aes ecb`: the `aes` crate over the whole run, in place, likewise without tweaks;
//! - `openssl`: one call a data unit on a key expanded once, which is what its interface offers;
//! - `xts-mode`: the crate of that name.
//!
//! CPU time of the thread, not wall time, so that a busy machine does not change the ratios.

#![allow(clippy::unwrap_used, reason = "a bench may panic")]

use std::hint::black_box;
use std::time::Duration;

use aes::cipher::{BlockCipherEncrypt, KeyInit};
use aes::{Aes256, Aes256Enc, Block};
use criterion::measurement::{Measurement, ValueFormatter, WallTime};
use criterion::{BenchmarkGroup, BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use openssl::cipher::Cipher;
use openssl::cipher_ctx::CipherCtx;
use rustix::time::{ClockId, clock_gettime};
use sealdisk::PAGE;
use sealdisk::crypto::xts::{Backend, XtsKey};
use xts_mode::{Xts128, get_tweak_default};

const SIZES: [usize; 4] = [512, 4 << 10, 64 << 10, 1 << 20];
/// Somewhere on a disk of 8 TiB.
const FIRST_PAGE: u64 = 0x1_2345_6789;

type Group<'a> = BenchmarkGroup<'a, CpuTime>;

/// CPU time of the measuring thread.
struct CpuTime;

impl Measurement for CpuTime {
    type Intermediate = Duration;
    type Value = Duration;

    fn start(&self) -> Duration {
        let now = clock_gettime(ClockId::ThreadCPUTime);
        Duration::new(now.tv_sec.cast_unsigned(), now.tv_nsec as u32)
    }

    fn end(&self, start: Duration) -> Duration {
        self.start() - start
    }

    fn add(&self, a: &Duration, b: &Duration) -> Duration {
        *a + *b
    }

    fn zero(&self) -> Duration {
        Duration::ZERO
    }

    fn to_f64(&self, value: &Duration) -> f64 {
        value.as_nanos() as f64
    }

    fn formatter(&self) -> &dyn ValueFormatter {
        WallTime.formatter()
    }
}

fn key() -> [u8; 64] {
    std::array::from_fn(|i| i as u8)
}

fn ours(group: &mut Group<'_>, size: usize) {
    let src: Vec<u8> = (0..size).map(|i| i as u8).collect();
    let mut dst = vec![0; size];
    for backend in Backend::available() {
        let key = XtsKey::with_backend(&key(), backend).expect("the backend is available");
        group.bench_function(BenchmarkId::new(format!("{} encrypt", backend.name()), size), |b| {
            b.iter(|| key.encrypt(FIRST_PAGE, black_box(&src), black_box(&mut dst)));
        });
        group.bench_function(BenchmarkId::new(format!("{} decrypt", backend.name()), size), |b| {
            b.iter(|| key.decrypt_in_place(FIRST_PAGE, black_box(&mut dst)));
        });
        if key.rounds_alone(&mut dst) {
            group.bench_function(BenchmarkId::new(format!("{} rounds alone", backend.name()), size), |b| {
                b.iter(|| key.rounds_alone(black_box(&mut dst)));
            });
        }
    }
}

fn aes_ecb(group: &mut Group<'_>, size: usize) {
    let cipher = Aes256Enc::new_from_slice(&key()[..32]).expect("32 bytes");
    let mut data = vec![Block::default(); size / 16];
    group.bench_function(BenchmarkId::new("aes ecb", size), |b| {
        b.iter(|| cipher.encrypt_blocks(black_box(&mut data)));
    });
}

fn openssl(group: &mut Group<'_>, size: usize) {
    let src: Vec<u8> = (0..size).map(|i| i as u8).collect();
    let mut dst = vec![0; size];
    let mut ctx = CipherCtx::new().expect("a context");
    ctx.encrypt_init(Some(Cipher::aes_256_xts()), Some(&key()), None).expect("a key");
    group.bench_function(BenchmarkId::new("openssl encrypt", size), |b| {
        b.iter(|| {
            let units = src.chunks_exact(PAGE).zip(black_box(&mut dst).chunks_exact_mut(PAGE));
            for (page, (src, dst)) in (FIRST_PAGE..).zip(units) {
                ctx.encrypt_init(None, None, Some(&u128::from(page).to_le_bytes())).expect("a tweak");
                ctx.cipher_update(src, Some(dst)).expect("a data unit");
            }
        });
    });
}

fn xts_mode(group: &mut Group<'_>, size: usize) {
    let [data, tweak] = [&key()[..32], &key()[32..]].map(|half| Aes256::new_from_slice(half).expect("32 bytes"));
    let cipher = Xts128::new(data, tweak);
    let mut data = vec![0; size];
    group.bench_function(BenchmarkId::new("xts-mode encrypt", size), |b| {
        b.iter(|| cipher.encrypt_area(black_box(&mut data), PAGE, FIRST_PAGE.into(), get_tweak_default));
    });
}

fn bench(c: &mut Criterion<CpuTime>) {
    for size in SIZES {
        let mut group = c.benchmark_group("xts");
        group.throughput(Throughput::Bytes(size as u64));
        ours(&mut group, size);
        aes_ecb(&mut group, size);
        openssl(&mut group, size);
        xts_mode(&mut group, size);
        group.finish();
    }
}

criterion_group! {
    name = benches;
    config = Criterion::default()
        .with_measurement(CpuTime)
        .without_plots()
        .sample_size(30)
        .warm_up_time(Duration::from_millis(200))
        .measurement_time(Duration::from_millis(600));
    targets = bench
}
criterion_main!(benches);

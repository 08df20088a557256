//! The process as the kernel sees it. The files of `/proc` are opened once, and the size of a page is asked for once: a
//! confined server may do neither later.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::time::{Duration, SystemTime};

use rustix::fs::{Dir, OFlags};
use rustix::process::Resource;
use rustix::time::ClockId;

/// See the module documentation.
#[derive(Debug)]
pub(super) struct Process {
    stat: File,
    descriptors: rustix::fd::OwnedFd,
    started: Duration,
    page_bytes: u64,
}

/// Numbers of a moment. What the kernel did not tell is `None`.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct ProcessSample {
    pub(super) resident_bytes: Option<u64>,
    pub(super) virtual_bytes: Option<u64>,
    pub(super) threads: Option<u64>,
    pub(super) open_descriptors: Option<u64>,
    /// `None` without a limit, too.
    pub(super) max_descriptors: Option<u64>,
    pub(super) cpu_seconds: f64,
    /// Since the epoch.
    pub(super) started_seconds: f64,
}

impl Process {
    pub(super) fn open() -> io::Result<Self> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        Ok(Self {
            stat: File::open("/proc/self/stat")?,
            descriptors: rustix::fs::open("/proc/self/fd", flags, rustix::fs::Mode::empty())?,
            page_bytes: rustix::param::page_size() as u64,
            started: SystemTime::UNIX_EPOCH.elapsed().unwrap_or_default(),
        })
    }

    pub(super) fn sample(&self) -> ProcessSample {
        let fields = self.stat_fields();
        // proc(5): numbered from 1, of which the first two are taken off.
        let field = |number: usize| fields.get(number - 3).copied();
        let cpu = rustix::time::clock_gettime(ClockId::ProcessCPUTime);
        ProcessSample {
            threads: field(20),
            virtual_bytes: field(23),
            resident_bytes: field(24).map(|pages| pages * self.page_bytes),
            open_descriptors: self.count_descriptors().ok(),
            max_descriptors: rustix::process::getrlimit(Resource::Nofile).current,
            cpu_seconds: cpu.tv_sec as f64 + cpu.tv_nsec as f64 / 1e9,
            started_seconds: self.started.as_secs_f64(),
        }
    }

    /// The numbers after the name of the program, which may itself have blanks and brackets; 0 for what is no number.
    fn stat_fields(&self) -> Vec<u64> {
        let mut text = [0; 1024];
        let len = self.stat.read_at(&mut text, 0).unwrap_or(0);
        let text = String::from_utf8_lossy(&text[..len]);
        let after = text.rsplit_once(')').map_or("", |(_, after)| after);
        after.split_whitespace().map(|field| field.parse().unwrap_or(0)).collect()
    }

    fn count_descriptors(&self) -> io::Result<u64> {
        rustix::fs::seek(&self.descriptors, rustix::fs::SeekFrom::Start(0))?;
        // Reads through a second descriptor of the same file description, which is there while it counts.
        let listed = Dir::new(rustix::io::fcntl_dupfd_cloexec(&self.descriptors, 0)?)?;
        let mut count = 0;
        for entry in listed {
            count += u64::from(!entry?.file_name().to_bytes().starts_with(b"."));
        }
        Ok(count.saturating_sub(1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernel_tells_what_this_process_uses() {
        let process = Process::open().unwrap();
        let before = process.sample();
        assert!(before.resident_bytes.unwrap() > 1 << 20, "{before:?}");
        assert!(before.virtual_bytes >= before.resident_bytes);
        assert!(before.threads.unwrap() >= 1);
        assert!(before.started_seconds > 1e9);
        // Other tests open files meanwhile: only that what is opened here is counted.
        let held: Vec<_> = (0..200).map(|_| File::open("/dev/null").unwrap()).collect();
        let after = process.sample();
        assert!(after.open_descriptors.unwrap() >= before.open_descriptors.unwrap() + 100, "{before:?} {after:?}");
        assert!(after.cpu_seconds >= before.cpu_seconds);
        drop(held);
    }
}

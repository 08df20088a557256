//! The metrics by name. `docs/operate.md` says what each means to an operator.

use std::fmt;
use std::time::SystemTime;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{
    DescriptorEncoder, EncodeCounterValue, EncodeGaugeValue, EncodeLabelSet, NoLabelSet,
};
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::Registry;

use super::sample::{DiskSample, Sample};
use crate::account::health::Fault;
use crate::account::watch::{Condition, Watched};
use crate::crypto::xts;
use crate::disk::DiskStats;
use crate::serve::{BUCKETS, Command, CommandCounts, Reason, RequestError, Tls, bucket_bound};
use crate::spool;

/// The sample in the text form of OpenMetrics 1.0.
pub(super) fn encode(sample: Sample) -> Result<String, fmt::Error> {
    let mut registry = Registry::default();
    registry.register_collector(Box::new(sample));
    let mut text = String::new();
    prometheus_client::encoding::text::encode(&mut text, &registry)?;
    Ok(text)
}

impl Collector for Sample {
    fn encode(&self, encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let mut out = Families(encoder);
        self.requests(&mut out)?;
        self.connections(&mut out)?;
        self.admission(&mut out)?;
        self.account(&mut out)?;
        self.disks(&mut out)?;
        self.process(&mut out)
    }
}

/// One family after the other.
struct Families<'a>(DescriptorEncoder<'a>);

impl Families<'_> {
    /// `name` without `_total`.
    fn counters<L: EncodeLabelSet, V: EncodeCounterValue>(
        &mut self,
        name: &str,
        help: &str,
        rows: impl IntoIterator<Item = (L, V)>,
    ) -> fmt::Result {
        let mut family = self.0.encode_descriptor(name, help, None, MetricType::Counter)?;
        for (labels, value) in rows {
            family.encode_family(&labels)?.encode_counter::<NoLabelSet, V, f64>(&value, None)?;
        }
        Ok(())
    }

    fn gauges<L: EncodeLabelSet, V: EncodeGaugeValue>(
        &mut self,
        name: &str,
        help: &str,
        rows: impl IntoIterator<Item = (L, V)>,
    ) -> fmt::Result {
        let mut family = self.0.encode_descriptor(name, help, None, MetricType::Gauge)?;
        for (labels, value) in rows {
            family.encode_family(&labels)?.encode_gauge(&value)?;
        }
        Ok(())
    }

    fn counter(&mut self, name: &str, help: &str, value: impl EncodeCounterValue) -> fmt::Result {
        let mut family = self.0.encode_descriptor(name, help, None, MetricType::Counter)?;
        family.encode_counter::<NoLabelSet, _, f64>(&value, None)
    }

    fn gauge(&mut self, name: &str, help: &str, value: impl EncodeGaugeValue) -> fmt::Result {
        self.known(name, help, Some(value))
    }

    /// Without a sample when there is no value.
    fn known(&mut self, name: &str, help: &str, value: Option<impl EncodeGaugeValue>) -> fmt::Result {
        let mut family = self.0.encode_descriptor(name, help, None, MetricType::Gauge)?;
        value.map_or(Ok(()), |value| family.encode_gauge(&value))
    }
}

impl Sample {
    fn requests(&self, out: &mut Families<'_>) -> fmt::Result {
        let counted = || self.disks.iter().map(|disk| (disk.name.as_str(), &disk.counts));
        // From the start, so that the first of them is an increase; others once there was one.
        let always = |command: Command| (command as u8) <= Command::WriteZeroes as u8;
        let by_command = |told: fn(Command) -> bool, value: fn(&CommandCounts) -> u64| {
            counted().flat_map(move |(disk, counts)| {
                let of = move |command: Command| {
                    (told(command) && (always(command) || counts.of(command).requests() > 0))
                        .then(|| ([("disk", disk), ("command", command.name())], value(counts.of(command))))
                };
                Command::ALL.into_iter().filter_map(of)
            })
        };
        out.counters(
            "sealdisk_requests",
            "Requests that were answered, failures included.",
            by_command(|_| true, CommandCounts::requests),
        )?;
        out.counters(
            "sealdisk_request_bytes",
            "Bytes read, written, zeroed or read ahead by requests that succeeded.",
            by_command(Command::has_bytes, |counts| counts.bytes),
        )?;
        let errors = counted().flat_map(|(disk, counts)| {
            let of = RequestError::ALL.into_iter().zip(counts.errors);
            of.map(move |(error, count)| ([("disk", disk), ("errno", error.name())], count))
        });
        out.counters("sealdisk_request_errors", "Requests that were answered with an error.", errors)?;
        let in_flight = counted().map(|(disk, counts)| ([("disk", disk)], counts.in_flight));
        out.gauges("sealdisk_requests_in_flight", "Requests that are not answered yet.", in_flight)?;
        let help = "From the arrival of a request to its answer.";
        let mut family =
            out.0.encode_descriptor("sealdisk_request_duration_seconds", help, None, MetricType::Histogram)?;
        for command in Command::ALL {
            let counts = self.nbd.all.of(command);
            let mut buckets = [(0.0, 0); BUCKETS];
            for (index, bucket) in buckets.iter_mut().enumerate() {
                *bucket = (bucket_bound(index), counts.latencies[index]);
            }
            let labels = [("command", command.name())];
            let mut histogram = family.encode_family(&labels)?;
            histogram.encode_histogram::<NoLabelSet>(counts.nanos as f64 / 1e9, counts.requests(), &buckets, None)?;
        }
        Ok(())
    }

    fn connections(&self, out: &mut Families<'_>) -> fmt::Result {
        let nbd = &self.nbd;
        out.gauge("sealdisk_connections", "Clients attached.", nbd.connections)?;
        out.gauge("sealdisk_connections_limit", "Clients that may be attached at once.", nbd.connections_limit)?;
        out.counter("sealdisk_connections_opened", "Clients that attached.", nbd.connections_total)?;
        let help = "Clients that were refused because too many were attached.";
        out.counter("sealdisk_connections_refused", help, nbd.connections_refused_total)?;
        let help = "Connections that broke, or that the server ended.";
        out.counter("sealdisk_connections_cut_off", help, nbd.cut_off_total)?;
        out.gauge("sealdisk_handshakes", "Handshakes under way.", nbd.handshakes)?;
        let help = "Handshakes that broke, took too long or were given up.";
        out.counter("sealdisk_handshakes_failed", help, nbd.handshakes_failed_total)?;
        let turned_away = Reason::ALL.into_iter().zip(nbd.turned_away_total);
        let turned_away = turned_away.map(|(reason, count)| ([("reason", reason.name())], count));
        out.counters("sealdisk_clients_turned_away", "Clients that were not attached, by the reason.", turned_away)?;
        let help = "Buffers in use beyond those reserved for each connection.";
        out.gauge("sealdisk_buffer_used_bytes", help, nbd.buffer_bytes)?;
        let help = "Buffers that may be used beyond those reserved for each connection.";
        out.gauge("sealdisk_buffer_limit_bytes", help, nbd.buffer_limit)?;
        out.gauge("sealdisk_disk_threads", "Threads for requests that wait for a disk.", nbd.disk_threads)?;
        out.gauge("sealdisk_disk_threads_busy", "Those of them that wait for a disk now.", nbd.disk_threads_busy)?;
        out.gauge("sealdisk_disk_threads_limit", "How many of them there may be.", nbd.disk_threads_limit)?;
        let help = "Lines that were left out of the log because clients caused too many.";
        out.counter("sealdisk_log_lines_suppressed", help, nbd.lines_suppressed_total)?;
        let help = "Lines of the log that were lost because they could not be written in time.";
        out.counter("sealdisk_log_lines_lost", help, spool::LOG.lost())
    }

    fn admission(&self, out: &mut Families<'_>) -> fmt::Result {
        let now = SystemTime::now();
        let terms: Vec<_> = self.admission.iter().filter_map(|of| of.tls()).flat_map(Tls::terms).collect();
        let left = terms.iter().map(|term| ([("part", term.part.name())], term.validity.left(now)));
        let help = "Seconds until a file of the TLS configuration expires; negative afterwards.";
        out.gauges("sealdisk_tls_expires_seconds", help, left)?;
        let due = terms.iter().map(|term| {
            let due = term.validity.due(now).is_some();
            ([("part", term.part.name())], u32::from(due))
        });
        let help = "Whether a file of the TLS configuration has expired, will soon, or is not valid yet.";
        out.gauges("sealdisk_tls_due", help, due)?;
        let (reloads, failed) = self.admission.as_ref().map(|of| of.reloads()).unwrap_or_default();
        out.counter("sealdisk_reloads", "Times that certificates and access rules were read again.", reloads)?;
        let help = "Whether that failed the last time, so that older ones are in force.";
        out.gauge("sealdisk_reload_failed", help, u32::from(failed))
    }

    fn account(&self, out: &mut Families<'_>) -> fmt::Result {
        let labels = [("version", env!("CARGO_PKG_VERSION")), ("xts", xts::backend_name())];
        let help = "The version, and what encrypts on this machine.";
        out.0.encode_descriptor("sealdisk_build", help, None, MetricType::Info)?.encode_info(&labels)?;
        let flag = |value: Option<bool>| value.map(u32::from);
        let account = &self.account;
        out.known("sealdisk_encryption_enabled", "Whether new writes are encrypted.", flag(account.encryption))?;
        out.known("sealdisk_keys_revoked", "Whether the keys were taken back.", flag(account.revoked))?;
        out.known("sealdisk_keys_held", "Whether the account's keys are at hand.", flag(account.keys_held))?;
        let help = "Lines that could not be written to the audit log yet; while there are some, acts are refused.";
        out.gauge("sealdisk_audit_log_lines_waiting", help, self.audit_lines)?;
        let disks = account.disks.iter().flatten();
        let unable = |disk: &&Watched| disk.health.faults[Fault::CannotOpen as usize];
        let damaged = account.damaged + account.disks.iter().flatten().filter(unable).count();
        let is = |condition: &Condition| match condition {
            Condition::Open(_) => "open",
            Condition::Closed => "closed",
            Condition::Busy => "busy",
        };
        let mut counts = [("open", 0), ("closed", 0), ("busy", 0), ("damaged", damaged)];
        for disk in disks.filter(|disk| !unable(disk)) {
            let state = is(&disk.condition);
            counts.iter_mut().filter(|(name, _)| *name == state).for_each(|(_, count)| *count += 1);
        }
        let rows = counts.map(|(state, count)| ([("state", state)], count));
        out.gauges("sealdisk_disks", "Disks of the account. A disk is opened when it is first asked for.", rows)?;
        let help = "How long the look at all disks for the last metrics took.";
        out.gauge("sealdisk_metrics_duration_seconds", help, self.took.as_secs_f64())?;
        out.counter("sealdisk_metrics_taken", "Looks at all disks before this one.", self.taken)
    }

    fn open_disks(&self) -> impl Iterator<Item = (&DiskSample, &DiskStats)> {
        self.disks.iter().filter_map(|disk| Some((disk, disk.disk_stats.as_ref()?)))
    }

    fn of_disks<'a, T: 'a>(
        &'a self,
        value: impl Fn(&DiskStats) -> Option<T> + 'a,
    ) -> impl Iterator<Item = ([(&'static str, &'a str); 1], T)> {
        self.open_disks()
            .filter_map(move |(disk, disk_stats)| Some(([("disk", disk.name.as_str())], value(disk_stats)?)))
    }

    fn disks(&self, out: &mut Families<'_>) -> fmt::Result {
        let bytes = self.open_disks().flat_map(|(disk, DiskStats { usage, .. })| {
            let states =
                [("base", usage.base), ("plain", usage.plain), ("encrypted", usage.encrypted), ("zero", usage.zero)];
            states.map(|(state, bytes)| ([("disk", disk.name.as_str()), ("state", state)], bytes))
        });
        out.gauges("sealdisk_disk_bytes", "Bytes of an open disk by how they are stored.", bytes)?;
        let help = "Bytes left behind in another form that are not given back yet; absent while that is not known.";
        out.gauges("sealdisk_disk_pending_scrub_bytes", help, self.of_disks(|disk| disk.usage.pending_scrub))?;
        let help = "Bytes stored that no record of the disk names.";
        out.gauges("sealdisk_disk_unaccounted_bytes", help, self.of_disks(|disk| Some(disk.usage.unaccounted)))?;
        let help = "Memory that says which layer holds which page.";
        out.gauges("sealdisk_disk_presence_bytes", help, self.of_disks(|disk| Some(disk.presence_bytes)))?;
        out.gauges("sealdisk_disk_layers", "Layers of an open disk.", self.of_disks(|disk| Some(disk.layers)))?;
        out.gauges("sealdisk_disk_snapshots", "Its snapshots.", self.of_disks(|disk| Some(disk.snapshots)))?;
        let help = "Whether storing failed, so that the disk takes no changes until the server is started again.";
        out.gauges("sealdisk_disk_poisoned", help, self.of_disks(|disk| Some(u32::from(disk.poisoned))))?;
        let help = "Data keys that encrypted so much that new ones are due: 0 or 1, as only one takes new writes.";
        out.gauges("sealdisk_disk_worn_keys", help, self.of_disks(|disk| Some(u32::from(disk.rotation_due))))?;
        let busy = self.disks.iter().filter(|disk| disk.busy || disk.disk_stats.is_some());
        let busy = busy.map(|disk| ([("disk", disk.name.as_str())], u32::from(disk.busy)));
        let help = "Whether the disk could not be looked at: it is being opened, or stuck. Its numbers are older ones.";
        out.gauges("sealdisk_disk_busy", help, busy)?;
        let faults = self.disks.iter().flat_map(|disk| {
            let of = Fault::ALL.into_iter().zip(disk.health.faults);
            of.map(|(fault, is)| ([("disk", disk.name.as_str()), ("fault", fault.name())], u32::from(is)))
        });
        out.gauges("sealdisk_disk_fault", "Whether this is wrong with the disk, open or not.", faults)?;
        let all = |value: fn(&DiskSample) -> u64| {
            self.disks.iter().map(move |disk| ([("disk", disk.name.as_str())], value(disk)))
        };
        let help = "Attempts to open the disk that failed.";
        out.counters("sealdisk_disk_open_failures", help, all(|disk| disk.health.open_failures))?;
        let help = "Openings of the disk after an unclean end.";
        out.counters("sealdisk_disk_recoveries", help, all(|disk| disk.health.recoveries))?;
        let help =
            "When the disk was last opened after an unclean end, since the epoch; 0: not since the server started.";
        out.gauges("sealdisk_disk_recovered_timestamp_seconds", help, all(|disk| disk.health.recovered_at))?;
        let help = "Rounds that made changes durable; each answers all flushes that wait.";
        out.counters("sealdisk_commit_rounds", help, self.of_disks(|disk| Some(disk.rounds)))?;
        out.counters("sealdisk_syncs", "Syncs of files in those rounds.", self.of_disks(|disk| Some(disk.syncs)))?;
        let help = "Time that those syncs took.";
        out.counters("sealdisk_sync_seconds", help, self.of_disks(|disk| Some(disk.sync_time.as_secs_f64())))
    }

    fn process(&self, out: &mut Families<'_>) -> fmt::Result {
        let process = &self.process;
        out.known("process_resident_memory_bytes", "Memory in use.", process.resident_bytes)?;
        out.known("process_virtual_memory_bytes", "Address space in use.", process.virtual_bytes)?;
        out.known("process_threads", "Threads.", process.threads)?;
        out.known("process_open_fds", "Descriptors in use.", process.open_descriptors)?;
        out.known("process_max_fds", "Descriptors that may be in use.", process.max_descriptors)?;
        out.counter("process_cpu_seconds", "Processor time used.", process.cpu_seconds)?;
        out.gauge("process_start_time_seconds", "When the server started, since the epoch.", process.started_seconds)
    }
}

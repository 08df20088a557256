//! What X.509 certificates and revocation lists say: whose they are, and from when until when they count.
//!
//! Nothing here decides whether a certificate is good: rustls does, before a name is taken from it. What cannot be read
//! here has no name, and no time.

use std::net::IpAddr;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::Serialize;
use x509_cert::Certificate;
use x509_cert::crl::CertificateList;
use x509_cert::der::Decode;
use x509_cert::der::oid::db::rfc4519::COMMON_NAME;
use x509_cert::ext::pkix::SubjectAltName;
use x509_cert::ext::pkix::name::{DirectoryString, GeneralName};

/// The longest time before its end at which a certificate is due to be replaced.
const DUE: Duration = Duration::from_secs(30 * 24 * 3600);
/// The part of its time that is left then, where that is shorter: certificates that live for a day are renewed by the
/// hour.
const DUE_PART: u64 = 4;

/// Its subject's common names and its alternative names: DNS names (in lower case), addresses, e-mail addresses and
/// URIs.
pub(crate) fn names(der: &[u8]) -> Vec<String> {
    let Ok(certificate) = Certificate::from_der(der) else { return Vec::new() };
    let subject = certificate.tbs_certificate().subject().iter();
    let common = subject.filter(|attribute| attribute.oid == COMMON_NAME);
    let common = common.filter_map(|attribute| DirectoryString::try_from(&attribute.value).ok());
    let mut names: Vec<_> = common.map(|name| name.value().into_owned()).collect();
    if let Ok(Some((_, SubjectAltName(alternative)))) = certificate.tbs_certificate().get_extension() {
        names.extend(alternative.iter().filter_map(alternative_name));
    }
    names
}

/// The host for which a client that goes to `address` accepts the certificate: the address itself, `localhost` for a
/// loopback one, or the first DNS name. `None`: the certificate names no host.
pub(crate) fn host_for(der: &[u8], address: IpAddr) -> Option<String> {
    let certificate = Certificate::from_der(der).ok()?;
    let (_, SubjectAltName(names)) = certificate.tbs_certificate().get_extension().ok()??;
    let own = address.to_string();
    if names.iter().filter_map(alternative_name).any(|name| name == own) {
        return Some(if address.is_ipv6() { format!("[{own}]") } else { own });
    }
    let mut hosts = names.iter().filter(|name| matches!(name, GeneralName::DnsName(_))).filter_map(alternative_name);
    let local = hosts.clone().find(|name| name == "localhost").filter(|_| address.is_loopback());
    local.or_else(|| hosts.find(|name| !name.contains('*')))
}

fn alternative_name(name: &GeneralName) -> Option<String> {
    match name {
        GeneralName::DnsName(name) => Some(name.as_str().to_ascii_lowercase()),
        GeneralName::Rfc822Name(name) | GeneralName::UniformResourceIdentifier(name) => Some(name.as_str().to_owned()),
        GeneralName::IpAddress(address) => {
            let address = address.as_bytes();
            let four = || <[u8; 4]>::try_from(address).ok().map(IpAddr::from);
            let sixteen = || <[u8; 16]>::try_from(address).ok().map(IpAddr::from);
            four().or_else(sixteen).map(|address| address.to_string())
        }
        _ => None,
    }
}

/// Seconds since 1970, both included.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Validity {
    pub from: u64,
    pub until: u64,
}

/// Why a certificate or a list wants to be replaced.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Due {
    NotYetValid,
    Expired,
    /// It ends soon.
    Soon,
}

impl Validity {
    pub(crate) fn of_certificate(der: &[u8]) -> Option<Self> {
        let certificate = Certificate::from_der(der).ok()?;
        let validity = certificate.tbs_certificate().validity();
        let seconds = |time: x509_cert::time::Time| time.to_unix_duration().as_secs();
        Some(Self { from: seconds(validity.not_before), until: seconds(validity.not_after) })
    }

    /// Until the next list is promised. `None`: none is.
    pub(crate) fn of_crl(der: &[u8]) -> Option<Self> {
        let list = <CertificateList>::from_der(der).ok()?.tbs_cert_list;
        let seconds = |time: x509_cert::time::Time| time.to_unix_duration().as_secs();
        Some(Self { from: seconds(list.this_update), until: seconds(list.next_update?) })
    }

    /// When both count.
    pub(crate) fn and(self, other: Self) -> Self {
        Self { from: self.from.max(other.from), until: self.until.min(other.until) }
    }

    /// Seconds from `now` until the end; negative after it.
    #[must_use]
    pub fn left(&self, now: SystemTime) -> i64 {
        let now = now.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        self.until.cast_signed().saturating_sub(now.cast_signed())
    }

    /// Whether something is to be done about it.
    #[must_use]
    pub fn due(&self, now: SystemTime) -> Option<Due> {
        let seconds = now.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        let early = (self.until.saturating_sub(self.from) / DUE_PART).min(DUE.as_secs());
        match self.left(now) {
            ..0 => Some(Due::Expired),
            _ if seconds < self.from => Some(Due::NotYetValid),
            left if left.cast_unsigned() < early => Some(Due::Soon),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> SystemTime {
        UNIX_EPOCH + Duration::from_secs(seconds)
    }

    #[test]
    fn a_certificate_is_due_in_its_last_quarter_or_month() {
        const DAY: u64 = 24 * 3600;
        let year = Validity { from: 1000 * DAY, until: 1365 * DAY };
        for (day, due) in [
            (999, Some(Due::NotYetValid)),
            (1000, None),
            (1334, None),
            (1336, Some(Due::Soon)),
            (1365, Some(Due::Soon)),
            (1366, Some(Due::Expired)),
        ] {
            assert_eq!(year.due(at(day * DAY)), due, "{day}");
        }
        let day = Validity { from: 1000 * DAY, until: 1001 * DAY };
        assert_eq!(day.due(at(1000 * DAY + DAY / 2)), None);
        assert_eq!(day.due(at(1001 * DAY - DAY / 5)), Some(Due::Soon));
        assert_eq!(day.left(at(1001 * DAY + 60)), -60);
        let never = Validity { from: 0, until: u64::MAX };
        assert!(never.due(at(0)).is_some(), "a time that no certificate has does not overflow");
    }

    #[test]
    fn what_is_no_certificate_has_no_names_and_no_time() {
        for bytes in [&b""[..], b"\x30", b"\x30\x84\xff\xff\xff\xff", &[0x30; 64]] {
            assert!(names(bytes).is_empty());
            assert_eq!((Validity::of_certificate(bytes), Validity::of_crl(bytes)), (None, None));
        }
    }
}

//! Metrics as a scraper sees them.

use std::fmt::Write as _;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use crate::support::{Account, Server};

const TIMEOUT: Duration = Duration::from_secs(20);
/// Longer than a look is shared.
pub(crate) const FRESH: Duration = Duration::from_millis(150);

/// A server with metrics, on a port of its own.
pub(crate) fn serve(account: &Account, options: &[&str]) -> (Server, SocketAddr) {
    let server = account.serve_with(&[&["--metrics", "127.0.0.1:0"], options].concat());
    let addr = address(account);
    (server, addr)
}

/// The same, started by another program: see [`Account::command_under`].
pub(crate) fn serve_under(account: &Account, wrapper: &[&str]) -> (Server, SocketAddr) {
    let server = account.serve_under(wrapper, &["--metrics", "127.0.0.1:0"]);
    let addr = address(account);
    (server, addr)
}

/// Where the last server of the account says that its metrics are.
pub(crate) fn address(account: &Account) -> SocketAddr {
    let began = Instant::now();
    loop {
        let log = std::fs::read_to_string(account.scratch("serve.log")).expect("a log");
        // The last server's: earlier ones wrote to the same log, so it is also the one that answers.
        let addrs = log.split("metrics at http://").skip(1).filter_map(|rest| rest.split_once("/metrics"));
        let addr = addrs.last().map(|(addr, _)| addr.parse().expect("an address"));
        if let Some(addr) = addr.filter(|addr| TcpStream::connect(addr).is_ok()) {
            return addr;
        }
        assert!(began.elapsed() < TIMEOUT, "no metrics: {log}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// A request, and all that is answered.
pub(crate) fn http(addr: SocketAddr, request: &str) -> String {
    let mut stream = TcpStream::connect(addr).expect("the metrics are served");
    stream.set_read_timeout(Some(TIMEOUT)).expect("a time-out");
    stream.write_all(request.as_bytes()).expect("a request is taken");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("an answer");
    answer
}

/// The text of the metrics.
pub(crate) fn text(addr: SocketAddr) -> String {
    let answer = http(addr, "GET /metrics HTTP/1.1\r\nhost: localhost\r\n\r\n");
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or_else(|| panic!("no answer: {answer}"));
    assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
    assert!(head.contains("application/openmetrics-text; version=1.0.0"), "{head}");
    body.to_owned()
}

/// Samples by series.
#[derive(Debug)]
pub(crate) struct Scrape(Vec<(String, f64)>);

impl Scrape {
    /// What is true now, not what was looked up for somebody else.
    pub(crate) fn fresh(addr: SocketAddr) -> Self {
        let taken = |scrape: &Self| scrape.value("sealdisk_metrics_taken_total", &[]);
        let shared = Self::of(&text(addr));
        let began = Instant::now();
        loop {
            std::thread::sleep(FRESH);
            let scrape = Self::of(&text(addr));
            if taken(&scrape) > taken(&shared) {
                return scrape;
            }
            assert!(began.elapsed() < TIMEOUT, "the same look is served for {TIMEOUT:?}");
        }
    }

    pub(crate) fn of(text: &str) -> Self {
        let samples = text.lines().filter(|line| !line.starts_with('#')).map(|line| {
            let (series, value) = line.rsplit_once(' ').unwrap_or_else(|| panic!("no sample: {line}"));
            (series.to_owned(), value.parse().unwrap_or_else(|_| panic!("no value: {line}")))
        });
        Self(samples.collect())
    }

    /// Names of metrics, without labels.
    pub(crate) fn names(&self) -> impl Iterator<Item = &str> {
        self.0.iter().map(|(series, _)| series.split('{').next().unwrap_or(series))
    }

    /// The value of one series.
    pub(crate) fn get(&self, name: &str, labels: &[(&str, &str)]) -> Option<f64> {
        let mut series = name.to_owned();
        for (index, (label, value)) in labels.iter().enumerate() {
            let _ = write!(series, "{}{label}=\"{value}\"", if index == 0 { '{' } else { ',' });
        }
        if !labels.is_empty() {
            series.push('}');
        }
        self.0.iter().find(|(known, _)| *known == series).map(|(_, value)| *value)
    }

    pub(crate) fn value(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        self.get(name, labels).unwrap_or_else(|| panic!("no {name} {labels:?}"))
    }

    /// All series of a metric together.
    pub(crate) fn sum(&self, name: &str) -> f64 {
        let prefix = format!("{name}{{");
        let of = |(series, _): &&(String, f64)| *series == name || series.starts_with(&prefix);
        self.0.iter().filter(of).map(|(_, value)| value).sum()
    }
}

//! Sinks: where the log goes beside the journal. Each has a task and a bounded queue of its own, so
//! that one that does not answer holds up no other.
//!
//! What could not be sent is sent again when the sink can be reached: over a connection a collector
//! may then get some records twice, but misses none until the queue is full.

mod fields;
mod file;
mod ipfix;
mod json;
mod syslog;
mod transport;

use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use tokio::task::JoinHandle;

use self::file::Rotation;
use self::ipfix::Exporter;
use self::syslog::{Formatter, octet_counted};
use self::transport::Transport;
use crate::bus::{Bus, Condition};
use crate::clock::unix_ms;
use crate::config::{SinkConfig, SinkKind, Target};
use crate::queue::{Queue, Reader};
use crate::record::Record;

/// Records that wait for a sink.
const QUEUE_RECORDS: usize = 1 << 16;

/// Records worked at once.
const TAKE_MAX: usize = 512;

/// First and longest pause between two tries to reach a collector.
const BACK_OFF_MIN: Duration = Duration::from_millis(500);
const BACK_OFF_MAX: Duration = Duration::from_secs(30);

/// A sink is up again when nothing has failed for so long: datagrams to nobody fail only now and
/// then.
const STEADY_AFTER: Duration = Duration::from_secs(3);

/// Octets of an IPFIX message in a datagram: what an IPv6 path carries for sure.
const DATAGRAM_MAX: usize = 1232;
/// Octets of an IPFIX message over a connection.
const STREAM_MESSAGE_MAX: usize = 8192;

/// How long the last records may take when gate64 ends.
const END_PATIENCE: Duration = Duration::from_secs(3);

/// A sink that runs.
#[derive(Debug)]
pub struct Sink {
    config: SinkConfig,
    task: JoinHandle<()>,
}

impl Sink {
    /// Attaches a sink to the bus and starts its task, in the tokio runtime of the caller. A target that
    /// cannot be reached is said once, and tried again and again.
    pub fn start(config: SinkConfig, bus: &Bus) -> Sink {
        let (queue, reader) = Queue::new(QUEUE_RECORDS, &config.events);
        let condition = Arc::new(Condition::default());
        bus.attach(&config.name(), queue, Arc::clone(&condition), false);
        let writer = Writer::new(config.clone(), reader, condition);
        Sink {
            task: tokio::spawn(writer.run()),
            config,
        }
    }

    /// How it was configured.
    pub fn config(&self) -> &SinkConfig {
        &self.config
    }

    /// Waits a little until what it has is sent; its queue has to be closed.
    pub async fn join(self) {
        let aborter = self.task.abort_handle();
        if tokio::time::timeout(END_PATIENCE, self.task).await.is_err() {
            tracing::warn!(
                sink = self.config.name(),
                "gives up the last records of the log"
            );
            aborter.abort();
        }
    }
}

/// How records become octets.
#[derive(Debug)]
enum Format {
    Ipfix {
        exporter: Exporter,
        resend: Duration,
        templates_at: Instant,
    },
    Syslog(Formatter),
    Json,
}

/// Octets that leave as one, and how many records are in them.
struct Message {
    bytes: Vec<u8>,
    records: usize,
}

struct Writer {
    config: SinkConfig,
    name: String,
    format: Format,
    reader: Reader,
    condition: Arc<Condition>,
    back_off: Duration,
    failed_at: Option<Instant>,
}

impl Writer {
    fn new(config: SinkConfig, reader: Reader, condition: Arc<Condition>) -> Writer {
        let format = match config.kind {
            SinkKind::Ipfix { resend } => Format::Ipfix {
                exporter: Exporter::new(match config.target {
                    Target::Udp(_) => DATAGRAM_MAX,
                    _ => STREAM_MESSAGE_MAX,
                }),
                resend,
                templates_at: Instant::now(),
            },
            SinkKind::Syslog { facility } => Format::Syslog(Formatter::new(facility)),
            SinkKind::Json { .. } => Format::Json,
        };
        Writer {
            name: config.name(),
            config,
            format,
            reader,
            condition,
            back_off: BACK_OFF_MIN,
            failed_at: None,
        }
    }

    async fn run(mut self) {
        let mut unsent: Vec<Record> = Vec::new();
        while !(self.reader.is_over() && unsent.is_empty()) {
            match self.open().await {
                Ok(mut transport) => {
                    let sent = self.serve(&mut transport, &mut unsent).await;
                    match sent {
                        Ok(()) => return transport.close().await,
                        Err(error) => self.fail(&error),
                    }
                }
                Err(error) => self.fail(&error),
            }
            if self.reader.is_closed() {
                self.reader.give_up(unsent.len() as u64);
                return;
            }
            tokio::time::sleep(self.back_off).await;
            self.back_off = (self.back_off * 2).min(BACK_OFF_MAX);
        }
    }

    /// Opens the way, and sends what has to come first.
    async fn open(&mut self) -> io::Result<Transport> {
        let rotation = match self.config.kind {
            SinkKind::Json {
                rotate_size,
                rotate_every,
                keep,
            } => Some(Rotation {
                size: rotate_size,
                every: rotate_every,
                keep,
            }),
            _ => None,
        };
        let mut transport = Transport::open(&self.config.target, rotation).await?;
        if let (Format::Ipfix { exporter, .. }, Target::Tcp(_)) =
            (&mut self.format, &self.config.target)
        {
            exporter.restart();
        }
        self.send_templates(&mut transport).await?;
        transport.await_refusal().await?;
        Ok(transport)
    }

    async fn send_templates(&mut self, transport: &mut Transport) -> io::Result<()> {
        if let Format::Ipfix {
            exporter,
            templates_at,
            ..
        } = &mut self.format
        {
            *templates_at = Instant::now();
            let templates = exporter.templates(self.reader.lost(), unix_seconds());
            transport.send(&templates).await?;
        }
        Ok(())
    }

    /// Sends until nothing more comes. What an error leaves over is in `unsent`.
    async fn serve(
        &mut self,
        transport: &mut Transport,
        unsent: &mut Vec<Record>,
    ) -> io::Result<()> {
        loop {
            self.note_steady();
            if unsent.is_empty() {
                self.wait(transport).await?;
                unsent.extend(self.reader.take(TAKE_MAX));
            }
            if unsent.is_empty() && self.reader.is_over() {
                return Ok(());
            }
            for message in self.messages(unsent) {
                transport.send(&message.bytes).await?;
                unsent.drain(..message.records.min(unsent.len()));
            }
            // Records that the format has nothing for.
            unsent.clear();
            transport.flush().await?;
            transport.refused()?;
        }
    }

    /// Waits for records; meanwhile templates are sent again where datagrams may be lost.
    async fn wait(&mut self, transport: &mut Transport) -> io::Result<()> {
        loop {
            if self.templates_are_due() {
                self.send_templates(transport).await?;
            }
            tokio::select! {
                () = self.reader.filled() => return Ok(()),
                () = tokio::time::sleep(Duration::from_secs(1)) => {
                    transport.refused()?;
                    self.note_steady();
                }
            }
        }
    }

    /// RFC 7011 section 8.4: over UDP templates may be lost, so they are repeated.
    fn templates_are_due(&self) -> bool {
        match (&self.format, &self.config.target) {
            (
                Format::Ipfix {
                    resend,
                    templates_at,
                    ..
                },
                Target::Udp(_),
            ) => templates_at.elapsed() >= *resend,
            _ => false,
        }
    }

    fn messages(&mut self, records: &[Record]) -> Vec<Message> {
        let is_stream = !matches!(self.config.target, Target::Udp(_) | Target::File(_));
        match &mut self.format {
            Format::Ipfix { exporter, .. } => {
                let messages = exporter.messages(records, unix_seconds()).into_iter();
                let message = |one: ipfix::Message| Message {
                    bytes: one.bytes,
                    records: one.records,
                };
                messages.map(message).collect()
            }
            Format::Syslog(formatter) => {
                let message = |record: &Record| {
                    let message = formatter.message(record);
                    let bytes = match is_stream {
                        true => octet_counted(&message),
                        false => message,
                    };
                    Message { bytes, records: 1 }
                };
                records.iter().map(message).collect()
            }
            Format::Json => {
                // One write for all of them.
                let lines: Vec<u8> = records.iter().flat_map(json::line).collect();
                match lines.is_empty() {
                    true => Vec::new(),
                    false => vec![Message {
                        bytes: lines,
                        records: records.len(),
                    }],
                }
            }
        }
    }

    fn fail(&mut self, error: &io::Error) {
        self.failed_at = Some(Instant::now());
        let reason = describe(&self.name, &self.config.target, error);
        if self.condition.fail(&reason) {
            tracing::error!("{reason}");
        }
    }

    fn note_steady(&mut self) {
        let is_steady = self
            .failed_at
            .is_none_or(|failed_at| failed_at.elapsed() >= STEADY_AFTER + self.back_off);
        if is_steady {
            self.back_off = BACK_OFF_MIN;
            if self.condition.recover() {
                tracing::info!(sink = self.name, "the log sink is reached again");
            }
        }
    }
}

fn unix_seconds() -> u32 {
    u32::try_from(unix_ms(SystemTime::now()) / 1000).unwrap_or(u32::MAX)
}

/// One sentence: what is wrong, where, and what to do.
fn describe(name: &str, target: &Target, error: &io::Error) -> String {
    let advice = match (target, error.kind()) {
        (_, io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded) => {
            ": free some space there, or keep fewer files (log.sink.keep)"
        }
        (Target::File(_), io::ErrorKind::ReadOnlyFilesystem) => ": mount it for writing",
        (Target::File(_), io::ErrorKind::PermissionDenied) => ": give gate64's user the file",
        (Target::File(_), _) => "",
        (_, io::ErrorKind::ConnectionRefused) => ": does the collector run and listen there?",
        (_, io::ErrorKind::TimedOut) => ": is there a way to it, and no firewall on it?",
        _ => "",
    };
    format!("the log sink {name} cannot be written: {error}{advice}")
}

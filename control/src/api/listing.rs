//! Listings over all workers, page by page: each page is made by its worker between bursts.

use std::net::{Ipv4Addr, Ipv6Addr};

use crossbeam::channel::Sender;
use gate64_dataplane::command::{Command, Filter, Page, SubscriberRow, TooManyJobs, TopBy};
use gate64_dataplane::verdict::WorkerId;
use gate64_wire::addr::Protocol;
use serde::{Deserialize, Serialize};

use super::model::Listing;
use crate::state::State;

/// Rows of one page of the API: bounds what a worker does between two bursts.
pub const PAGE_ROWS_MAX: usize = 256;

/// Filters and paging as they stand in a request's query.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Query {
    /// udp, tcp or icmp.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub protocol: Option<String>,
    /// An IPv6 address or prefix.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub v6: Option<String>,
    /// A pool address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub v4: Option<String>,
    /// A pool port.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
    /// An IPv4 peer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub remote: Option<String>,
    /// Subscribers that have most of it: ports, sessions or refusals.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub top: Option<String>,
    /// Rows at most.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit: Option<usize>,
    /// Where to go on: `next` of the page before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cursor: Option<String>,
}

impl Query {
    /// The filter in the data plane's terms.
    ///
    /// # Errors
    /// Which part does not parse, and what is accepted.
    pub fn filter(&self) -> Result<Filter, String> {
        Ok(Filter {
            protocol: self.protocol.as_deref().map(protocol).transpose()?,
            v6: self.v6.as_deref().map(prefix6).transpose()?,
            v4: self.v4.as_deref().map(address4).transpose()?,
            v4_port: self.port,
            remote: self.remote.as_deref().map(address4).transpose()?,
        })
    }

    /// Refuses filters that a listing does not know: an answer that passed over them would be
    /// taken for one that matches. `known` names those that it does.
    ///
    /// # Errors
    /// Which one, and what is accepted.
    pub fn only(&self, known: &[&str]) -> Result<(), ListError> {
        let given = [
            ("protocol", self.protocol.is_some()),
            ("v6", self.v6.is_some()),
            ("v4", self.v4.is_some()),
            ("port", self.port.is_some()),
            ("remote", self.remote.is_some()),
            ("top", self.top.is_some()),
        ];
        let unknown = given
            .iter()
            .find(|(name, is_given)| *is_given && !known.contains(name));
        unknown.map_or(Ok(()), |(name, _)| {
            Err(ListError::Request(format!(
                "{name} is no filter of this listing: accepted are {}",
                known.join(", ")
            )))
        })
    }

    fn cursor(&self) -> Result<(u8, u32), String> {
        let Some(text) = &self.cursor else {
            return Ok((0, 0));
        };
        let parsed = text
            .split_once('.')
            .and_then(|(worker, at)| Some((worker.parse().ok()?, at.parse().ok()?)));
        parsed.ok_or_else(|| format!("{text:?} is no cursor: give back `next` of the page before"))
    }
}

fn protocol(text: &str) -> Result<Protocol, String> {
    let found = Protocol::ALL.into_iter().find(|p| p.name() == text);
    found.ok_or_else(|| format!("{text:?} is no protocol: accepted are udp, tcp, icmp"))
}

fn address4(text: &str) -> Result<Ipv4Addr, String> {
    text.parse()
        .map_err(|_| format!("{text:?} is no IPv4 address"))
}

fn prefix6(text: &str) -> Result<(Ipv6Addr, u8), String> {
    let (ip, length) = text.split_once('/').unwrap_or((text, "128"));
    let ip = ip
        .parse()
        .map_err(|_| format!("{text:?} is no IPv6 address or prefix"))?;
    let length = length.parse().ok().filter(|length| *length <= 128);
    let length = length.ok_or_else(|| format!("{text:?} has no prefix length from 0 to 128"))?;
    Ok((ip, length))
}

/// Why a listing was not made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ListError {
    /// The request is wrong.
    Request(String),
    /// A worker did not answer.
    Silent(WorkerId),
    /// A worker has too much of that to do already.
    Busy(WorkerId, TooManyJobs),
}

/// One page: workers are asked one after another until the page is full. Blocks.
pub fn list<R, T>(
    state: &State,
    query: &Query,
    command: impl Fn(Filter, u32, usize, Sender<Page<R>>) -> Command,
    convert: impl Fn(u8, R) -> T,
) -> Result<Listing<T>, ListError> {
    let filter = query.filter().map_err(ListError::Request)?;
    let (first, mut cursor) = query.cursor().map_err(ListError::Request)?;
    let limit = query.limit.unwrap_or(PAGE_ROWS_MAX).clamp(1, PAGE_ROWS_MAX);
    let mut rows = Vec::new();
    for worker in state.worker_ids().skip(usize::from(first)) {
        loop {
            let room = limit - rows.len();
            if room == 0 {
                let next = Some(format!("{}.{cursor}", worker.0));
                return Ok(Listing { rows, next });
            }
            let page = state
                .ask_worker(worker, |reply| command(filter, cursor, room, reply))
                .ok_or(ListError::Silent(worker))?;
            rows.extend(page.rows.into_iter().map(|row| convert(worker.0, row)));
            let Some(next) = page.next else {
                break;
            };
            cursor = next;
        }
        cursor = 0;
    }
    Ok(Listing { rows, next: None })
}

/// The subscribers that have most of something, over all workers. Blocks.
pub fn top_subscribers<T>(
    state: &State,
    by: &str,
    limit: usize,
    convert: impl Fn(u8, SubscriberRow) -> T,
) -> Result<Listing<T>, ListError> {
    let known = [
        ("ports", TopBy::Ports),
        ("sessions", TopBy::Sessions),
        ("refusals", TopBy::Refusals),
    ];
    let found = known.into_iter().find(|(name, _)| *name == by);
    let (_, by) = found.ok_or_else(|| {
        ListError::Request(format!(
            "{by:?} is nothing to have most of: accepted are ports, sessions, refusals"
        ))
    })?;
    let limit = limit.clamp(1, PAGE_ROWS_MAX);
    let mut all = Vec::new();
    for worker in state.worker_ids() {
        let rows = state
            .ask_worker(worker, |reply| Command::TopSubscribers { by, limit, reply })
            .ok_or(ListError::Silent(worker))?
            .map_err(|error| ListError::Busy(worker, error))?;
        all.extend(rows.into_iter().map(|row| (worker.0, row)));
    }
    all.sort_by_key(|(_, row)| {
        std::cmp::Reverse(match by {
            TopBy::Ports => row.ports_used.iter().map(|&ports| u64::from(ports)).sum(),
            TopBy::Sessions => row.session_count.into(),
            TopBy::Refusals => row.refusals,
        })
    });
    all.truncate(limit);
    let rows = all.into_iter().map(|(worker, row)| convert(worker, row));
    Ok(Listing {
        rows: rows.collect(),
        next: None,
    })
}

/// Removes the matching sessions from all workers. Blocks.
pub fn clear_sessions(state: &State, query: &Query) -> Result<u64, ListError> {
    let filter = query.filter().map_err(ListError::Request)?;
    let mut cleared = 0;
    for worker in state.worker_ids() {
        cleared += state
            .ask_worker(worker, |reply| Command::ClearSessions { filter, reply })
            .ok_or(ListError::Silent(worker))?
            .map_err(|error| ListError::Busy(worker, error))?;
    }
    Ok(cleared)
}

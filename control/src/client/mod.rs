//! The commands that ask a running gate64 over its API.

mod connection;
mod show;
mod table;
mod top;
mod units;

use std::net::IpAddr;
use std::process::ExitCode;

use crate::api::model;
use crate::cli::{ApiArgs, ClearArgs, ClearWhat, ExplainArgs, ShowArgs};
use crate::exit::Failure;
pub use connection::Connection;

fn finish(done: Result<(), Failure>) -> ExitCode {
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => failure.report(),
    }
}

/// `gate64 status`.
pub fn status(args: &ApiArgs) -> ExitCode {
    finish(Connection::open(&args.socket).and_then(|mut api| show::status(&mut api, args.json)))
}

/// `gate64 show …`.
pub fn show(args: &ShowArgs) -> ExitCode {
    finish(Connection::open(&args.api.socket).and_then(|mut api| show::show(&mut api, args)))
}

/// `gate64 top`.
pub fn top(args: &ApiArgs) -> ExitCode {
    finish(Connection::open(&args.socket).and_then(|mut api| top::run(&mut api)))
}

/// `gate64 clear …`.
pub fn clear(args: &ClearArgs) -> ExitCode {
    finish(Connection::open(&args.api.socket).and_then(|mut api| {
        let query = match &args.what {
            ClearWhat::Sessions { filter, .. } => filter.query(),
            ClearWhat::Subscriber { prefix } => crate::api::Query {
                v6: Some(prefix.clone()),
                ..Default::default()
            },
        };
        let cleared: model::Cleared = api.post("/v1/clear/sessions", &query)?;
        if args.api.json {
            show::print_json(&cleared)
        } else {
            let plural = if cleared.sessions == 1 { "" } else { "s" };
            show::print(&format!("{} session{plural} removed", cleared.sessions))
        }
    }))
}

/// `gate64 explain ADDR…` and `gate64 explain NAME…`.
pub fn explain(args: &ExplainArgs) -> ExitCode {
    finish(Connection::open(&args.api.socket).and_then(|mut api| {
        let mut explanations = Vec::new();
        for subject in &args.subjects {
            let path = explain_path(subject, args.client)?;
            let explanation: model::Explanation = api.get(&path, &Default::default())?;
            explanations.push(explanation);
        }
        if args.api.json {
            return show::print_json(&explanations);
        }
        for explanation in explanations {
            show::print(&explanation.address)?;
            for line in explanation.lines {
                show::print(&format!("  {line}"))?;
            }
        }
        Ok(())
    }))
}

/// An address is asked about as such, anything else as a name.
fn explain_path(subject: &str, client: Option<IpAddr>) -> Result<String, Failure> {
    if let Ok(address) = subject.parse::<IpAddr>() {
        return Ok(format!("/v1/explain/{address}"));
    }
    let is_plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    if subject.is_empty() || !subject.chars().all(is_plain) {
        return Err(Failure::Failed(format!(
            "{subject:?} is neither an IP address nor a domain name"
        )));
    }
    let client = client.map_or(String::new(), |client| format!("?client={client}"));
    Ok(format!("/v1/explain-name/{subject}{client}"))
}

//! `/metrics`, `/healthz` and `/readyz` on `[metrics] listen`.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;

use axum::Router;
use axum::extract::State as Shared;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use prometheus::{Registry, TextEncoder};

use super::collector::StateCollector;
use crate::exit::Failure;
use crate::state::State;

#[derive(Clone)]
struct App {
    state: Arc<State>,
    registry: Registry,
}

/// Takes the address, before anything is attached. `else_any_port`: one that is in use gives way to any free port there.
///
/// # Errors
/// One line that says what is in the way.
pub fn listen(addr: SocketAddr, else_any_port: bool) -> Result<TcpListener, Failure> {
    let bind = |addr| {
        let listener = TcpListener::bind(addr)?;
        listener.set_nonblocking(true)?;
        Ok(listener)
    };
    let bound = bind(addr).or_else(|error: io::Error| match error.kind() {
        io::ErrorKind::AddrInUse if else_any_port => bind(SocketAddr::new(addr.ip(), 0)),
        _ => Err(error),
    });
    bound.map_err(|error| {
        let hint = match error.kind() {
            io::ErrorKind::AddrInUse => format!(
                "the address is in use, `ss -lntp 'sport = :{}'` shows by whom; \
                 or give [metrics] another listen",
                addr.port()
            ),
            io::ErrorKind::PermissionDenied => {
                "ports below 1024 need root or the capability CAP_NET_BIND_SERVICE".to_owned()
            }
            io::ErrorKind::AddrNotAvailable => {
                "this machine does not have the address (`ip addr`)".to_owned()
            }
            _ => error.to_string(),
        };
        let text = format!("cannot serve metrics on {addr}: {hint}");
        match error.kind() {
            io::ErrorKind::PermissionDenied => Failure::Privilege(text),
            _ => Failure::Failed(text),
        }
    })
}

/// Every route.
///
/// # Errors
/// What the registry refuses, which would be a mistake of ours.
pub fn router(state: Arc<State>) -> Result<Router, Failure> {
    let registry = Registry::new();
    registry
        .register(Box::new(StateCollector(state.clone())))
        .map_err(|error| Failure::Failed(format!("cannot set up metrics: {error}")))?;
    Ok(Router::new()
        .route("/metrics", get(metrics))
        .route("/healthz", get(healthz))
        .route("/readyz", get(readyz))
        .with_state(App { state, registry }))
}

/// Serves until `stop` completes.
pub async fn serve(
    listener: TcpListener,
    router: Router,
    stop: impl Future<Output = ()> + Send + 'static,
) {
    let served = async {
        let listener = tokio::net::TcpListener::from_std(listener)?;
        axum::serve(listener, router)
            .with_graceful_shutdown(stop)
            .await
    };
    if let Err(error) = served.await {
        tracing::error!(%error, "the metrics server stopped");
    }
}

async fn metrics(Shared(app): Shared<App>) -> Response {
    match TextEncoder::new().encode_to_string(&app.registry.gather()) {
        Ok(text) => ([(header::CONTENT_TYPE, prometheus::TEXT_FORMAT)], text).into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
    }
}

/// Whether the process serves: a stuck worker says no, a missing route does not.
async fn healthz(Shared(app): Shared<App>) -> Response {
    match app
        .state
        .workers
        .iter()
        .position(|worker| !worker.is_alive())
    {
        None => "ok\n".into_response(),
        Some(number) => {
            let text = format!("worker {number} is stuck: its loop does not turn\n");
            (StatusCode::SERVICE_UNAVAILABLE, text).into_response()
        }
    }
}

async fn readyz(Shared(app): Shared<App>) -> Response {
    let problems = app.state.readiness().problems();
    // An alarm is no reason to send traffic elsewhere, but one to look.
    let alarms = app.state.alarms.raised();
    let alarms = alarms.iter().map(|text| format!("alarm: {text}\n"));
    let notes = app.state.notes();
    let notes = notes.iter().map(|note| format!("note: {note}\n"));
    let notes: String = alarms.chain(notes).collect();
    if problems.is_empty() {
        return format!("ready\n{notes}").into_response();
    }
    let text = problems.join("\n") + "\n" + &notes;
    (StatusCode::SERVICE_UNAVAILABLE, text).into_response()
}

#[cfg(test)]
mod tests;

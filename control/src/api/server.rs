//! The routes, and the socket they are served on.

use std::io;
use std::net::IpAddr;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use axum::extract::rejection::QueryRejection;
use axum::extract::{Path as UrlPath, Query as UrlQuery, State as Shared};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use gate64_dataplane::command::Command;
use serde::Serialize;

use super::listing::{self, ListError, Query};
use super::{explain, model, summary};
use crate::exit::Failure;
use crate::state::State;

type App = Shared<Arc<State>>;
type Asked = Result<UrlQuery<Query>, QueryRejection>;

/// Every route of the API.
fn router(state: Arc<State>) -> Router {
    Router::new()
        .route("/v1/status", get(status))
        .route("/v1/sessions", get(sessions))
        .route("/v1/bib", get(bib))
        .route("/v1/pool", get(pool))
        .route("/v1/blocks", get(blocks))
        .route("/v1/subscribers", get(subscribers))
        .route("/v1/workers", get(workers))
        .route("/v1/drops", get(drops))
        .route("/v1/interfaces", get(interfaces))
        .route("/v1/neighbors", get(neighbors))
        .route("/v1/config", get(config))
        .route("/v1/dns", get(dns))
        .route("/v1/explain/{address}", get(explain_address))
        .route("/v1/explain-name/{name}", get(explain_name))
        .route("/v1/preview", post(preview))
        .route("/v1/clear/sessions", post(clear_sessions))
        .fallback(unknown)
        .with_state(state)
}

/// The API's socket, taken before anything is attached; the file goes when this is dropped.
#[derive(Debug)]
pub struct ApiSocket {
    listener: UnixListener,
    path: PathBuf,
}

impl ApiSocket {
    /// Takes the socket. One that a killed gate64 left is removed; one that answers is not, nor
    /// any other kind of file.
    ///
    /// # Errors
    /// One line that says what is in the way.
    pub fn take(path: &Path) -> Result<ApiSocket, Failure> {
        let shown = path.display();
        let failed = |error: io::Error| {
            let text = format!("cannot serve the API on {shown}: {error}");
            match error.kind() {
                io::ErrorKind::PermissionDenied => Failure::Privilege(format!(
                    "{text}; run as root, or give [api] a socket where this user may write"
                )),
                _ => Failure::Failed(text),
            }
        };
        if let Ok(there) = std::fs::symlink_metadata(path) {
            if !there.file_type().is_socket() {
                return Err(Failure::Failed(format!(
                    "cannot serve the API on {shown}: a file that is no socket is there; \
                     give [api] another socket"
                )));
            }
            if UnixStream::connect(path).is_ok() {
                return Err(Failure::Failed(format!(
                    "another gate64 already answers on {shown}: stop it, or give this one \
                     another [api] socket"
                )));
            }
            std::fs::remove_file(path).map_err(failed)?;
        }
        if let Some(directory) = path.parent() {
            std::fs::create_dir_all(directory).map_err(failed)?;
        }
        let socket = ApiSocket {
            listener: UnixListener::bind(path).map_err(failed)?,
            path: path.to_owned(),
        };
        let mode = std::fs::Permissions::from_mode(0o660);
        std::fs::set_permissions(path, mode).map_err(failed)?;
        socket.listener.set_nonblocking(true).map_err(failed)?;
        Ok(socket)
    }

    /// Serves until `stop` completes.
    pub async fn serve(self, state: Arc<State>, stop: impl Future<Output = ()> + Send + 'static) {
        let served = async {
            let listener = tokio::net::UnixListener::from_std(self.listener.try_clone()?)?;
            axum::serve(listener, router(state))
                .with_graceful_shutdown(stop)
                .await
        };
        if let Err(error) = served.await {
            tracing::error!(%error, "the API stopped");
        }
    }
}

impl Drop for ApiSocket {
    fn drop(&mut self) {
        // The next start removes it as well; nothing is lost if this fails.
        let _ = std::fs::remove_file(&self.path);
    }
}

fn refuse(status: StatusCode, error: String) -> Response {
    (status, Json(model::ApiError { error })).into_response()
}

async fn unknown() -> Response {
    let error = "no such resource in version 1 of the API".to_owned();
    refuse(StatusCode::NOT_FOUND, error)
}

/// Runs what waits for workers on a thread of its own and answers with its outcome.
async fn blocking<T: Serialize + Send + 'static>(
    state: Arc<State>,
    query: Asked,
    work: impl FnOnce(&State, &Query) -> Result<T, ListError> + Send + 'static,
) -> Response {
    let query = match query {
        Ok(UrlQuery(query)) => query,
        Err(rejection) => return refuse(StatusCode::BAD_REQUEST, rejection.body_text()),
    };
    let done = tokio::task::spawn_blocking(move || work(&state, &query)).await;
    match done {
        Ok(Ok(answer)) => Json(answer).into_response(),
        Ok(Err(ListError::Request(error))) => refuse(StatusCode::BAD_REQUEST, error),
        Ok(Err(ListError::Silent(worker))) => {
            let error = format!("worker {} does not answer", worker.0);
            refuse(StatusCode::SERVICE_UNAVAILABLE, error)
        }
        Ok(Err(ListError::Busy(worker, error))) => {
            let error = format!("worker {}: {error}; try again in a moment", worker.0);
            refuse(StatusCode::SERVICE_UNAVAILABLE, error)
        }
        Err(error) => refuse(StatusCode::INTERNAL_SERVER_ERROR, error.to_string()),
    }
}

/// The command for a page of such rows.
macro_rules! paged {
    ($rows:ident) => {
        |filter, cursor, limit, reply| Command::$rows {
            filter,
            cursor,
            limit,
            reply,
        }
    };
}

async fn sessions(Shared(state): App, query: Asked) -> Response {
    blocking(state, query, |state, query| {
        query.only(&["protocol", "v6", "v4", "port", "remote"])?;
        let command = paged!(Sessions);
        listing::list(state, query, command, model::Session::new)
    })
    .await
}

async fn bib(Shared(state): App, query: Asked) -> Response {
    blocking(state, query, |state, query| {
        query.only(&["protocol", "v6", "v4", "port"])?;
        let command = paged!(Bib);
        listing::list(state, query, command, model::Bib::new)
    })
    .await
}

async fn pool(Shared(state): App, query: Asked) -> Response {
    blocking(state, query, |state, query| {
        query.only(&["v4"])?;
        let command = paged!(Pool);
        let config = state.config.load();
        let names = &config.nat64.pool_names;
        listing::list(state, query, command, |worker, row| {
            model::PoolAddress::new(worker, row, names)
        })
    })
    .await
}

async fn blocks(Shared(state): App, query: Asked) -> Response {
    blocking(state, query, |state, query| {
        query.only(&["v6", "v4", "port"])?;
        if query.port.is_some() && query.v4.is_none() {
            let error = "a port is one of an address: give v4 too".to_owned();
            return Err(ListError::Request(error));
        }
        let command = paged!(Blocks);
        let config = state.config.load();
        let names = &config.nat64.pool_names;
        listing::list(state, query, command, |worker, row| {
            model::Block::new(worker, row, names)
        })
    })
    .await
}

async fn subscribers(Shared(state): App, query: Asked) -> Response {
    blocking(state, query, |state, query| {
        let known: &[&str] = match query.top {
            Some(_) => &["top"],
            None => &["v6", "v4", "top"],
        };
        query.only(known)?;
        let command = paged!(Subscribers);
        let config = state.config.load();
        let classes = &config.nat64.classes;
        let shown = |worker, row| model::Subscriber::new(worker, row, classes);
        match &query.top {
            Some(by) => {
                let limit = query.limit.unwrap_or(listing::PAGE_ROWS_MAX);
                listing::top_subscribers(state, by, limit, shown)
            }
            None => listing::list(state, query, command, shown),
        }
    })
    .await
}

async fn clear_sessions(Shared(state): App, query: Asked) -> Response {
    blocking(state, query, |state, query| {
        query.only(&["protocol", "v6", "v4", "port", "remote"])?;
        listing::clear_sessions(state, query).map(|sessions| model::Cleared { sessions })
    })
    .await
}

/// The body is the text of a configuration.
async fn preview(Shared(state): App, text: String) -> Response {
    let done = tokio::task::spawn_blocking(move || (state.preview)(&state, &text)).await;
    match done {
        Ok(Ok(preview)) => Json(preview).into_response(),
        Ok(Err(error)) => refuse(StatusCode::BAD_REQUEST, error),
        Err(error) => refuse(StatusCode::INTERNAL_SERVER_ERROR, error.to_string()),
    }
}

async fn explain_address(Shared(state): App, UrlPath(address): UrlPath<String>) -> Response {
    let Ok(ip) = address.parse::<IpAddr>() else {
        return refuse(
            StatusCode::BAD_REQUEST,
            format!("{address:?} is no IP address"),
        );
    };
    let all = Ok(UrlQuery(Query::default()));
    blocking(state, all, move |state, _| Ok(explain::explain(state, ip))).await
}

/// `?client=ADDR` asks for a client elsewhere.
async fn explain_name(
    Shared(state): App,
    UrlPath(name): UrlPath<String>,
    UrlQuery(asked): UrlQuery<ClientAsked>,
) -> Response {
    let Some(server) = &state.dns64 else {
        return refuse(StatusCode::NOT_FOUND, NO_DNS64.to_owned());
    };
    let lines = server.explain(&name, asked.client).await;
    Json(model::Explanation {
        address: name,
        lines,
    })
    .into_response()
}

const NO_DNS64: &str = "there is no [dns64] in the configuration: this gate64 answers no names";

#[derive(Debug, serde::Deserialize)]
struct ClientAsked {
    client: Option<IpAddr>,
}

async fn dns(Shared(state): App) -> Response {
    match &state.dns64 {
        Some(server) => Json(summary::dns64(server)).into_response(),
        None => refuse(StatusCode::NOT_FOUND, NO_DNS64.to_owned()),
    }
}

async fn status(Shared(state): App) -> Json<model::Status> {
    Json(summary::status(&state))
}

async fn workers(Shared(state): App) -> Json<Vec<model::Worker>> {
    Json(summary::workers(&state))
}

async fn drops(Shared(state): App) -> Json<Vec<model::Drop>> {
    Json(summary::drops(&state))
}

async fn interfaces(Shared(state): App) -> Json<Vec<model::Interface>> {
    Json(state.surroundings.interfaces())
}

async fn neighbors(Shared(state): App) -> Json<Vec<model::Neighbor>> {
    Json(state.surroundings.neighbors())
}

async fn config(Shared(state): App) -> Json<model::ConfigText> {
    let config = state.config.load();
    Json(model::ConfigText {
        path: config.path.display().to_string(),
        text: config.text.clone(),
    })
}

#[cfg(test)]
mod tests;

//! `serve`: the worker as an HTTP server.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::process::ExitCode;
use std::time::Instant;

use concept_worker::service::auth::Auth;
use concept_worker::service::{log, server};
use tokio::net::TcpListener;

use super::worker::{asked_to_stop, open, stage};
use super::{CliError, ServeArgs};

/// The port where none is given.
const PORT: u16 = 8080;

/// Runs the command.
pub fn serve(args: &ServeArgs) -> Result<ExitCode, CliError> {
    let started = Instant::now();
    let stage = stage()?;
    let auth = Auth::new(&stage.config, stage.surroundings.on_cloud_run()).map_err(CliError::Usage)?;
    let address = address(args.listen, &auth, stage.surroundings.on_cloud_run())?;
    stage.runtime.block_on(async {
        let listener = TcpListener::bind(address).await.map_err(|error| {
            CliError::Failed(format!("cannot listen on {address}: {error}; set PORT or --listen to a free address"))
        })?;
        let worker = open(&stage.config, &stage.surroundings).await?;
        let address = listener.local_addr().unwrap_or(address);
        tracing::info!("listening on http://{address}, version {}", env!("CARGO_PKG_VERSION"));
        let limit = worker.memory_limit();
        let ready_ms = started.elapsed().as_secs_f64() * 1e3;
        log::started(ready_ms, limit.bytes, limit.found_in, worker.processors());
        let router = server::router(worker.clone(), auth, started);
        let models = worker.models().clone();
        models.load_in_background();
        let mut hopeless = None;
        let stop = async {
            tokio::select! {
                () = asked_to_stop() => (),
                error = models.hopeless() => hopeless = Some(error),
            }
        };
        server::run(listener, router, worker, stop)
            .await
            .map_err(|error| CliError::Failed(format!("the server ended: {error}")))?;
        match hopeless {
            None => Ok(()),
            Some(error) => Err(CliError::Failed(error.to_string())),
        }
    })?;
    // What still computes is of jobs that are left to the next delivery.
    stage.runtime.shutdown_background();
    Ok(ExitCode::SUCCESS)
}

/// Where to listen: never beyond this machine where anyone may call.
fn address(given: Option<SocketAddr>, auth: &Auth, on_cloud_run: bool) -> Result<SocketAddr, CliError> {
    let port = match std::env::var("PORT") {
        Ok(text) if !text.trim().is_empty() => text
            .trim()
            .parse()
            .map_err(|_| CliError::Usage(format!("PORT is {text:?}; give a port from 0 to 65535, or unset it")))?,
        _ => PORT,
    };
    // Without Cloud Run before it, nobody has checked the signatures that mode `platform` relies on.
    let unchecked = auth.trusts_the_platform() && !on_cloud_run;
    let address = given.unwrap_or_else(|| {
        let ip = if auth.is_off() || unchecked { Ipv4Addr::LOCALHOST } else { Ipv4Addr::UNSPECIFIED };
        SocketAddr::new(IpAddr::V4(ip), port)
    });
    if auth.is_off() && !address.ip().is_loopback() {
        return Err(CliError::Usage(format!(
            "--listen: {address} is open to others, and anyone may call; set CONCEPT_PUSH_AUTH to `platform` or \
             `verify`, or listen on 127.0.0.1"
        )));
    }
    if unchecked && !address.ip().is_loopback() {
        return Err(CliError::Usage(format!(
            "--listen: {address} is open to others, this is not Cloud Run, and CONCEPT_PUSH_AUTH=platform checks no \
             signatures; set it to `verify`, or listen on 127.0.0.1"
        )));
    }
    Ok(address)
}

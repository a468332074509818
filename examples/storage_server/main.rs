//! The test suite's stand-in for Cloud Storage as a program, for load tests: point STORAGE_EMULATOR_HOST at the address
//! that it prints. Objects are kept in memory and come in through the JSON API.

use std::time::Duration;

use clap::Parser;

#[path = "../../tests/storage_server/mod.rs"]
mod storage_server;

use storage_server::{Faults, StorageServer};

/// A stand-in for Cloud Storage that fails on demand.
#[derive(Debug, Parser)]
struct Arguments {
    /// Port of 127.0.0.1; 0 takes a free one.
    #[arg(long, default_value_t = 4443)]
    port: u16,
    /// Every answer comes this much later, milliseconds.
    #[arg(long, default_value_t = 0)]
    delay_ms: u64,
    /// Percentage of requests that fail: statuses 429 and 503, broken connections, lost answers, reads cut short.
    #[arg(long, default_value_t = 0.0)]
    fail_percent: f64,
    /// Which of them fail.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// A bucket that is there from the start; may be given several times.
    #[arg(long = "bucket", default_values_t = ["bases".to_owned(), "palettes".to_owned()])]
    buckets: Vec<String>,
}

#[tokio::main]
async fn main() -> std::io::Result<()> {
    let arguments = Arguments::parse();
    let server = StorageServer::listen(&format!("127.0.0.1:{}", arguments.port)).await?;
    for bucket in &arguments.buckets {
        server.create_bucket(bucket);
    }
    let delay = Duration::from_millis(arguments.delay_ms);
    server.faults(Faults { delay, ..Faults::mixed(arguments.seed, arguments.fail_percent) });
    println!("{}", server.url());
    server.run().await;
    Ok(())
}

//! Remote models: a client of Replicate's HTTP API, and of any server with that contract.
//!
//! A prediction is ordered with [`Remote::create`], waited for with [`Remote::wait`], and what it put out is read with
//! [`read_outputs`]. Predictions are paid for, so an order goes out again only where it is sure that the one before
//! made nothing; a job that comes again goes on with [`Remote::resume`] where the id of its prediction was kept.
//! Reading is repeated freely, within a budget that all calls share.

mod budget;
mod client;
mod output;
mod prediction;
mod webhook;

#[cfg(test)]
#[path = "../../tests/remote_server/mod.rs"]
mod remote_server;
#[cfg(test)]
mod tests;

pub use budget::{BudgetOptions, RetryBudget};
pub use client::{
    BreakerReport, MAX_ANSWER_BYTES, MAX_INPUT_BYTES, MAX_UPLOAD_BYTES, Remote, RemoteError, RemoteOptions,
};
pub use output::{
    Content, MAX_INLINE_BYTES, MAX_OUTPUTS, Output, OutputError, agrees, data_uri, extension, read_outputs, sniff,
};
pub use prediction::{ModelRef, Prediction, PredictionStatus, Running, is_prediction_id};
pub use webhook::{Waiter, Waiters, Webhook, WebhookError, WebhookSecret, verify};

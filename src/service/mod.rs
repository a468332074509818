//! The worker: messages in, objects out.
//!
//! Data flows one way: an HTTP request or a pulled message becomes a [`envelope::Delivery`], that a job, the job's source a
//! picture, and what the pipeline makes of it objects in a [`storage::Storage`]; the manifest is written last.

pub mod admission;
pub mod auth;
pub mod batch;
pub mod breaker;
pub mod cache;
pub mod compute;
pub mod envelope;
pub mod failure;
pub mod fair;
pub mod flight;
pub mod jobs;
pub mod log;
pub mod memory;
pub mod metrics;
pub mod models;
pub mod publish;
pub mod pull;
pub mod remote;
pub mod server;
pub mod source;
pub mod steps;
pub mod storage;
pub mod worker;

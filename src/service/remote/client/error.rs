//! Why a remote model gave nothing.

use std::time::Duration;

/// Why a remote model gave nothing. What the server says is shown shortened, without queries of addresses and without
/// data.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RemoteError {
    /// The model keeps failing and is left alone for now.
    #[error("the remote model {model} keeps failing and is asked again in {} s", retry_in.as_secs_f64().ceil())]
    BreakerOpen {
        /// The model without its version.
        model: String,
        /// When it may be asked again.
        retry_in: Duration,
    },
    /// The token is missing, wrong, or not good for this.
    #[error("the server of remote models does not accept the token ({status}); set one that may run the model")]
    Unauthorized {
        /// The HTTP status, 401 or 403.
        status: u16,
    },
    /// The account has no credit.
    #[error("the server of remote models wants to be paid; add credit to the account of the token")]
    PaymentRequired,
    /// There is no such model.
    #[error("there is no remote model {model}; check its name and its version")]
    NoSuchModel {
        /// The model.
        model: String,
    },
    /// The server does not know the prediction, or has deleted it or what it put out.
    #[error("the server of remote models knows no prediction {id}, or no longer; order it again")]
    NoSuchPrediction {
        /// Its id.
        id: String,
    },
    /// The model does not take this input.
    #[error("the remote model does not take its input: {detail}")]
    BadInput {
        /// What the server says.
        detail: String,
    },
    /// The input is larger than is sent.
    #[error("the remote model's input has {bytes} bytes, and at most {limit} are sent; make it smaller")]
    InputTooLarge {
        /// Its size in bytes.
        bytes: u64,
        /// The most that is sent.
        limit: u64,
    },
    /// Too many requests.
    #[error(
        "the server of remote models takes no more requests for now; ask it less often, or raise the account's limit"
    )]
    RateLimited {
        /// When it takes them again, where it says so.
        retry_after: Option<Duration>,
    },
    /// The server cannot be reached, or cannot answer now.
    #[error("the server of remote models is not available: {problem}")]
    Unavailable {
        /// What happened.
        problem: String,
        /// When to come again, where the server says so.
        retry_after: Option<Duration>,
        /// Whether a prediction may have been made all the same.
        unsure: bool,
    },
    /// It took too long: one request, or a whole prediction.
    #[error("the remote model did not answer within {seconds} s; give it more time, or ask it for less")]
    TimedOut {
        /// The limit in seconds.
        seconds: u64,
        /// Whether a prediction may have been made whose id is not known.
        unsure: bool,
    },
    /// The prediction failed.
    #[error("the remote model failed: {problem}")]
    Failed {
        /// What the server says.
        problem: String,
        /// Whether the server broke it off and not the model: ordered again, it may succeed.
        interrupted: bool,
    },
    /// The prediction was cancelled, by somebody or at the end of its lifetime.
    #[error("the prediction {id} was cancelled; order it again where that was not wanted")]
    Cancelled {
        /// Its id.
        id: String,
    },
    /// The server answers with something that is no answer.
    #[error("the answer of the server of remote models is not understood: {problem}; check the server's address")]
    NotUnderstood {
        /// What is wrong with it.
        problem: &'static str,
        /// Whether a prediction may have been made whose id is not known.
        unsure: bool,
    },
    /// The server does not do this.
    #[error("the server of remote models refused with {status}: {problem}")]
    Refused {
        /// The HTTP status.
        status: u16,
        /// What the server says.
        problem: String,
    },
    /// The answer has more bytes than are read.
    #[error("the answer of the server of remote models has more than {limit} bytes; have the model put out addresses")]
    TooLarge {
        /// The most that is read.
        limit: u64,
        /// Whether a prediction may have been made whose id is not known.
        unsure: bool,
    },
    /// The server takes no files.
    #[error("the server of remote models takes no files; send them in the input as data URIs")]
    NoFiles,
}

impl RemoteError {
    /// Whether the same may succeed later, without anybody mending anything.
    pub const fn is_transient(&self) -> bool {
        match self {
            Self::BreakerOpen { .. } | Self::RateLimited { .. } | Self::Unavailable { .. } | Self::TimedOut { .. } => {
                true
            }
            Self::Failed { interrupted, .. } => *interrupted,
            _ => false,
        }
    }

    /// Whether whoever runs the worker has to mend it, and not whoever sent the job.
    pub const fn needs_operator(&self) -> bool {
        matches!(self, Self::Unauthorized { .. } | Self::PaymentRequired)
    }

    /// When to try again, where that is known.
    pub const fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::BreakerOpen { retry_in, .. } => Some(*retry_in),
            Self::RateLimited { retry_after } | Self::Unavailable { retry_after, .. } => *retry_after,
            _ => None,
        }
    }

    /// Whether an order that ended so may have made a prediction whose id is not known, and which is paid for: to order
    /// again may pay twice.
    pub const fn may_have_created(&self) -> bool {
        matches!(
            self,
            Self::Unavailable { unsure: true, .. }
                | Self::TimedOut { unsure: true, .. }
                | Self::NotUnderstood { unsure: true, .. }
                | Self::TooLarge { unsure: true, .. }
        )
    }

    /// Whether it speaks against the model, so that its breaker counts it.
    pub const fn counts_against_model(&self) -> bool {
        matches!(
            self,
            Self::Unavailable { .. } | Self::TimedOut { .. } | Self::Failed { .. } | Self::NotUnderstood { .. }
        )
    }
}

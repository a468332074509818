//! Who may call: OIDC tokens of push subscriptions and of the scheduler.
//!
//! A token is taken apart once, and its claims are checked the same way whether the platform has verified its signature
//! or this module does. No text says what the token was.

pub mod keys;
mod token;

use std::time::{SystemTime, UNIX_EPOCH};

use http::header::AUTHORIZATION;
use http::{HeaderMap, StatusCode};
use jsonwebtoken::Algorithm;

use crate::config::{AuthSetting, Config};
use keys::{KeyError, KeyPolicy, Keys, KeysUnavailable};
use token::{Expected, Token};

/// The header that Cloud Run checks instead of Authorization where a request has both.
const SERVERLESS_AUTHORIZATION: &str = "x-serverless-authorization";

/// How callers are told apart.
#[derive(Debug)]
pub enum Auth {
    /// Anyone may call; only for a server that listens on the loopback address.
    Off,
    /// The platform has verified the signature and replaced it; the claims are checked. Sound only behind Cloud Run's
    /// invoker check.
    Platform(Claims),
    /// Signature and claims are checked, against keys that are fetched and kept.
    Verify(Claims, Keys),
}

/// What a token must claim.
#[derive(Debug, Clone)]
pub struct Claims(Expected);

/// Why a request is refused. No text contains anything of the token.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum AuthError {
    /// There is no token.
    #[error("the request has no token; send `Authorization: Bearer` and an OIDC token of Google's")]
    Missing,
    /// The token proves nothing.
    #[error("the token is refused: {0}")]
    Token(&'static str),
    /// The token is good, but not of an account that may call.
    #[error("the caller is refused: {0}")]
    Account(&'static str),
    /// Nothing can be said yet.
    #[error("the token cannot be checked now: {0}; try again")]
    Keys(KeysUnavailable),
}

impl AuthError {
    /// Why, as a label of metrics.
    pub const fn reason(&self) -> &'static str {
        match self {
            Self::Missing => "missing",
            Self::Token(_) => "token",
            Self::Account(_) => "account",
            Self::Keys(_) => "keys",
        }
    }

    /// 401, 403 or 503.
    pub const fn status(&self) -> StatusCode {
        match self {
            Self::Missing | Self::Token(_) => StatusCode::UNAUTHORIZED,
            Self::Account(_) => StatusCode::FORBIDDEN,
            Self::Keys(_) => StatusCode::SERVICE_UNAVAILABLE,
        }
    }
}

impl From<KeyError> for AuthError {
    fn from(error: KeyError) -> Self {
        match error {
            KeyError::Unknown => Self::Token("it is signed with a key that Google does not list; fetch a new token"),
            KeyError::Unavailable(why) => Self::Keys(why),
        }
    }
}

impl Auth {
    /// Takes the mode and what tokens must claim from the settings. Nothing is fetched yet.
    ///
    /// # Errors
    /// A text that names the variables to set: on Cloud Run there is no default and no `off`, and the modes that read tokens
    /// need an audience and at least one account.
    pub fn new(config: &Config, on_cloud_run: bool) -> Result<Self, String> {
        Self::with_key_policy(config, on_cloud_run, KeyPolicy::default())
    }

    /// The same with other times for keeping and fetching keys.
    ///
    /// # Errors
    /// As [`Auth::new`].
    pub fn with_key_policy(config: &Config, on_cloud_run: bool, policy: KeyPolicy) -> Result<Self, String> {
        let mode = config.push_auth;
        match mode {
            AuthSetting::Unset if on_cloud_run => {
                return Err(
                    "CONCEPT_PUSH_AUTH is not set, and on Cloud Run there is no default; set it to `platform` where \
                            the service requires authentication, else to `verify`"
                        .into(),
                );
            }
            AuthSetting::Off if on_cloud_run => {
                return Err("CONCEPT_PUSH_AUTH is `off`, which would let anyone start jobs on Cloud Run; set it to \
                            `platform` or `verify`"
                    .into());
            }
            AuthSetting::Unset | AuthSetting::Off => return Ok(Self::Off),
            AuthSetting::Platform | AuthSetting::Verify => {}
        }
        let accounts = config.push_service_account.items();
        let (audience, missing) = match (config.push_audience.get(), accounts.is_empty()) {
            (Some(audience), false) => (audience, ""),
            (Some(_), true) => ("", "CONCEPT_PUSH_SERVICE_ACCOUNT (whose tokens are accepted)"),
            (None, false) => ("", "CONCEPT_PUSH_AUDIENCE (whom tokens must be for)"),
            (None, true) => ("", "CONCEPT_PUSH_AUDIENCE and CONCEPT_PUSH_SERVICE_ACCOUNT"),
        };
        if !missing.is_empty() {
            return Err(format!("CONCEPT_PUSH_AUTH asks for tokens, and these are not set: {missing}; set them"));
        }
        let claims = Claims(Expected { audience: audience.to_owned(), accounts: accounts.to_vec() });
        if mode == AuthSetting::Platform {
            return Ok(Self::Platform(claims));
        }
        let url = config.oidc_jwks_url.get().ok_or("CONCEPT_OIDC_JWKS_URL is empty; leave it unset")?;
        Ok(Self::Verify(claims, Keys::new(url, policy)?))
    }

    /// Whether anyone may call, so that the server must not listen on more than the loopback address.
    pub const fn is_off(&self) -> bool {
        matches!(self, Self::Off)
    }

    /// Whether somebody else has to check signatures first, so that the server must not be reached past them.
    pub const fn trusts_the_platform(&self) -> bool {
        matches!(self, Self::Platform(_))
    }

    /// Whether a request with these headers may be served.
    ///
    /// # Errors
    /// [`AuthError`], with the status to answer.
    pub async fn check(&self, headers: &HeaderMap) -> Result<(), AuthError> {
        match self {
            Self::Off => Ok(()),
            Self::Platform(Claims(expected)) => {
                // Where a request has both, this is the one that the platform has checked.
                let name = if headers.contains_key(SERVERLESS_AUTHORIZATION) {
                    SERVERLESS_AUTHORIZATION
                } else {
                    AUTHORIZATION.as_str()
                };
                let token = Token::parse(bearer(headers, name)?)?;
                expected.check(&token, now())?;
                expected.check_account(&token)
            }
            Self::Verify(Claims(expected), keys) => {
                let token = Token::parse(bearer(headers, AUTHORIZATION.as_str())?)?;
                // What is not meant for this service must not make it fetch anything.
                expected.check(&token, now())?;
                let kid =
                    token.kid.as_deref().ok_or(AuthError::Token("it names no key (kid); send one of Google's"))?;
                let key = keys.key(kid).await?;
                let verified =
                    jsonwebtoken::crypto::verify(token.signature, token.signed.as_bytes(), &key, Algorithm::RS256);
                if !verified.unwrap_or(false) {
                    return Err(AuthError::Token("its signature is wrong"));
                }
                // Last, so that nobody learns which accounts may call by trying unsigned tokens.
                expected.check_account(&token)
            }
        }
    }
}

/// The token of the one header of this name.
fn bearer<'a>(headers: &'a HeaderMap, name: &str) -> Result<&'a str, AuthError> {
    let mut values = headers.get_all(name).iter();
    let value = values.next().ok_or(AuthError::Missing)?;
    if values.next().is_some() {
        return Err(AuthError::Token("there is more than one Authorization header; send one"));
    }
    let value = value.to_str().map_err(|_| AuthError::Token("it is not ASCII; send an OIDC token of Google's"))?;
    // Scheme names have no case (RFC 9110, 11.1).
    match value.trim().split_once(' ') {
        Some((scheme, token)) if scheme.eq_ignore_ascii_case("bearer") => Ok(token.trim()),
        _ => Err(AuthError::Missing),
    }
}

/// Seconds since 1970.
fn now() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |elapsed| elapsed.as_secs_f64())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(mode: AuthSetting, audience: &str, accounts: &str) -> Config {
        Config {
            push_auth: mode,
            push_audience: audience.to_owned().try_into().unwrap(),
            push_service_account: accounts.to_owned().try_into().unwrap(),
            ..Config::default()
        }
    }

    #[test]
    fn on_cloud_run_nothing_starts_open() {
        let refused = Auth::new(&config(AuthSetting::Unset, "a", "a@b.c"), true).unwrap_err();
        assert!(refused.contains("CONCEPT_PUSH_AUTH is not set") && refused.contains("`verify`"), "{refused}");
        let refused = Auth::new(&config(AuthSetting::Off, "a", "a@b.c"), true).unwrap_err();
        assert!(refused.contains("CONCEPT_PUSH_AUTH is `off`"), "{refused}");
        for mode in [AuthSetting::Unset, AuthSetting::Off] {
            assert!(Auth::new(&config(mode, "", ""), false).unwrap().is_off());
        }
    }

    #[test]
    fn modes_that_read_tokens_name_what_they_lack() {
        for mode in [AuthSetting::Platform, AuthSetting::Verify] {
            for on_cloud_run in [true, false] {
                for (audience, accounts) in [("", ""), ("a", ""), ("", "a@b.c")] {
                    let refused = Auth::new(&config(mode, audience, accounts), on_cloud_run).unwrap_err();
                    assert_eq!(refused.contains("CONCEPT_PUSH_AUDIENCE"), audience.is_empty(), "{refused}");
                    assert_eq!(refused.contains("CONCEPT_PUSH_SERVICE_ACCOUNT"), accounts.is_empty(), "{refused}");
                }
                let auth = Auth::new(&config(mode, "a", "a@b.c"), on_cloud_run).unwrap();
                assert!(!auth.is_off());
            }
        }
    }

    #[test]
    fn keys_are_not_fetched_over_a_way_that_others_can_write_on() {
        let with = |url: &str| {
            let jwks = url.to_owned().try_into().unwrap();
            Auth::new(&Config { oidc_jwks_url: jwks, ..config(AuthSetting::Verify, "a", "a@b.c") }, true)
        };
        for url in ["http://keys.example.com/certs", "http://10.0.0.1/certs", "http://127.0.0.1.example.com/"] {
            assert!(with(url).unwrap_err().contains("CONCEPT_OIDC_JWKS_URL"), "{url}");
        }
        for url in ["https://keys.example.com/certs", "http://127.0.0.1:9/certs", "http://[::1]/", "http://localhost/"]
        {
            assert!(with(url).is_ok(), "{url}");
        }
    }
}

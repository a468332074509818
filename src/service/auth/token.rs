//! OIDC ID tokens taken apart: JWTs (RFC 7519) signed as JWS (RFC 7515), and the claims Google makes in them.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::AuthError;

/// Longest token that is read, bytes. Google's have about 1,200.
const MAX_TOKEN_BYTES: usize = 8 << 10;
/// Longest name of a key, bytes. Google's have 40.
const MAX_KID_BYTES: usize = 256;
/// How far clocks may be apart, seconds.
const LEEWAY: f64 = 30.0;
/// The two spellings Google uses.
const ISSUERS: [&str; 2] = ["https://accounts.google.com", "accounts.google.com"];

/// A token whose signature nobody here has looked at yet.
pub(super) struct Token<'a> {
    /// The name of the key it is signed with.
    pub(super) kid: Option<String>,
    claims: Claims,
    /// What is signed.
    pub(super) signed: &'a str,
    /// The signature, base64url.
    pub(super) signature: &'a str,
}

#[derive(Deserialize)]
struct Header {
    alg: String,
    #[serde(default)]
    kid: Option<String>,
    #[serde(default)]
    crit: Option<Value>,
}

/// Values of any kind, so that each wrong one gets its own answer.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Claims {
    iss: Value,
    aud: Value,
    exp: Value,
    iat: Value,
    nbf: Value,
    email: Value,
    email_verified: Value,
}

/// What a token must claim.
#[derive(Debug, Clone)]
pub(super) struct Expected {
    pub(super) audience: String,
    pub(super) accounts: Vec<String>,
}

impl<'a> Token<'a> {
    /// Takes a token apart and looks at its header.
    pub(super) fn parse(text: &'a str) -> Result<Self, AuthError> {
        if text.len() > MAX_TOKEN_BYTES {
            return Err(AuthError::Token("it is too long; send an OIDC token of Google's"));
        }
        let mut parts = text.split('.');
        let (Some(header), Some(claims), Some(signature), None) =
            (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err(AuthError::Token("it is no JWT; send an OIDC ID token, not an access token"));
        };
        let malformed = AuthError::Token("it is no JWT that can be read; fetch a new one");
        let head: Header = part(header).ok_or(malformed.clone())?;
        // Google signs with nothing else; `none` and HS256 are how tokens are forged.
        if head.alg != "RS256" {
            return Err(AuthError::Token("it is not signed with RS256; send one of Google's"));
        }
        // RFC 7515, 4.1.11: whoever does not understand what is critical must refuse.
        if head.crit.is_some() {
            return Err(AuthError::Token("it has critical extensions; send one of Google's"));
        }
        if head.kid.as_ref().is_some_and(|kid| kid.is_empty() || kid.len() > MAX_KID_BYTES) {
            return Err(AuthError::Token("the name of its key is none of Google's"));
        }
        let signed = &text[..header.len() + 1 + claims.len()];
        Ok(Self { kid: head.kid, claims: part(claims).ok_or(malformed)?, signed, signature })
    }
}

impl Expected {
    /// Checks who the token is from and for, and when. `now` is in seconds since 1970.
    pub(super) fn check(&self, token: &Token<'_>, now: f64) -> Result<(), AuthError> {
        let claims = &token.claims;
        // One text: a list of audiences would let a token for somebody else be used here.
        if claims.aud.as_str() != Some(&*self.audience) {
            return Err(AuthError::Token(
                "it is for another audience; give the subscription or the scheduler's job that of CONCEPT_PUSH_AUDIENCE",
            ));
        }
        if !claims.iss.as_str().is_some_and(|issuer| ISSUERS.contains(&issuer)) {
            return Err(AuthError::Token("it is not issued by Google"));
        }
        let (Some(expires), Some(issued)) = (claims.exp.as_f64(), claims.iat.as_f64()) else {
            return Err(AuthError::Token("it does not say when it was issued and when it expires"));
        };
        if expires <= now - LEEWAY {
            return Err(AuthError::Token("it has expired; fetch a new one"));
        }
        if issued > now + LEEWAY {
            return Err(AuthError::Token("it was issued in the future; check the clocks"));
        }
        match (&claims.nbf, claims.nbf.as_f64()) {
            (Value::Null, _) => Ok(()),
            (_, Some(begins)) if begins <= now + LEEWAY => Ok(()),
            _ => Err(AuthError::Token("it is not valid yet; check the clocks")),
        }
    }

    /// Checks whose token it is.
    pub(super) fn check_account(&self, token: &Token<'_>) -> Result<(), AuthError> {
        let claims = &token.claims;
        let Some(email) = claims.email.as_str() else {
            return Err(AuthError::Account("the token names no account; fetch it with the e-mail included"));
        };
        if claims.email_verified != Value::Bool(true) {
            return Err(AuthError::Account("the token's account is not verified; use a service account"));
        }
        if !self.accounts.iter().any(|account| account == email) {
            return Err(AuthError::Account("its account is not listed in CONCEPT_PUSH_SERVICE_ACCOUNT"));
        }
        Ok(())
    }
}

fn part<T: DeserializeOwned>(text: &str) -> Option<T> {
    let json = URL_SAFE_NO_PAD.decode(text).ok()?;
    // Derived readers of structures also take arrays.
    if json.first() != Some(&b'{') {
        return None;
    }
    serde_json::from_slice(&json).ok()
}

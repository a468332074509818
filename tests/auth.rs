//! Who may call, judged with tokens signed here and a key server whose keys rotate, vanish and stall.

mod worker_rig;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, LazyLock, Mutex};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa::{KeyPair, KeySize};
use aws_lc_rs::signature::{KeyPair as _, RSA_PKCS1_SHA256};
use aws_lc_rs::{hmac, signature};
use axum::Router;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use concept_worker::config::{AuthSetting, Config};
use concept_worker::service::auth::keys::{KeyPolicy, KeysUnavailable};
use concept_worker::service::auth::{Auth, AuthError};
use http::{HeaderMap, HeaderValue, StatusCode};
use serde_json::{Value, json};
use tokio::sync::watch;

const AUDIENCE: &str = "https://worker.example.com/pubsub/push";
const ACCOUNT: &str = "push@demo.iam.gserviceaccount.com";
const SCHEDULER: &str = "clock@demo.iam.gserviceaccount.com";

/// Longer than anything here takes, shorter than anyone wants to wait for a test that hangs.
const PATIENCE: Duration = Duration::from_secs(30);

/// Made once: an RSA key takes a while.
static KEY_A: LazyLock<KeyPair> = LazyLock::new(|| KeyPair::generate(KeySize::Rsa2048).unwrap());
static KEY_B: LazyLock<KeyPair> = LazyLock::new(|| KeyPair::generate(KeySize::Rsa2048).unwrap());

fn now() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs() as i64
}

fn encoded(part: &Value) -> String {
    URL_SAFE_NO_PAD.encode(part.to_string())
}

fn good_header() -> Value {
    json!({"alg": "RS256", "kid": "a", "typ": "JWT"})
}

fn good_claims() -> Value {
    json!({"aud": AUDIENCE, "azp": "113774264463038321964", "email": ACCOUNT, "email_verified": true,
        "exp": now() + 3600, "iat": now(), "iss": "https://accounts.google.com", "sub": "113774264463038321964"})
}

/// An object with some of its fields replaced, or left out where the other value is null.
fn but(mut object: Value, changes: Value) -> Value {
    for (name, value) in changes.as_object().unwrap() {
        let fields = object.as_object_mut().unwrap();
        if value.is_null() {
            fields.remove(name)
        } else {
            fields.insert(name.clone(), value.clone())
        };
    }
    object
}

fn signed(header: &Value, claims: &Value, key: &KeyPair) -> String {
    let message = format!("{}.{}", encoded(header), encoded(claims));
    let mut signature = vec![0; key.public_modulus_len()];
    key.sign(&RSA_PKCS1_SHA256, &SystemRandom::new(), message.as_bytes(), &mut signature).unwrap();
    format!("{message}.{}", URL_SAFE_NO_PAD.encode(signature))
}

fn good_token() -> String {
    signed(&good_header(), &good_claims(), &KEY_A)
}

fn token_of(kid: &str, key: &KeyPair) -> String {
    signed(&but(good_header(), json!({"kid": kid})), &good_claims(), key)
}

fn public(kid: &str, key: &KeyPair) -> Value {
    let (n, e) = (key.public_key().modulus(), key.public_key().exponent());
    json!({"kty": "RSA", "use": "sig", "alg": "RS256", "kid": kid,
        "n": URL_SAFE_NO_PAD.encode(n.big_endian_without_leading_zero()),
        "e": URL_SAFE_NO_PAD.encode(e.big_endian_without_leading_zero())})
}

fn set(keys: &[Value]) -> String {
    json!({ "keys": keys }).to_string()
}

/// What the key server answers.
#[derive(Clone)]
struct Answer {
    status: u16,
    cache_control: &'static str,
    body: String,
}

/// A server of key sets that counts what it is asked and can hold its answers back.
#[derive(Clone)]
struct KeyServer {
    address: SocketAddr,
    answer: Arc<Mutex<Answer>>,
    asked: Arc<AtomicUsize>,
    open: Arc<watch::Sender<bool>>,
}

impl KeyServer {
    async fn start(keys: &[Value]) -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let answer = Answer { status: 200, cache_control: "public, max-age=20000", body: set(keys) };
        let server = Self {
            address: listener.local_addr().unwrap(),
            answer: Arc::new(Mutex::new(answer)),
            asked: Arc::default(),
            open: Arc::new(watch::channel(true).0),
        };
        let router = Router::new().route("/certs", get(Self::serve)).with_state(server.clone());
        tokio::spawn(async move { axum::serve(listener, router).await });
        server
    }

    async fn serve(State(server): State<Self>) -> Response {
        server.asked.fetch_add(1, Ordering::SeqCst);
        server.open.subscribe().wait_for(|open| *open).await.unwrap();
        let Answer { status, cache_control, body } = server.answer.lock().unwrap().clone();
        (StatusCode::from_u16(status).unwrap(), [("cache-control", cache_control)], body).into_response()
    }

    fn asked(&self) -> usize {
        self.asked.load(Ordering::SeqCst)
    }

    async fn until_asked(&self, times: usize) {
        let reached = async {
            while self.asked() < times {
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        };
        tokio::time::timeout(PATIENCE, reached).await.expect("the key server was not asked");
    }

    fn stall(&self) {
        self.open.send_replace(false);
    }

    fn go_on(&self) {
        self.open.send_replace(true);
    }

    fn change(&self, change: impl FnOnce(&mut Answer)) {
        change(&mut self.answer.lock().unwrap());
    }

    fn auth(&self, policy: KeyPolicy) -> Auth {
        let url = format!("http://{}/certs", self.address);
        Auth::with_key_policy(&config(AuthSetting::Verify, &url), true, policy).unwrap()
    }
}

fn config(mode: AuthSetting, jwks_url: &str) -> Config {
    Config {
        push_auth: mode,
        push_audience: AUDIENCE.to_owned().try_into().unwrap(),
        push_service_account: format!("{ACCOUNT}, {SCHEDULER}").try_into().unwrap(),
        oidc_jwks_url: jwks_url.to_owned().try_into().unwrap(),
        ..Config::default()
    }
}

/// A set is stale at once, and refreshes follow one another without a pause.
fn impatient() -> KeyPolicy {
    KeyPolicy {
        shortest_fresh: Duration::ZERO,
        longest_fresh: Duration::ZERO,
        pause: Duration::ZERO,
        pause_without_keys: Duration::ZERO,
        timeout: PATIENCE * 100,
        ..KeyPolicy::default()
    }
}

fn bearing(token: &str) -> HeaderMap {
    HeaderMap::from_iter([(http::header::AUTHORIZATION, HeaderValue::from_str(&format!("Bearer {token}")).unwrap())])
}

/// Judges a token, and holds every refusal to what it may say.
async fn judge(auth: &Auth, token: &str) -> Result<(), AuthError> {
    let verdict = tokio::time::timeout(PATIENCE, auth.check(&bearing(token))).await.expect("a check that hangs");
    if let Err(error) = &verdict {
        let said = format!("{error} {error:?}");
        for part in token.split('.').filter(|part| part.len() > 8) {
            assert!(!said.contains(part), "the token is in the text: {said}");
        }
        assert!(!said.contains(AUDIENCE) && !said.contains(ACCOUNT), "{said}");
    }
    verdict
}

async fn status(auth: &Auth, token: &str) -> u16 {
    judge(auth, token).await.map_or_else(|error| error.status().as_u16(), |()| 204)
}

/// Tokens that are refused by what they claim, each with its status; signed with the right key.
fn wrong_claims() -> Vec<(&'static str, Value, u16)> {
    let now = now();
    vec![
        ("another audience", json!({"aud": "https://worker.example.com/"}), 401),
        ("an audience with a slash more", json!({"aud": format!("{AUDIENCE}/")}), 401),
        ("an audience in capitals", json!({"aud": AUDIENCE.to_uppercase()}), 401),
        ("no audience", json!({"aud": null}), 401),
        ("a list of audiences", json!({"aud": [AUDIENCE, "https://other.example.com"]}), 401),
        ("a number as audience", json!({"aud": 5}), 401),
        ("another issuer", json!({"iss": "https://accounts.example.com"}), 401),
        ("an issuer that begins like Google", json!({"iss": "https://accounts.google.com.example.com"}), 401),
        ("an issuer over http", json!({"iss": "http://accounts.google.com"}), 401),
        ("no issuer", json!({"iss": null}), 401),
        ("expired", json!({"exp": now - 60, "iat": now - 3660}), 401),
        ("expired long ago", json!({"exp": 0}), 401),
        ("never expiring", json!({"exp": null}), 401),
        ("expiring in words", json!({"exp": (now + 3600).to_string()}), 401),
        ("issued tomorrow", json!({"iat": now + 86400}), 401),
        ("never issued", json!({"iat": null}), 401),
        ("not valid yet", json!({"nbf": now + 120}), 401),
        ("not valid before a word", json!({"nbf": "later"}), 401),
        ("another account", json!({"email": "eve@demo.iam.gserviceaccount.com"}), 403),
        ("an account with a suffix", json!({"email": format!("{ACCOUNT}.example.com")}), 403),
        ("an account in capitals", json!({"email": ACCOUNT.to_uppercase()}), 403),
        ("both accounts", json!({"email": format!("{ACCOUNT},{SCHEDULER}")}), 403),
        ("no account", json!({"email": null}), 403),
        ("accounts in a list", json!({"email": [ACCOUNT]}), 403),
        ("an account that is not verified", json!({"email_verified": false}), 403),
        ("nothing said about verification", json!({"email_verified": null}), 403),
        ("verification in words", json!({"email_verified": "true"}), 403),
        ("verification as a number", json!({"email_verified": 1}), 403),
    ]
}

/// What is acceptable at the edges.
fn right_claims() -> Vec<(&'static str, Value)> {
    let now = now();
    vec![
        ("as Google makes them", json!({})),
        ("the other issuer", json!({"iss": "accounts.google.com"})),
        ("the other account", json!({"email": SCHEDULER})),
        ("expired within the leeway", json!({"exp": now - 10})),
        ("issued ahead within the leeway", json!({"iat": now + 10})),
        ("valid from now", json!({"nbf": now})),
        ("fractions of seconds", json!({"exp": now as f64 + 60.5})),
        ("claims nobody knows", json!({"google": {"compute_engine": {"zone": "europe-west1-b"}}})),
    ]
}

#[tokio::test]
async fn tokens_are_judged_by_what_they_claim_in_both_modes() {
    let server = KeyServer::start(&[public("a", &KEY_A)]).await;
    let verify = server.auth(KeyPolicy::default());
    let platform = Auth::new(&config(AuthSetting::Platform, "https://unused.example.com"), true).unwrap();
    let stripped = |token: &str| format!("{}.SIGNATURE_REMOVED_BY_GOOGLE", token.rsplit_once('.').unwrap().0);
    for (name, changes) in right_claims() {
        let token = signed(&good_header(), &but(good_claims(), changes), &KEY_A);
        assert_eq!(judge(&verify, &token).await, Ok(()), "{name}");
        assert_eq!(judge(&platform, &stripped(&token)).await, Ok(()), "{name}");
    }
    for (name, changes, expected) in wrong_claims() {
        let token = signed(&good_header(), &but(good_claims(), changes), &KEY_A);
        assert_eq!(status(&verify, &token).await, expected, "{name}");
        assert_eq!(status(&platform, &stripped(&token)).await, expected, "{name}");
    }
    assert_eq!(server.asked(), 1, "the keys are fetched once");
}

#[tokio::test]
async fn tokens_are_judged_by_their_signature() {
    let server = KeyServer::start(&[public("a", &KEY_A)]).await;
    let auth = server.auth(KeyPolicy::default());
    let (header, claims) = (good_header(), good_claims());
    let message = |header: &Value| format!("{}.{}", encoded(header), encoded(&claims));
    let good = good_token();
    let (signed_part, signature_part) = good.rsplit_once('.').unwrap();

    // An HMAC keyed with the public key: what a verifier that trusts `alg` would accept.
    let hs256 = message(&json!({"alg": "HS256", "kid": "a"}));
    let secret = hmac::Key::new(hmac::HMAC_SHA256, KEY_A.public_key().as_ref());
    let hs256 = format!("{hs256}.{}", URL_SAFE_NO_PAD.encode(hmac::sign(&secret, hs256.as_bytes())));
    let pss = {
        let message = message(&json!({"alg": "PS256", "kid": "a"}));
        let mut bytes = vec![0; KEY_A.public_modulus_len()];
        KEY_A.sign(&signature::RSA_PSS_SHA256, &SystemRandom::new(), message.as_bytes(), &mut bytes).unwrap();
        format!("{message}.{}", URL_SAFE_NO_PAD.encode(bytes))
    };
    let none = |alg: &str| message(&json!({"alg": alg, "kid": "a"}));
    let raised = but(claims.clone(), json!({"exp": now() + 9_000_000}));
    let table = [
        ("signed with another key under the right name", signed(&header, &claims, &KEY_B)),
        ("claims exchanged", format!("{}.{}.{signature_part}", encoded(&header), encoded(&raised))),
        (
            "header exchanged",
            format!("{}.{}.{signature_part}", encoded(&json!({"alg": "RS256", "kid": "a", "x": 1})), encoded(&claims)),
        ),
        ("no signature", format!("{signed_part}.")),
        ("a signature that is no base64", format!("{signed_part}.!!!")),
        ("a signature cut short", good[..good.len() - 8].to_owned()),
        ("a signature of zeros", format!("{signed_part}.{}", URL_SAFE_NO_PAD.encode([0; 256]))),
        ("the platform's mark", format!("{signed_part}.SIGNATURE_REMOVED_BY_GOOGLE")),
        ("HS256 with the public key as secret", hs256),
        ("PS256 with the right key", pss),
        ("alg none", format!("{}.", none("none"))),
        ("alg None", format!("{}.", none("None"))),
        ("alg none with a signature", format!("{}.{signature_part}", none("none"))),
        ("alg rs256", signed(&but(header.clone(), json!({"alg": "rs256"})), &claims, &KEY_A)),
        ("no alg", signed(&but(header.clone(), json!({"alg": null})), &claims, &KEY_A)),
        ("no kid", signed(&but(header.clone(), json!({"kid": null})), &claims, &KEY_A)),
        ("an empty kid", signed(&but(header.clone(), json!({"kid": ""})), &claims, &KEY_A)),
        ("a kid that is a number", signed(&but(header.clone(), json!({"kid": 1})), &claims, &KEY_A)),
        ("a kid of a megabyte's kind", signed(&but(header.clone(), json!({"kid": "k".repeat(300)})), &claims, &KEY_A)),
        ("critical extensions", signed(&but(header.clone(), json!({"crit": ["b64"], "b64": false})), &claims, &KEY_A)),
        (
            "a key brought along",
            signed(&but(header.clone(), json!({"kid": "b", "jwk": public("b", &KEY_B)})), &claims, &KEY_B),
        ),
        ("five parts", format!("{good}.a.b")),
        ("two parts", signed_part.to_owned()),
        ("one part", "ya29.".replace('.', "-")),
        ("an access token", "ya29.c.b0Aaekm1K".to_owned()),
        ("empty parts", "..".to_owned()),
        ("dots only", ".....".to_owned()),
        ("no token after the scheme", String::new()),
        ("padding", format!("{}.{}.{signature_part}=", encoded(&header), encoded(&claims))),
        ("claims that are a list", format!("{}.{}.{signature_part}", encoded(&header), encoded(&json!([])))),
        ("very long", format!("{signed_part}.{}", "A".repeat(1 << 16))),
        ("doubled claims", {
            let twice = claims.to_string().replacen('{', &format!(r#"{{"aud":"{AUDIENCE}","#), 1);
            format!("{}.{}.{signature_part}", encoded(&header), URL_SAFE_NO_PAD.encode(twice))
        }),
    ];
    assert_eq!(status(&auth, &good).await, 204);
    for (name, token) in &table {
        assert_eq!(status(&auth, token).await, 401, "{name}");
    }
    assert_eq!(server.asked(), 1, "no name of a key made the server be asked again");
    assert_eq!(status(&auth, &good).await, 204);
}

#[tokio::test]
async fn the_header_must_be_there_once_and_its_scheme_has_no_case() {
    let server = KeyServer::start(&[public("a", &KEY_A)]).await;
    let auth = server.auth(KeyPolicy::default());
    let token = good_token();
    let header = |text: String| HeaderValue::from_str(&text).unwrap();
    for (value, expected) in [
        (format!("Bearer {token}"), 204),
        (format!("bearer {token}"), 204),
        (format!("BEARER   {token} "), 204),
        (format!("Basic {token}"), 401),
        (token.clone(), 401),
        (format!("Bearer{token}"), 401),
        (format!("Bearer\t{token}"), 401),
        (format!("Bearer {token} {token}"), 401),
        (format!("Bearer {token}, Bearer {token}"), 401),
        ("Bearer".into(), 401),
        (String::new(), 401),
    ] {
        let headers = HeaderMap::from_iter([(http::header::AUTHORIZATION, header(value.clone()))]);
        let found = auth.check(&headers).await.map_or_else(|error| error.status().as_u16(), |()| 204);
        assert_eq!(found, expected, "{value}");
    }
    assert_eq!(auth.check(&HeaderMap::new()).await, Err(AuthError::Missing));
    let mut two = bearing(&token);
    two.append(http::header::AUTHORIZATION, header(format!("Bearer {token}")));
    assert_eq!(auth.check(&two).await.unwrap_err().status(), StatusCode::UNAUTHORIZED);
    let mut bytes = HeaderMap::new();
    bytes.insert(http::header::AUTHORIZATION, HeaderValue::from_bytes(b"Bearer \xff\xfe").unwrap());
    assert_eq!(auth.check(&bytes).await.unwrap_err().status(), StatusCode::UNAUTHORIZED);
    // Only the platform sets this one, and only there does it count.
    let mut serverless = HeaderMap::new();
    serverless.insert("x-serverless-authorization", header(format!("Bearer {token}")));
    assert_eq!(auth.check(&serverless).await, Err(AuthError::Missing));
}

#[tokio::test]
async fn behind_the_platform_the_header_counts_that_the_platform_checked() {
    let auth = Auth::new(&config(AuthSetting::Platform, "https://unused.example.com"), true).unwrap();
    let (good, eve) = (good_claims(), but(good_claims(), json!({"email": "eve@example.com"})));
    let marked =
        |claims: &Value| format!("{}.{}.SIGNATURE_REMOVED_BY_GOOGLE", encoded(&good_header()), encoded(claims));
    // Whoever may invoke the service could put anything into the header that Cloud Run did not look at.
    let both = |checked: &Value, other: &Value| {
        let mut headers = bearing(&marked(other));
        headers.insert(
            "x-serverless-authorization",
            HeaderValue::from_str(&format!("bearer {}", marked(checked))).unwrap(),
        );
        headers
    };
    assert_eq!(auth.check(&both(&good, &eve)).await, Ok(()));
    assert_eq!(auth.check(&both(&eve, &good)).await.unwrap_err().status(), StatusCode::FORBIDDEN);
    for alg in ["none", "HS256"] {
        let token = format!("{}.{}.", encoded(&json!({"alg": alg})), encoded(&good));
        assert_eq!(status(&auth, &token).await, 401, "{alg}: Google issues no such token");
    }
    assert_eq!(status(&auth, &good_token()).await, 204);
    assert_eq!(auth.check(&HeaderMap::new()).await, Err(AuthError::Missing));
}

#[tokio::test]
async fn tokens_that_are_wrong_anyway_make_nothing_be_fetched() {
    let server = KeyServer::start(&[public("a", &KEY_A)]).await;
    let auth = server.auth(KeyPolicy::default());
    for (name, changes, expected) in wrong_claims() {
        if expected == 401 {
            let token = signed(&good_header(), &but(good_claims(), changes), &KEY_A);
            assert_eq!(status(&auth, &token).await, 401, "{name}");
        }
    }
    for header in [json!({"kid": null}), json!({"alg": "none"}), json!({"alg": "HS256"})] {
        let token = signed(&but(good_header(), header), &good_claims(), &KEY_A);
        assert_eq!(status(&auth, &token).await, 401);
    }
    assert_eq!(server.asked(), 0);
}

#[tokio::test]
async fn rubbish_names_of_keys_make_one_request_and_hurt_nobody() {
    let server = KeyServer::start(&[public("a", &KEY_A)]).await;
    let patient = KeyPolicy { pause: PATIENCE * 100, ..KeyPolicy::default() };
    let auth = server.auth(patient);
    let claims = good_claims();
    for number in 0..200 {
        let header = but(good_header(), json!({"kid": format!("rubbish-{number}")}));
        let token = format!("{}.{}.AAAA", encoded(&header), encoded(&claims));
        assert_eq!(status(&auth, &token).await, 401);
    }
    assert_eq!(status(&auth, &good_token()).await, 204);
    assert_eq!(server.asked(), 1);
}

#[tokio::test]
async fn a_rotated_key_is_found_and_a_vanished_one_is_refused() {
    let server = KeyServer::start(&[public("a", &KEY_A)]).await;
    let auth = server.auth(KeyPolicy { pause: Duration::ZERO, ..KeyPolicy::default() });
    assert_eq!(status(&auth, &token_of("a", &KEY_A)).await, 204);
    server.change(|answer| answer.body = set(&[public("a", &KEY_A), public("b", &KEY_B)]));
    assert_eq!(status(&auth, &token_of("b", &KEY_B)).await, 204, "the set is fresh, the key is new");
    assert_eq!(status(&auth, &token_of("a", &KEY_A)).await, 204);
    assert_eq!(server.asked(), 2);
    server.change(|answer| answer.body = set(&[public("b", &KEY_B)]));
    assert_eq!(status(&auth, &token_of("a", &KEY_A)).await, 204, "nothing told of it yet");
    assert_eq!(status(&auth, &token_of("c", &KEY_A)).await, 401, "this one makes the set be fetched");
    assert_eq!(status(&auth, &token_of("a", &KEY_A)).await, 401);
    assert_eq!(status(&auth, &token_of("b", &KEY_B)).await, 204);
    // The name stays, the key is another.
    server.change(|answer| answer.body = set(&[public("b", &KEY_A)]));
    assert_eq!(status(&auth, &token_of("c", &KEY_A)).await, 401);
    assert_eq!(status(&auth, &token_of("b", &KEY_B)).await, 401);
    assert_eq!(status(&auth, &token_of("b", &KEY_A)).await, 204);
}

#[tokio::test]
async fn while_a_refresh_stalls_known_keys_verify_without_waiting() {
    let server = KeyServer::start(&[public("a", &KEY_A)]).await;
    let auth = Arc::new(server.auth(impatient()));
    assert_eq!(status(&auth, &good_token()).await, 204);
    assert_eq!(server.asked(), 1);
    server.stall();
    // The set is stale: the first of these begins a refresh, which nobody waits for; `judge` gives up before it does.
    let token = good_token();
    let checks = (0..100).map(|_| {
        let (auth, token) = (auth.clone(), token.clone());
        tokio::spawn(async move { status(&auth, &token).await })
    });
    for check in checks.collect::<Vec<_>>() {
        assert_eq!(check.await.unwrap(), 204);
    }
    server.until_asked(2).await;
    assert_eq!(status(&auth, &token).await, 204);
    assert_eq!(server.asked(), 2, "one refresh for all");
    server.change(|answer| answer.body = set(&[public("b", &KEY_B)]));
    server.go_on();
    assert_eq!(status(&auth, &token_of("b", &KEY_B)).await, 204, "the refresh arrives");
    assert_eq!(status(&auth, &token).await, 401);
}

#[tokio::test]
async fn a_hundred_callers_of_a_key_that_is_not_known_yet_share_one_request() {
    let server = KeyServer::start(&[public("a", &KEY_A)]).await;
    server.stall();
    let auth = Arc::new(server.auth(KeyPolicy { timeout: PATIENCE * 100, ..KeyPolicy::default() }));
    let checks: Vec<_> = (0..100)
        .map(|_| {
            let (auth, token) = (auth.clone(), good_token());
            tokio::spawn(async move { status(&auth, &token).await })
        })
        .collect();
    server.until_asked(1).await;
    // Callers that give up take nothing with them: the refresh is nobody's own.
    for check in checks.iter().take(50) {
        check.abort();
    }
    server.go_on();
    for check in checks.into_iter().skip(50) {
        assert_eq!(check.await.unwrap(), 204);
    }
    assert_eq!(server.asked(), 1);
}

#[tokio::test]
async fn without_keys_the_answer_is_503_until_the_server_is_back() {
    let server = KeyServer::start(&[public("a", &KEY_A)]).await;
    let auth = server.auth(KeyPolicy { pause_without_keys: Duration::ZERO, ..KeyPolicy::default() });
    let usable = server.answer.lock().unwrap().clone();
    let answers = [
        (500, usable.body.clone(), KeysUnavailable::Status(500)),
        (404, usable.body.clone(), KeysUnavailable::Status(404)),
        // A redirect could lead anywhere.
        (302, usable.body.clone(), KeysUnavailable::Status(302)),
        (200, String::new(), KeysUnavailable::Unusable),
        (200, "<html>".into(), KeysUnavailable::Unusable),
        (200, "{}".into(), KeysUnavailable::Unusable),
        (200, set(&[]), KeysUnavailable::Unusable),
        (
            200,
            usable.body.replacen('{', &format!("{{\"x\":\"{}\",", "x".repeat(300 << 10)), 1),
            KeysUnavailable::Unusable,
        ),
    ];
    for (status, body, expected) in answers {
        server.change(|answer| (answer.status, answer.body) = (status, body));
        let error = judge(&auth, &good_token()).await.unwrap_err();
        assert_eq!((error.status(), error), (StatusCode::SERVICE_UNAVAILABLE, AuthError::Keys(expected)));
    }
    server.change(|answer| *answer = usable);
    assert_eq!(status(&auth, &good_token()).await, 204);
}

#[tokio::test]
async fn an_outage_is_bridged_with_the_keys_that_were_known() {
    let server = KeyServer::start(&[public("a", &KEY_A)]).await;
    let auth = server.auth(impatient());
    assert_eq!(status(&auth, &good_token()).await, 204);
    let broken = [(503, String::new()), (200, "garbage".to_owned()), (200, set(&[]))];
    for (number, (code, body)) in broken.into_iter().enumerate() {
        server.change(|answer| (answer.status, answer.body) = (code, body));
        assert_eq!(status(&auth, &good_token()).await, 204);
        server.until_asked(number + 2).await;
        // A name that is not known waits for a refresh of its own, after the one before it failed.
        assert_eq!(status(&auth, &token_of("b", &KEY_B)).await, 503, "it may be new");
        assert_eq!(status(&auth, &good_token()).await, 204);
    }
}

#[tokio::test]
async fn keys_that_nobody_vouches_for_any_more_are_not_used() {
    let server = KeyServer::start(&[public("a", &KEY_A)]).await;
    let auth = server.auth(KeyPolicy { longest_stale: Duration::ZERO, ..impatient() });
    let judged = judge(&auth, &good_token()).await;
    // Stale at once and for no time at all: the set is gone before it can be used.
    assert_eq!(judged.unwrap_err().status(), StatusCode::UNAUTHORIZED);
    assert_eq!(server.asked(), 1);
}

#[tokio::test]
async fn a_key_server_that_stalls_or_is_gone_costs_its_time_limit_and_no_more() {
    let server = KeyServer::start(&[public("a", &KEY_A)]).await;
    server.stall();
    let pause_without_keys = PATIENCE * 100;
    let auth =
        server.auth(KeyPolicy { timeout: Duration::from_millis(100), pause_without_keys, ..KeyPolicy::default() });
    assert_eq!(judge(&auth, &good_token()).await, Err(AuthError::Keys(KeysUnavailable::TimedOut)));
    // The pause is not over: this one is answered by what the last refresh said.
    assert_eq!(judge(&auth, &good_token()).await, Err(AuthError::Keys(KeysUnavailable::TimedOut)));
    assert_eq!(server.asked(), 1);

    let nobody = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = nobody.local_addr().unwrap();
    drop(nobody);
    let url = format!("http://{address}/certs");
    let auth = Auth::new(&config(AuthSetting::Verify, &url), true).unwrap();
    assert_eq!(judge(&auth, &good_token()).await, Err(AuthError::Keys(KeysUnavailable::Unreachable)));
}

#[tokio::test]
async fn keys_of_other_kinds_in_the_set_are_left_out() {
    let small = json!({"kty": "RSA", "kid": "small", "n": URL_SAFE_NO_PAD.encode([0xff; 128]), "e": "AQAB"});
    let others = [
        ("e", json!({"kid": "e", "use": "enc"})),
        ("f", json!({"kid": "f", "alg": "RS512"})),
        ("g", json!({"kid": "g", "kty": "EC"})),
        ("h", json!({"kid": "h", "n": "!"})),
        ("i", json!({"kid": "i", "e": ""})),
        ("j", json!({"kid": "j", "n": null})),
        ("k", json!({"kid": "k", "kty": 5})),
    ];
    let mut keys =
        vec![json!(5), json!({}), small, json!({"kty": "EC", "kid": "ec", "crv": "P-256", "x": "AA", "y": "AA"})];
    keys.extend(others.iter().map(|(_, changes)| but(public("a", &KEY_A), changes.clone())));
    keys.push(but(public("bare", &KEY_A), json!({"use": null, "alg": null})));
    let server = KeyServer::start(&keys).await;
    let auth = server.auth(KeyPolicy::default());
    assert_eq!(status(&auth, &token_of("bare", &KEY_A)).await, 204);
    let verdicts: BTreeMap<&str, u16> = {
        let mut found = BTreeMap::new();
        for kid in others.iter().map(|(kid, _)| *kid).chain(["small", "ec"]) {
            found.insert(kid, status(&auth, &token_of(kid, &KEY_A)).await);
        }
        found
    };
    assert!(verdicts.values().all(|&status| status == 401), "{verdicts:?}");
}

/// The program itself, not only its check of tokens.
#[tokio::test]
async fn the_worker_serves_those_whose_tokens_are_good_and_nobody_else() {
    let server = KeyServer::start(&[public("a", &KEY_A)]).await;
    let setup = worker_rig::Setup::local()
        .with("CONCEPT_PUSH_AUTH", "verify")
        .with("CONCEPT_PUSH_AUDIENCE", AUDIENCE)
        .with("CONCEPT_PUSH_SERVICE_ACCOUNT", &format!("{ACCOUNT},{SCHEDULER}"))
        .with("CONCEPT_OIDC_JWKS_URL", &format!("http://{}/certs", server.address));
    setup.put("bases", "photo.jpg", &worker_rig::fixture("photo.jpg"));
    let rig = setup.serve().await;
    let message = |id: &str| worker_rig::wrapped(worker_rig::job(id, 1).to_string().as_bytes(), id);
    let push = |id: &'static str, token: Option<String>| {
        let request = rig.client.post(rig.url("/pubsub/push")).json(&message(id));
        let request = match token {
            Some(token) => request.bearer_auth(token),
            None => request,
        };
        async move { request.send().await.unwrap().status().as_u16() }
    };
    let with = |changes: Value| signed(&good_header(), &but(good_claims(), changes), &KEY_A);
    assert_eq!(push("none", None).await, 401);
    assert_eq!(push("forged", Some(token_of("a", &KEY_B))).await, 401);
    assert_eq!(push("late", Some(with(json!({"exp": now() - 3600})))).await, 401);
    assert_eq!(push("elsewhere", Some(with(json!({"aud": "https://other.example.com"})))).await, 401);
    assert_eq!(push("stranger", Some(with(json!({"email": "x@demo.iam.gserviceaccount.com"})))).await, 403);
    assert_eq!(push("good", Some(good_token())).await, 204);
    let scheduler = with(json!({"email": SCHEDULER}));
    let warm = rig.client.post(rig.url("/warmup")).bearer_auth(scheduler).send().await.unwrap();
    assert_eq!(warm.status(), 200);
    assert!(setup.manifest("u_1/good").is_some());
    for id in ["none", "forged", "late", "elsewhere", "stranger"] {
        assert!(setup.manifest(&format!("u_1/{id}")).is_none() && setup.manifest(&format!("_failed/{id}")).is_none());
    }
    for (method, path) in [("GET", "/metrics"), ("GET", "/v1/jobs/good"), ("POST", "/v1/render"), ("GET", "/warmup")] {
        let answer = rig.client.request(method.parse().unwrap(), rig.url(path)).send().await.unwrap();
        assert_eq!(answer.status(), 401, "{path}");
    }
    for path in ["/health", "/ready"] {
        assert_eq!(rig.client.get(rig.url(path)).send().await.unwrap().status(), 200, "{path}");
    }
    let log = rig.log.lock().unwrap().join("\n");
    assert!(!log.contains("eyJ"), "a token was logged");
}

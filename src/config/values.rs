//! What settings are made of: words, places and names, each checked when it is read.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::pipeline::segment::runtime::Provider;

/// How much is logged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogLevel {
    /// Nothing.
    Off,
    /// What failed. `critical` and `fatal` are accepted spellings.
    #[serde(alias = "critical", alias = "fatal")]
    Error,
    /// What will surprise. `warning` is an accepted spelling.
    #[serde(alias = "warning")]
    Warn,
    /// What happened.
    Info,
    /// Why it happened.
    Debug,
    /// Everything.
    Trace,
}

impl LogLevel {
    /// The lower-case word.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Off => "off",
            Self::Error => "error",
            Self::Warn => "warn",
            Self::Info => "info",
            Self::Debug => "debug",
            Self::Trace => "trace",
        }
    }
}

/// How log lines look.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// JSON on Cloud Run, text elsewhere.
    #[default]
    Auto,
    /// As Cloud Logging reads it.
    Json,
    /// For people.
    Text,
}

/// How callers prove who they are.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum AuthSetting {
    /// Not said.
    #[default]
    #[serde(rename = "")]
    Unset,
    /// The platform has checked the token.
    Platform,
    /// The token is checked here.
    Verify,
    /// Anyone.
    Off,
}

/// Where objects live.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum StorageSetting {
    /// Not said: `gcs` on Cloud Run, `local:./data` elsewhere.
    #[default]
    Unset,
    /// gs://bucket/name is the file bucket/name under this folder.
    Local(PathBuf),
    /// Cloud Storage.
    Gcs,
    /// Nowhere: objects are gone when the process ends.
    Memory,
}

impl StorageSetting {
    /// What is meant where nothing is said.
    pub fn or_default(self, on_cloud_run: bool) -> Self {
        match self {
            Self::Unset if on_cloud_run => Self::Gcs,
            Self::Unset => Self::Local(PathBuf::from("./data")),
            said => said,
        }
    }
}

impl TryFrom<String> for StorageSetting {
    type Error = &'static str;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        match text.split_once(':') {
            None if text.is_empty() => Ok(Self::Unset),
            Some(("local", folder)) if !folder.trim().is_empty() => Ok(Self::Local(folder.into())),
            None if text == "gcs" => Ok(Self::Gcs),
            None if text == "memory" => Ok(Self::Memory),
            _ => Err("not a storage"),
        }
    }
}

impl From<StorageSetting> for String {
    fn from(storage: StorageSetting) -> Self {
        match storage {
            StorageSetting::Unset => String::new(),
            StorageSetting::Local(folder) => format!("local:{}", folder.display()),
            StorageSetting::Gcs => "gcs".into(),
            StorageSetting::Memory => "memory".into(),
        }
    }
}

/// A bucket's name, or none.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Bucket(Option<String>);

impl Bucket {
    /// The name, when there is one.
    pub fn name(&self) -> Option<&str> {
        self.0.as_deref()
    }

    /// Whether `name` can be a bucket's: also safe as the name of one folder.
    pub fn is_valid_name(name: &str) -> bool {
        (3..=222).contains(&name.len())
            && name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b"-_.".contains(&b))
            && name.starts_with(|c: char| c.is_ascii_alphanumeric())
            && !name.contains("..")
    }
}

impl TryFrom<String> for Bucket {
    type Error = &'static str;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        if text.is_empty() {
            Ok(Self(None))
        } else if Self::is_valid_name(&text) {
            Ok(Self(Some(text)))
        } else {
            Err("not a bucket's name")
        }
    }
}

impl From<Bucket> for String {
    fn from(bucket: Bucket) -> Self {
        bucket.0.unwrap_or_default()
    }
}

/// Declares a setting that is one checked text or nothing, or a list of them.
macro_rules! text {
    ($(#[doc = $doc:literal])+ $name:ident, $check:expr) => {
        $(#[doc = $doc])+
        #[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(Option<String>);

        impl $name {
            /// The text, when it is set.
            pub fn get(&self) -> Option<&str> {
                self.0.as_deref()
            }
        }

        impl TryFrom<String> for $name {
            type Error = &'static str;

            fn try_from(text: String) -> Result<Self, Self::Error> {
                let check: fn(&str) -> bool = $check;
                match text.as_str() {
                    "" => Ok(Self(None)),
                    given if check(given) => Ok(Self(Some(text))),
                    _ => Err("not of this form"),
                }
            }
        }

        impl From<$name> for String {
            fn from(value: $name) -> Self {
                value.0.unwrap_or_default()
            }
        }
    };
}

macro_rules! list {
    ($(#[doc = $doc:literal])+ $name:ident, $check:expr) => {
        $(#[doc = $doc])+
        #[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(Vec<String>);

        impl $name {
            /// The items; empty when nothing is set.
            pub fn items(&self) -> &[String] {
                &self.0
            }
        }

        impl TryFrom<String> for $name {
            type Error = &'static str;

            fn try_from(text: String) -> Result<Self, Self::Error> {
                let check: fn(&str) -> bool = $check;
                if text.is_empty() {
                    return Ok(Self(Vec::new()));
                }
                let items: Vec<String> = text.split(',').map(|item| item.trim().to_owned()).collect();
                if items.iter().all(|item| check(item)) { Ok(Self(items)) } else { Err("not of this form") }
            }
        }

        impl From<$name> for String {
            fn from(value: $name) -> Self {
                value.0.join(",")
            }
        }
    };
}

text! {
    /// Any text.
    Text, |_| true
}
text! {
    /// A topic's full name.
    Topic, |text| is_resource(text, "topics")
}
text! {
    /// A subscription's full name.
    Subscription, |text| is_resource(text, "subscriptions")
}
text! {
    /// An http:// or https:// address, without a closing slash.
    WebAddress, |text| {
        let rest = text.strip_prefix("https://").or_else(|| text.strip_prefix("http://"));
        rest.is_some_and(|rest| !rest.is_empty() && !rest.starts_with('/') && !rest.contains(|c: char| c.is_whitespace() || c.is_control()))
    }
}
/// Text that is shown to nobody.
#[derive(Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(from = "String")]
pub struct Secret(Option<String>);

impl Secret {
    /// The text, when there is one.
    pub fn get(&self) -> Option<&str> {
        self.0.as_deref()
    }

    const fn shown(&self) -> &'static str {
        if self.0.is_some() { "(set)" } else { "" }
    }
}

impl From<String> for Secret {
    fn from(text: String) -> Self {
        Self(Some(text).filter(|text| !text.is_empty()))
    }
}

impl Serialize for Secret {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.shown())
    }
}

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.shown())
    }
}

list! {
    /// Buckets, or parts of them: gs://bucket, gs://bucket/prefix, or `*`.
    Places, |item| {
        let Some(rest) = item.strip_prefix("gs://") else { return item == "*" };
        Bucket::is_valid_name(rest.split('/').next().unwrap_or_default())
    }
}
list! {
    /// Host names; one that begins with a dot stands for every host below it.
    Hosts, |item| {
        let name = item.strip_prefix('.').unwrap_or(item);
        !name.is_empty() && name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b"-.".contains(&b))
    }
}
list! {
    /// Execution providers, in the order in which they are tried.
    Providers, |item| Provider::ALL.iter().any(|provider| provider.name() == item)
}
text! {
    /// A SHA-256, hexadecimal.
    Sha256Hex, |text| text.len() == 64 && text.bytes().all(|b| b.is_ascii_hexdigit())
}
list! {
    /// Service accounts.
    Accounts, |item| item.split_once('@').is_some_and(|(name, host)| !name.is_empty() && host.contains('.'))
}

impl Providers {
    /// All of them.
    pub fn all() -> Self {
        Self(Provider::ALL.iter().map(|provider| provider.name().to_owned()).collect())
    }

    /// In order, each once.
    pub fn get(&self) -> Vec<Provider> {
        let mut providers = Vec::new();
        for item in &self.0 {
            let found = Provider::ALL.into_iter().find(|provider| provider.name() == item);
            providers.extend(found.filter(|provider| !providers.contains(provider)));
        }
        providers
    }
}

impl Hosts {
    /// Hosts that are known to be some.
    pub fn known(hosts: &[&str]) -> Self {
        Self(hosts.iter().map(|host| (*host).to_owned()).collect())
    }
}

impl WebAddress {
    /// An address that is known to be one.
    pub fn known(address: &str) -> Self {
        Self(Some(address.to_owned()))
    }
}

/// `projects/PROJECT/<kind>/NAME`.
fn is_resource(text: &str, kind: &str) -> bool {
    let parts: Vec<&str> = text.split('/').collect();
    let plain =
        |part: &str| !part.is_empty() && part.chars().all(|c| c.is_ascii_alphanumeric() || "-_.~+%:".contains(c));
    matches!(parts[..], ["projects", project, found, name] if found == kind && plain(project) && plain(name))
}

//! Buckets and what is in them.

use std::collections::{BTreeMap, HashMap};
use std::time::{SystemTime, UNIX_EPOCH};

use axum::http::StatusCode;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use serde_json::{Map, Value, json};

/// Fields of an object resource that a writer may set.
const WRITABLE: [&str; 10] = [
    "cacheControl",
    "contentDisposition",
    "contentEncoding",
    "contentLanguage",
    "contentType",
    "crc32c",
    "md5Hash",
    "metadata",
    "name",
    "storageClass",
];

/// A refusal: status, reason as Google words it, and message.
#[derive(Debug)]
pub struct Refusal(pub StatusCode, pub &'static str, pub String);

/// One generation of an object.
#[derive(Debug, Clone)]
pub struct StoredObject {
    pub bucket: String,
    pub name: String,
    pub bytes: Bytes,
    pub generation: i64,
    pub content_type: String,
    pub cache_control: Option<String>,
    pub content_encoding: Option<String>,
    pub metadata: BTreeMap<String, String>,
    /// RFC 3339.
    pub created: String,
}

/// A write that was applied.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Written {
    pub bucket: String,
    pub name: String,
    pub generation: i64,
    /// The generation that was there before.
    pub replaced: Option<i64>,
}

impl StoredObject {
    pub fn crc32c(&self) -> String {
        STANDARD.encode(crc32c::crc32c(&self.bytes).to_be_bytes())
    }

    pub fn md5(&self) -> String {
        STANDARD.encode(md5::compute(&self.bytes).0)
    }

    /// The object resource of the JSON API.
    pub fn resource(&self, url: &str) -> Value {
        let path: String = url::form_urlencoded::byte_serialize(self.name.as_bytes()).collect();
        let path = path.replace('+', "%20");
        let (bucket, generation) = (&self.bucket, self.generation);
        let mut resource = json!({
            "kind": "storage#object",
            "id": format!("{bucket}/{}/{generation}", self.name),
            "selfLink": format!("{url}/storage/v1/b/{bucket}/o/{path}"),
            "mediaLink": format!("{url}/download/storage/v1/b/{bucket}/o/{path}?generation={generation}&alt=media"),
            "name": self.name,
            "bucket": bucket,
            "generation": generation.to_string(),
            "metageneration": "1",
            "contentType": self.content_type,
            "storageClass": "STANDARD",
            "size": self.bytes.len().to_string(),
            "md5Hash": self.md5(),
            "crc32c": self.crc32c(),
            "etag": self.etag(),
            "timeCreated": self.created,
            "updated": self.created,
            "timeStorageClassUpdated": self.created,
        });
        if !self.metadata.is_empty() {
            resource["metadata"] = json!(self.metadata);
        }
        for (field, value) in [("cacheControl", &self.cache_control), ("contentEncoding", &self.content_encoding)] {
            if let Some(value) = value {
                resource[field] = json!(value);
            }
        }
        resource
    }

    pub fn etag(&self) -> String {
        STANDARD.encode(self.generation.to_be_bytes())
    }
}

#[derive(Debug, Default)]
pub struct Bucket {
    pub keeps_generations: bool,
    /// The newest first.
    objects: BTreeMap<String, Vec<StoredObject>>,
}

#[derive(Debug, Default)]
pub struct Buckets {
    buckets: HashMap<String, Bucket>,
    last_generation: i64,
    pub writes: Vec<Written>,
}

impl Buckets {
    pub fn create(&mut self, bucket: &str) -> &mut Bucket {
        self.buckets.entry(bucket.to_owned()).or_default()
    }

    pub fn has(&self, bucket: &str) -> bool {
        self.buckets.contains_key(bucket)
    }

    pub fn newest(&self, bucket: &str, name: &str) -> Option<&StoredObject> {
        self.buckets.get(bucket)?.objects.get(name)?.first()
    }

    pub fn of_generation(&self, bucket: &str, name: &str, generation: i64) -> Option<&StoredObject> {
        let mut all = self.buckets.get(bucket)?.objects.get(name)?.iter();
        all.find(|object| object.generation == generation)
    }

    /// The newest of every object, by name.
    pub fn all(&self, bucket: &str) -> impl Iterator<Item = &StoredObject> {
        self.buckets.get(bucket).into_iter().flat_map(|bucket| bucket.objects.values()).filter_map(|all| all.first())
    }

    pub fn remove(&mut self, bucket: &str, name: &str) -> bool {
        self.buckets.get_mut(bucket).is_some_and(|bucket| bucket.objects.remove(name).is_some())
    }

    /// Applies a write; its resource says what it is, and what its checksums must be.
    pub fn store(&mut self, bucket: &str, name: &str, bytes: Bytes, resource: &Value) -> Result<StoredObject, Refusal> {
        let invalid = |message: String| Refusal(StatusCode::BAD_REQUEST, "invalid", message);
        let empty = Map::new();
        let fields = resource.as_object().unwrap_or(&empty);
        if let Some(field) = fields.keys().find(|field| !WRITABLE.contains(&field.as_str())) {
            return Err(invalid(format!("the field {field} cannot be written")));
        }
        let text = |field: &str| fields.get(field).and_then(Value::as_str).map(str::to_owned);
        let micros = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_micros() as i64;
        let generation = micros.max(self.last_generation + 1);
        let mut metadata = BTreeMap::new();
        for (key, value) in fields.get("metadata").and_then(Value::as_object).into_iter().flatten() {
            let Some(value) = value.as_str() else { return Err(invalid(format!("metadata {key} is no text"))) };
            metadata.insert(key.clone(), value.to_owned());
        }
        let object = StoredObject {
            bucket: bucket.to_owned(),
            name: name.to_owned(),
            bytes,
            generation,
            content_type: text("contentType").unwrap_or_else(|| "application/octet-stream".into()),
            cache_control: text("cacheControl"),
            content_encoding: text("contentEncoding"),
            metadata,
            created: rfc3339(micros),
        };
        for (field, what, computed) in [("crc32c", "CRC32C", object.crc32c()), ("md5Hash", "MD5 hash", object.md5())] {
            if let Some(provided) = text(field).filter(|provided| *provided != computed) {
                let message = format!("Provided {what} \"{provided}\" doesn't match calculated {what} \"{computed}\".");
                return Err(invalid(message));
            }
        }
        let Some(place) = self.buckets.get_mut(bucket) else {
            let message = "The specified bucket does not exist.".to_owned();
            return Err(Refusal(StatusCode::NOT_FOUND, "notFound", message));
        };
        self.last_generation = generation;
        let generations = place.objects.entry(name.to_owned()).or_default();
        if !place.keeps_generations {
            generations.clear();
        }
        generations.insert(0, object.clone());
        Ok(object)
    }
}

/// RFC 3339 of microseconds since 1970. Days to dates: Hinnant, "chrono-compatible low-level date algorithms".
pub fn rfc3339(micros: i64) -> String {
    let (seconds, millis) = (micros / 1_000_000, micros / 1000 % 1000);
    let (days, second) = (seconds / 86400, seconds % 86400);
    let shifted = days + 719_468;
    let (era, day_of_era) = (shifted / 146_097, shifted % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 { shifted_month + 3 } else { shifted_month - 9 };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{millis:03}Z")
}

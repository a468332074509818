# ---- where ----

variable "project" {
  description = "The project's id."
  type        = string
}

variable "region" {
  description = "Region of the worker, the topics' publishers and the buckets. Keep them together: traffic within a region is free."
  type        = string
  default     = "europe-west1"
}

variable "name" {
  description = "Name of the service, and the beginning of every other name."
  type        = string
  default     = "concept-worker"

  validation {
    # The longest suffix of a service account is "-scaler", of at most 30 characters.
    condition     = can(regex("^[a-z][-a-z0-9]{0,21}[a-z0-9]$", var.name))
    error_message = "Give 2 to 23 characters: a-z, 0-9 and -, beginning with a letter."
  }
}

variable "labels" {
  description = "Labels of everything that takes labels."
  type        = map(string)
  default     = {}
}

# ---- what runs ----

variable "image" {
  description = "The image to begin with, best by digest. Afterwards cloudbuild.yaml rolls out new ones, and Terraform leaves them alone."
  type        = string
}

variable "variant" {
  description = "What takes jobs from the topic: `service` (push; scales to zero) or `worker_pool` (streaming pull; always on, no request limit)."
  type        = string
  default     = "service"

  validation {
    condition     = contains(["service", "worker_pool"], var.variant)
    error_message = "Give service or worker_pool."
  }
}

variable "batch" {
  description = "A Cloud Run job beside it, for many jobs at once: `jobs` is the gs:// address of an ndjson file. Null: none."
  type = object({
    jobs            = string
    tasks           = optional(number, 4)
    parallelism     = optional(number, 4)
    timeout_seconds = optional(number, 3600)
    max_retries     = optional(number, 3)
  })
  default = null

  validation {
    condition     = var.batch == null || can(regex("^gs://[^/]+/.+", var.batch.jobs))
    error_message = "`jobs` must be gs://bucket/object."
  }
}

variable "cpu" {
  description = "Processors of an instance: 1, 2, 4 or 8."
  type        = number
  default     = 2

  validation {
    condition     = contains([1, 2, 4, 8], var.cpu)
    error_message = "Give 1, 2, 4 or 8."
  }
}

variable "memory_mib" {
  description = "Memory of an instance in MiB. The worker finds this limit by itself and admits jobs accordingly."
  type        = number
  default     = 2048

  validation {
    # What Cloud Run gives: at least 512 MiB in the second generation, at most 4 GiB for each processor up to 2, 32 GiB.
    condition     = var.memory_mib >= 512 && var.memory_mib <= 32768
    error_message = "Give 512 to 32768."
  }
}

variable "concurrency" {
  description = "Requests that one instance gets at once. Those beyond its memory wait in its queue, and their time counts."
  type        = number
  default     = 8

  validation {
    condition     = var.concurrency >= 1 && var.concurrency <= 1000
    error_message = "Give 1 to 1000."
  }
}

variable "max_instances" {
  description = "Most instances of the service."
  type        = number
  default     = 10
}

variable "min_instances" {
  description = "Instances that are kept warm; without business_hours at any time, with them outside the hours."
  type        = number
  default     = 0
}

variable "business_hours" {
  description = "When more instances are kept warm: cron expressions of begin and end. Null: never. Before setting it back to null, run `gcloud run services update NAME --min=0` once: Terraform leaves the number to the schedule."
  type = object({
    begin         = optional(string, "0 8 * * 1-5")
    end           = optional(string, "0 19 * * 1-5")
    min_instances = optional(number, 1)
  })
  default = {}
}

variable "time_zone" {
  description = "Time zone of business_hours and warm_up_schedule."
  type        = string
  default     = "Europe/Berlin"
}

variable "warm_up_schedule" {
  description = "When Cloud Scheduler calls /warmup (one tiny job, end to end). Null: never."
  type        = string
  default     = "*/15 8-18 * * 1-5"
}

variable "pool_instances" {
  description = "Instances of the worker pool, which does not scale by itself."
  type        = number
  default     = 1
}

variable "request_timeout_seconds" {
  description = "Time limit of a request. Not below the ack deadline of 600 s, or Cloud Run would cut off what Pub/Sub still waits for."
  type        = number
  default     = 660

  validation {
    condition     = var.request_timeout_seconds >= 600 && var.request_timeout_seconds <= 3600
    error_message = "Give 600 to 3600."
  }
}

variable "settings" {
  description = "More CONCEPT_* (and OTEL_*) variables of the worker; they go before those that this module sets. docs/configuration.md has them all."
  type        = map(string)
  default     = {}

  validation {
    condition     = alltrue([for name in keys(var.settings) : can(regex("^(CONCEPT|OTEL)_[A-Z0-9_]+$", name))])
    error_message = "Names begin with CONCEPT_ or OTEL_."
  }
}

variable "secrets" {
  description = "CONCEPT_* variables whose values are secrets, such as CONCEPT_REMOTE_TOKEN and CONCEPT_REDIS_URL, each with the name of the secret in this project's Secret Manager. The worker may read these secrets; an instance takes their newest versions when it starts."
  type        = map(string)
  default     = {}

  validation {
    condition     = alltrue([for name, secret in var.secrets : can(regex("^CONCEPT_[A-Z0-9_]+$", name)) && can(regex("^[A-Za-z0-9_-]{1,255}$", secret))])
    error_message = "Give names that begin with CONCEPT_, and names of secrets: letters, digits, - and _."
  }
}

variable "network" {
  description = "Network, and subnetwork of the region, through which the worker reaches private addresses, such as Memorystore's. Null: none."
  type = object({
    network    = string
    subnetwork = string
  })
  default = null
}

variable "ingress" {
  description = "Who may reach the service's address at all: INGRESS_TRAFFIC_ALL or INGRESS_TRAFFIC_INTERNAL_ONLY (Pub/Sub and Scheduler of the same project still do). Callers need a token either way."
  type        = string
  default     = "INGRESS_TRAFFIC_ALL"
}

variable "direct_callers" {
  description = "E-mail addresses of service accounts that may call /v1/render and the other routes."
  type        = list(string)
  default     = []
}

variable "cloud_build" {
  description = "Whether an account and a bucket for cloudbuild.yaml are made."
  type        = bool
  default     = true
}

variable "deletion_protection" {
  description = "Whether Terraform refuses to delete service, worker pool and job."
  type        = bool
  default     = true
}

# ---- messages ----

variable "publishers" {
  description = "Members that may publish jobs, such as serviceAccount:app@project.iam.gserviceaccount.com."
  type        = list(string)
  default     = []
}

variable "progress_topic" {
  description = "Whether there is a topic for news of running jobs."
  type        = bool
  default     = false
}

variable "max_delivery_attempts" {
  description = "Deliveries after which a message goes to the dead letters. The worker knows the number and records the job as failed on the last one."
  type        = number
  default     = 5

  validation {
    condition     = var.max_delivery_attempts >= 5 && var.max_delivery_attempts <= 100
    error_message = "Pub/Sub takes 5 to 100."
  }
}

# ---- the model for background removal ----

variable "model" {
  description = "The model: its preset's `name` (inspyrenet, birefnet, isnet, u2net …), the `object` in the model bucket with its ONNX file, and that file's SHA-256. Null: none, the worker removes backgrounds by its own means. Needs an image with ONNX Runtime."
  type = object({
    name   = string
    object = string
    sha256 = optional(string)
  })
  default = null

  validation {
    condition     = var.model == null || can(regex("^[A-Za-z0-9_.-][A-Za-z0-9_./-]*\\.onnx$", var.model.object))
    error_message = "`object` is a name in the model bucket that ends with .onnx, such as inspyrenet-1024.onnx."
  }
  validation {
    condition     = var.model == null || try(var.model.sha256, null) == null || can(regex("^[0-9a-f]{64}$", var.model.sha256))
    error_message = "`sha256` has 64 digits, 0-9 and a-f."
  }
}

variable "model_bucket" {
  description = "Bucket of the model. Null: one is made, named PROJECT-NAME-models, where there is a model."
  type        = string
  default     = null
}

variable "gpu" {
  description = "An NVIDIA L4 for each instance, with at least 4 processors and 16 GiB, which Cloud Run charges as long as the instance lives. Null: none. Needs an image of Dockerfile.gpu, a model, a region that has L4s, and quota for max_instances of them: a project gets 3 without asking."
  type = object({
    max_instances    = optional(number, 3)
    zonal_redundancy = optional(bool, false)
  })
  default = null
}

# ---- buckets ----

variable "base_bucket" {
  description = "Bucket of the base pictures. Null: one is made, named PROJECT-NAME-bases."
  type        = string
  default     = null
}

variable "palette_bucket" {
  description = "Bucket of the variations. Null: one is made, named PROJECT-NAME-variations."
  type        = string
  default     = null
}

variable "base_days" {
  description = "Days after which base pictures are deleted. 0: never."
  type        = number
  default     = 0
}

variable "variation_days" {
  description = "Days after which variations, manifests and records of failures are deleted. 0: never."
  type        = number
  default     = 90
}

variable "default_job" {
  description = "A job as JSON without `source`: every new picture in the base bucket starts it. Null: pictures start nothing. Needs a base bucket that this module makes."
  type        = string
  default     = null

  validation {
    condition     = var.default_job == null || can(jsondecode(var.default_job))
    error_message = "Give JSON."
  }
}

variable "signed_link_days" {
  description = "Days for which links in manifests are signed, 0 to 7. Above 0 the worker may sign in its own name."
  type        = number
  default     = 0

  validation {
    condition     = var.signed_link_days >= 0 && var.signed_link_days <= 7
    error_message = "Cloud Storage signs for at most 7 days."
  }
}

variable "cdn_domain" {
  description = "Host name under which Cloud CDN serves the palette bucket. Null: no CDN. With it, ANYONE who knows an object's name can read it."
  type        = string
  default     = null

  validation {
    condition     = var.cdn_domain == null || can(regex("^([a-z0-9-]+\\.)+[a-z]{2,}$", var.cdn_domain))
    error_message = "Give a host name such as images.example.com."
  }
}

# ---- sight ----

variable "notification_channels" {
  description = "Notification channels of the alerts, as projects/P/notificationChannels/N."
  type        = list(string)
  default     = []
}

variable "alert_limits" {
  description = "When alerts fire. A negative limit: that alert is not made."
  type = object({
    cold_starts_per_hour     = optional(number, 20)
    latency_p95_seconds      = optional(number, 60)
    failed_requests_share    = optional(number, 0.05)
    failed_jobs_per_hour     = optional(number, 10)
    cache_hit_share          = optional(number, -1)
    memory_share             = optional(number, 0.9)
    memory_pressure_per_hour = optional(number, 20)
    oldest_message_seconds   = optional(number, 1800)
    slow_jobs_per_hour       = optional(number, 10)
    conflicts_per_hour       = optional(number, 0)
    auth_refusals_per_hour   = optional(number, 20)
  })
  default = {}
}

variable "runbook_url" {
  description = "Where docs/operations.md can be read; alerts link to it."
  type        = string
  default     = "docs/operations.md"
}

# What all other files share: the project, the worker's settings, the services that are switched on, the images' repository.

data "google_project" "this" {
  project_id = var.project

  depends_on = [google_project_service.apis]
}

locals {
  service     = var.variant == "service"
  worker_pool = var.variant == "worker_pool"
  labels      = merge({ app = var.name }, var.labels)

  # The address that Cloud Run gives a service is known before the service is, so that the service's own settings can name
  # it without a circle. It is the audience of every token.
  service_url = "https://${var.name}-${data.google_project.this.number}.${var.region}.run.app"

  # Google's own accounts, which act for this project.
  pubsub_agent = "serviceAccount:service-${data.google_project.this.number}@gcp-sa-pubsub.iam.gserviceaccount.com"

  base_bucket    = var.base_bucket == null ? google_storage_bucket.bases[0].name : var.base_bucket
  palette_bucket = var.palette_bucket == null ? google_storage_bucket.variations[0].name : var.palette_bucket

  settings_common = {
    # Cloud Run does not say which project it is; log lines name their trace by it.
    GOOGLE_CLOUD_PROJECT                = var.project
    CONCEPT_STORAGE                     = "gcs"
    CONCEPT_STORAGE_BUCKET_CONCEPT      = local.base_bucket
    CONCEPT_STORAGE_BUCKET_PALETTE      = local.palette_bucket
    CONCEPT_RESULT_TOPIC                = google_pubsub_topic.results.id
    CONCEPT_FAILED_TOPIC                = google_pubsub_topic.failed.id
    CONCEPT_ACK_DEADLINE_SECONDS        = "600"
    CONCEPT_MAX_DELIVERY_ATTEMPTS       = tostring(var.max_delivery_attempts)
    CONCEPT_MEMORY_CLEANUP_THRESHOLD_MB = tostring(floor(local.memory_mib * 3 / 4))
    CONCEPT_SIGNED_LINK_DAYS            = tostring(var.signed_link_days)
  }
  settings_cdn = var.cdn_domain == null ? {} : { CONCEPT_PUBLIC_BASE_URL = "https://${var.cdn_domain}" }
  settings_bucket_events = var.default_job == null ? {} : {
    CONCEPT_DEFAULT_JOB = var.default_job
  }
  # Cloud Run has checked a token's signature and audience before a request arrives, and removed the signature.
  settings_push = {
    CONCEPT_PUSH_AUTH            = "platform"
    CONCEPT_PUSH_AUDIENCE        = local.service_url
    CONCEPT_PUSH_SERVICE_ACCOUNT = join(",", local.callers)
  }
  settings_progress = var.progress_topic ? { CONCEPT_PROGRESS_TOPIC = google_pubsub_topic.progress[0].id } : {}
  settings_all      = merge(local.settings_common, local.settings_cdn, local.settings_bucket_events, local.settings_progress, local.settings_model, var.settings)
  # A variable has one value: where a secret holds it, that one.
  settings = { for name, value in local.settings_all : name => value if !contains(keys(var.secrets), name) }
  # At most one, as dynamic blocks want it.
  networks = var.network == null ? [] : [var.network]
}

resource "google_project_service" "apis" {
  for_each = toset(concat([
    "artifactregistry.googleapis.com",
    "cloudscheduler.googleapis.com",
    "iam.googleapis.com",
    "iamcredentials.googleapis.com",
    "logging.googleapis.com",
    "monitoring.googleapis.com",
    "pubsub.googleapis.com",
    "run.googleapis.com",
    "storage.googleapis.com",
    ],
    var.cloud_build ? ["cloudbuild.googleapis.com"] : [],
    var.cdn_domain == null ? [] : ["compute.googleapis.com"],
    length(var.secrets) == 0 ? [] : ["secretmanager.googleapis.com"],
  ))

  project            = var.project
  service            = each.value
  disable_on_destroy = false
}

resource "google_artifact_registry_repository" "images" {
  location      = var.region
  repository_id = var.name
  format        = "DOCKER"
  labels        = local.labels

  # The newest images stay, for going back; the rest goes after a month.
  cleanup_policies {
    id     = "newest"
    action = "KEEP"
    most_recent_versions {
      keep_count = 20
    }
  }
  cleanup_policies {
    id     = "old"
    action = "DELETE"
    condition {
      older_than = "2592000s"
    }
  }

  depends_on = [google_project_service.apis]
}

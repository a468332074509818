# One account for each thing that acts, and to each only what it does.

resource "google_service_account" "worker" {
  account_id   = "${var.name}-run"
  display_name = "${var.name}: the worker"

  depends_on = [google_project_service.apis]
}

resource "google_service_account" "push" {
  count = local.service ? 1 : 0

  account_id   = "${var.name}-push"
  display_name = "${var.name}: in whose name Pub/Sub calls"

  depends_on = [google_project_service.apis]
}

resource "google_service_account" "scheduler" {
  count = local.service ? 1 : 0

  account_id   = "${var.name}-warm"
  display_name = "${var.name}: in whose name Cloud Scheduler warms up"

  depends_on = [google_project_service.apis]
}

resource "google_service_account" "scaler" {
  count = local.service && var.business_hours != null ? 1 : 0

  account_id   = "${var.name}-scaler"
  display_name = "${var.name}: changes the service's number of warm instances"

  depends_on = [google_project_service.apis]
}

locals {
  worker = google_service_account.worker.member

  callers = concat(
    google_service_account.push[*].email,
    google_service_account.scheduler[*].email,
    var.direct_callers,
  )
}

# ---- the worker ----

resource "google_storage_bucket_iam_member" "worker_reads_bases" {
  bucket = local.base_bucket
  role   = "roles/storage.objectViewer"
  member = local.worker
}

# Create, read, list, replace and remove under a generation match: failed manifests, leases and notes of steps are replaced, which
# Cloud Storage counts as deleting, and the latter two are removed in the end. No rights on the bucket itself.
resource "google_storage_bucket_iam_member" "worker_writes_variations" {
  bucket = local.palette_bucket
  role   = "roles/storage.objectUser"
  member = local.worker
}

resource "google_pubsub_topic_iam_member" "worker_publishes" {
  for_each = merge(
    {
      results = google_pubsub_topic.results.name
      failed  = google_pubsub_topic.failed.name
    },
    var.progress_topic ? { progress = google_pubsub_topic.progress[0].name } : {},
  )

  topic  = each.value
  role   = "roles/pubsub.publisher"
  member = local.worker
}

resource "google_pubsub_subscription_iam_member" "worker_pulls" {
  count = local.worker_pool ? 1 : 0

  subscription = google_pubsub_subscription.pull[0].name
  role         = "roles/pubsub.subscriber"
  member       = local.worker
}

resource "google_secret_manager_secret_iam_member" "worker_reads_secrets" {
  for_each = toset(values(var.secrets))

  project   = var.project
  secret_id = each.value
  role      = "roles/secretmanager.secretAccessor"
  member    = local.worker

  depends_on = [google_project_service.apis]
}

# Signing links without a key file means asking IAM to sign in one's own name.
resource "google_service_account_iam_member" "worker_signs" {
  count = var.signed_link_days > 0 ? 1 : 0

  service_account_id = google_service_account.worker.name
  role               = "roles/iam.serviceAccountTokenCreator"
  member             = local.worker
}

# ---- who may call the service ----

resource "google_cloud_run_v2_service_iam_member" "callers" {
  for_each = local.service ? merge(
    { push = google_service_account.push[0].member, scheduler = google_service_account.scheduler[0].member },
    { for email in var.direct_callers : email => "serviceAccount:${email}" },
  ) : {}

  name     = google_cloud_run_v2_service.worker[0].name
  location = var.region
  role     = "roles/run.invoker"
  member   = each.value
}

resource "google_service_account_iam_member" "pubsub_makes_tokens" {
  count = local.service ? 1 : 0

  service_account_id = google_service_account.push[0].name
  role               = "roles/iam.serviceAccountOpenIdTokenCreator"
  member             = local.pubsub_agent
}

# ---- who may change the number of warm instances ----

resource "google_cloud_run_v2_service_iam_member" "scaler" {
  count = length(google_service_account.scaler)

  name     = google_cloud_run_v2_service.worker[0].name
  location = var.region
  role     = "roles/run.developer"
  member   = google_service_account.scaler[0].member
}

# Cloud Run lets only those change a service who may act as the account that it runs as.
resource "google_service_account_iam_member" "scaler_acts_as_worker" {
  count = length(google_service_account.scaler)

  service_account_id = google_service_account.worker.name
  role               = "roles/iam.serviceAccountUser"
  member             = google_service_account.scaler[0].member
}

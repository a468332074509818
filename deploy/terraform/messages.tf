# Topics and subscriptions: jobs and their dead letters, results, failures, progress.

resource "google_pubsub_topic" "jobs" {
  name   = "${var.name}-jobs"
  labels = local.labels
  # Jobs can be played again for a day, whatever became of them (docs/operations.md, "Playing jobs again").
  message_retention_duration = "86400s"

  depends_on = [google_project_service.apis]
}

resource "google_pubsub_topic" "dead_letters" {
  name   = "${var.name}-dead-letters"
  labels = local.labels

  depends_on = [google_project_service.apis]
}

# Manifests of finished jobs.
resource "google_pubsub_topic" "results" {
  name   = "${var.name}-results"
  labels = local.labels

  depends_on = [google_project_service.apis]
}

# Records of jobs that failed for good.
resource "google_pubsub_topic" "failed" {
  name   = "${var.name}-failed"
  labels = local.labels

  depends_on = [google_project_service.apis]
}

# News of running jobs. A subscription gets those of one job in order where it has message ordering.
resource "google_pubsub_topic" "progress" {
  count = var.progress_topic ? 1 : 0

  name   = "${var.name}-progress"
  labels = local.labels

  depends_on = [google_project_service.apis]
}

resource "google_pubsub_topic_iam_member" "publishers" {
  for_each = toset(var.publishers)

  topic  = google_pubsub_topic.jobs.name
  role   = "roles/pubsub.publisher"
  member = each.value
}

resource "google_pubsub_subscription" "push" {
  count = local.service ? 1 : 0

  name                       = "${var.name}-push"
  topic                      = google_pubsub_topic.jobs.id
  ack_deadline_seconds       = 600
  message_retention_duration = "604800s"
  labels                     = local.labels

  push_config {
    push_endpoint = "${local.service_url}/pubsub/push"
    oidc_token {
      service_account_email = google_service_account.push[0].email
      audience              = local.service_url
    }
  }

  retry_policy {
    minimum_backoff = "10s"
    maximum_backoff = "600s"
  }

  dead_letter_policy {
    dead_letter_topic     = google_pubsub_topic.dead_letters.id
    max_delivery_attempts = var.max_delivery_attempts
  }

  # Never deleted for want of traffic.
  expiration_policy {
    ttl = ""
  }

  # A message pushed before these rights exist would count as a failed delivery.
  depends_on = [
    google_cloud_run_v2_service_iam_member.callers,
    google_service_account_iam_member.pubsub_makes_tokens,
    google_pubsub_topic_iam_member.pubsub_buries,
  ]
}

resource "google_pubsub_subscription" "pull" {
  count = local.worker_pool ? 1 : 0

  name                       = "${var.name}-pull"
  topic                      = google_pubsub_topic.jobs.id
  ack_deadline_seconds       = 600
  message_retention_duration = "604800s"
  labels                     = local.labels

  retry_policy {
    minimum_backoff = "10s"
    maximum_backoff = "600s"
  }

  dead_letter_policy {
    dead_letter_topic     = google_pubsub_topic.dead_letters.id
    max_delivery_attempts = var.max_delivery_attempts
  }

  expiration_policy {
    ttl = ""
  }

  depends_on = [google_pubsub_topic_iam_member.pubsub_buries]
}

locals {
  subscription = local.service ? google_pubsub_subscription.push[0] : google_pubsub_subscription.pull[0]
}

# ---- dead letters: Pub/Sub's own account moves them, and needs both rights ----

resource "google_pubsub_topic_iam_member" "pubsub_buries" {
  topic  = google_pubsub_topic.dead_letters.name
  role   = "roles/pubsub.publisher"
  member = local.pubsub_agent
}

resource "google_pubsub_subscription_iam_member" "pubsub_takes" {
  subscription = local.subscription.name
  role         = "roles/pubsub.subscriber"
  member       = local.pubsub_agent
}

# Without a subscription a dead letter would be gone. Nobody reads these two but a person.
resource "google_pubsub_subscription" "kept" {
  for_each = {
    dead-letters = google_pubsub_topic.dead_letters.id
    failed       = google_pubsub_topic.failed.id
  }

  name                       = "${var.name}-${each.key}-kept"
  topic                      = each.value
  ack_deadline_seconds       = 60
  message_retention_duration = "2678400s"
  labels                     = local.labels

  expiration_policy {
    ttl = ""
  }
}
